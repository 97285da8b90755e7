package witness

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Witness is a vote-only node: an open data directory, and while Run runs, a server.
type Witness struct {
	config Config
	logger *slog.Logger
	unlock func() error
	keeper *keeper
	logs   []*Log // until the worker owns them

	inbox  *inbox
	worker *worker
	peers  *transport.Peers

	ready   chan struct{} // closed once it is admitted and serves
	broken  chan struct{} // closed once failure is set
	stopped chan struct{} // closed when the worker has ended

	breakOnce sync.Once
	failure   error // why the witness can't go on; read it after broken is closed

	refusals transport.Refusals

	tls          *transport.TLS
	certificates atomic.Pointer[transport.Certificates] // of ClusterTLS; nil without

	mu      sync.Mutex // guards what follows
	address string     // where peers reach this node
	members nexusraft.Membership
	started bool
}

// Open opens a data directory. One that is empty gets an identity if c.Join names members
// to join; otherwise Open returns ErrNotFounded and creates nothing. It returns ErrRefused
// for a directory that holds something else or is open in another process, ErrFenced for
// one whose witness was removed, or refused as a copy, and ErrCorrupt if it can't be read.
// Run or Close gives the directory back.
func Open(c Config) (*Witness, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("open witness: %w", err)
	}
	if err := checkDir(c.FS, c.Dir, len(c.Join) > 0); err != nil {
		return nil, err
	}
	if err := c.FS.MkdirAll(c.Dir); err != nil {
		return nil, fmt.Errorf("create data directory: %w", err)
	}
	unlock, err := lock(c.FS, c.Dir)
	if err != nil {
		return nil, err
	}
	w := &Witness{
		config: c, logger: c.Logger, unlock: unlock, inbox: newInbox(),
		ready: make(chan struct{}), broken: make(chan struct{}), stopped: make(chan struct{}),
	}
	w.worker = &worker{inbox: w.inbox, zones: make(map[nexusraft.ZoneID]*hosted)}
	if err := w.load(); err != nil {
		return nil, errors.Join(err, unlock())
	}
	return w, nil
}

// checkDir refuses, before anything in dir is touched, a directory without an identity
// unless the witness is about to join, and one that holds something else.
func checkDir(f FS, dir string, joining bool) error {
	names, err := f.Names(dir)
	if errors.Is(err, errNotDir) {
		return fmt.Errorf("%w: %s is not a directory", nexusraft.ErrRefused, dir)
	}
	if err != nil && !isMissing(err) {
		return fmt.Errorf("read data directory: %w", err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "MANIFEST-") || strings.HasPrefix(name, "marker.") {
			return fmt.Errorf("%w: %s holds the store of a member (%s): give it to nexus-raft serve, and the witness a directory of its own",
				nexusraft.ErrRefused, dir, name)
		}
	}
	if slices.Contains(names, identityName+".a") {
		return nil
	}
	for _, name := range names {
		if name != lockName && name != "lost+found" {
			return fmt.Errorf("%w: %s is not empty and holds no witness (it has %q); give an empty directory or one that is absent", nexusraft.ErrRefused, dir, name)
		}
	}
	if !joining {
		return errNoCluster(dir)
	}
	return nil
}

func errNoCluster(dir string) error {
	return fmt.Errorf("no cluster in %s: give --join ADDRESS, the address of a member (%w)", dir, nexusraft.ErrNotFounded)
}

// load reads the identity and the logs of the zones that it names.
func (w *Witness) load() (err error) {
	c := w.config
	w.keeper, err = openIdentity(c.FS, c.Dir, c.Name, len(c.Join) > 0)
	if isMissing(err) {
		return errNoCluster(c.Dir)
	}
	if err != nil {
		return err
	}
	id := w.keeper.identity()
	if id.Cluster == 0 && len(c.Join) == 0 {
		return errNoCluster(c.Dir)
	}
	if err := w.openSecurity(id); err != nil {
		return fmt.Errorf("open witness: %w", err)
	}
	for _, z := range id.Zones {
		log, err := OpenLog(c.FS, c.Dir, z)
		if isMissing(err) {
			err = fmt.Errorf("%w: %s: the log of zone %v is gone; what it has voted is unknown: remove this witness and let a new one join", nexusraft.ErrCorrupt, c.Dir, z)
		}
		if err != nil {
			return err
		}
		if o := log.Origin(); o.Cluster != id.Cluster || o.Node != id.Node {
			return fmt.Errorf("%w: %s: the log of zone %v belongs to node %v of cluster %v, the directory to node %v of cluster %v",
				nexusraft.ErrCorrupt, c.Dir, z, o.Node, o.Cluster, id.Node, id.Cluster)
		}
		if log.Membership().IsRemovedNode(id.Node) {
			return fmt.Errorf("open witness: %w", w.errRemoved(z))
		}
		w.logs = append(w.logs, log)
		w.members = log.Membership() // of the one zone that a witness is in
	}
	return nil
}

// Close gives back the directory of a witness that was never run.
func (w *Witness) Close() error {
	if !w.start() {
		return nil
	}
	return w.unlock()
}

// start reports whether this is the first call.
func (w *Witness) start() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	first := !w.started
	w.started = true
	return first
}

// Ready is closed once the witness is admitted to its cluster and serves.
func (w *Witness) Ready() <-chan struct{} { return w.ready }

// Run serves on lis, which it closes, and joins the cluster if it has not. It returns nil
// after ctx has ended and everything has stopped, and an error if it was not admitted or
// can't go on: after a failed write nothing leaves any more (I3, I9). It can be called once.
func (w *Witness) Run(ctx context.Context, lis net.Listener) (err error) {
	if !w.start() {
		return errors.Join(fmt.Errorf("run witness: %w", nexusraft.ErrClosed), lis.Close())
	}
	defer func() { err = errors.Join(err, w.unlock()) }()
	w.setSelf(lis.Addr())
	w.peers = transport.NewPeers(w.identity, transport.PeersOptions{
		Logger: w.logger, VoteTimeout: w.config.electionTimeout(), Accept: w.accepted,
		OnFenced: w.fencedBy, TLS: w.tls,
	})
	defer w.peers.Close()

	server, checks := w.newServer()
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	stopWorker := make(chan struct{})
	go w.work(stopWorker)

	err = w.serve(ctx, checks, served)
	checks.Shutdown()
	close(stopWorker)
	<-w.stopped
	server.Stop() // not in the graceful way: peers never end their streams
	select {
	case <-w.broken:
		return errors.Join(err, fmt.Errorf("witness %s stopped: %w", w.config.Dir, w.failure))
	default:
		return err
	}
}

// work is the worker's goroutine.
func (w *Witness) work(stop <-chan struct{}) {
	defer close(w.stopped)
	ticks := w.config.ticks
	if ticks == nil {
		ticker := time.NewTicker(w.config.TickInterval)
		defer ticker.Stop()
		ticks = ticker.C
	}
	if err := w.worker.run(ticks, stop); err != nil {
		w.stop(err)
	}
}

func (w *Witness) newServer() (*grpc.Server, *health.Server) {
	server := grpc.NewServer(append(w.tls.ServerOptions(), transport.GuardOptions()...)...)
	transport.NewServer(w.identity, handler{w}, nil).Register(server)
	checks := health.NewServer()
	checks.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(server, checks)
	reflection.Register(server)
	return server, checks
}

// serve joins if it must, announces that the witness is ready, and waits for the end.
func (w *Witness) serve(ctx context.Context, checks *health.Server, served <-chan error) error {
	joinCtx, cancel := context.WithCancel(ctx)
	admitted := make(chan error, 1)
	go func() { admitted <- w.admit(joinCtx) }()
	var hints sync.WaitGroup
	defer hints.Wait()
	defer cancel()
	finish := func(err error) error {
		cancel()
		if admitted != nil {
			<-admitted
		}
		return err
	}
	for {
		select {
		case err := <-admitted:
			admitted = nil
			if err != nil {
				return ignoreEnd(ctx, err)
			}
			checks.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
			self := w.identity()
			w.logger.Info("ready", "node", self.Node, "name", self.Name, "addr", self.Address, "cluster", self.Cluster)
			close(w.ready)
			hints.Go(func() { w.followHints(joinCtx) })
			hints.Go(func() { w.keepCertificate(joinCtx) })
		case <-w.broken:
			return finish(nil) // Run says why
		case err := <-served:
			return finish(fmt.Errorf("serve: %w", err))
		case <-ctx.Done():
			w.logger.Info("stopping in order")
			return finish(nil)
		}
	}
}

// ignoreEnd makes an error that only says that ctx has ended none.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// stop ends Run with an error; the first one counts.
func (w *Witness) stop(err error) {
	w.breakOnce.Do(func() {
		w.failure = err
		close(w.broken)
	})
}

func (w *Witness) setSelf(lis net.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.address = w.config.Advertise; w.address == "" {
		w.address = lis.String()
	}
}

// identity is what the witness says of itself in every handshake.
func (w *Witness) identity() transport.Identity {
	id := w.keeper.identity()
	w.mu.Lock()
	defer w.mu.Unlock()
	return transport.Identity{
		Cluster: id.Cluster, Node: id.Node, Incarnation: id.Incarnation, Boot: id.Boots[0], Earlier: id.Boots[1:],
		Address: w.address, Name: id.Name, Witness: true,
	}
}

// connect makes the senders know the node of every replica of a zone, and forget those that
// were removed.
func (w *Witness) connect(members nexusraft.Membership) {
	known := w.keeper.identity()
	w.mu.Lock()
	w.members = members
	w.mu.Unlock()
	for _, t := range members.Removed {
		if _, back := members.Node(t.Node); !back {
			w.peers.Remove(t.Node)
		}
	}
	for _, m := range members.Members {
		if m.Node == known.Node {
			continue
		}
		w.setAddress(m.Node, known.addressOf(m.Node, m.Address))
	}
}

func (w *Witness) setAddress(node nexusraft.NodeID, address string) {
	if address != "" {
		w.peers.SetAddress(node, address)
	}
}

// followHints looks for peers at the addresses of Config.Join while some are missing:
// nodes that have all moved know no other way to each other.
func (w *Witness) followHints(ctx context.Context) {
	if len(w.config.Join) == 0 {
		return
	}
	w.peers.Find(ctx, w.config.Join, func(node nexusraft.NodeID, address string) {
		w.logger.Debug("peer found by a hint", "peer", node, "addr", address)
		w.setAddress(node, address)
	})
}

// meet is told what every peer says of itself, whoever of the two has called: it remembers
// lives and addresses, and refuses what can't be this cluster's node as it was last seen
// (I5), and a node that was removed (I12).
func (w *Witness) meet(peer transport.Identity) error {
	if w.keeper.identity().Cluster == 0 {
		return nil
	}
	if w.wasRemoved(peer.Node) {
		return fmt.Errorf("%w: node %v was removed from the cluster", nexusraft.ErrFenced, peer.Node)
	}
	err, fatal := w.keeper.met(peer)
	if fatal {
		w.stop(err)
		return nexusraft.ErrClosed
	}
	return err
}

func (w *Witness) wasRemoved(node nexusraft.NodeID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.members.IsRemovedNode(node)
}

// fencedBy is told that a peer refuses this witness for good. A peer that can't be who it
// says is not believed, and one alone ends the witness only if no quorum is left without it.
func (w *Witness) fencedBy(peer transport.Identity, err error) {
	if refused := w.meet(peer); refused != nil {
		w.logger.Warn("a refusal is not believed", "peer", peer.Node, "err", refused)
		return
	}
	why, news := w.refusals.Add(peer.Node, err)
	if news {
		w.logger.Error("refused for good", "peer", peer.Node, "err", why)
	}
	w.mu.Lock()
	members := w.members
	w.mu.Unlock()
	if !w.refusals.Final(members) {
		return
	}
	w.stop(fmt.Errorf("%w: peer %v refuses this node for good: %w: %s", nexusraft.ErrFenced, peer.Node, why, w.wayBack()))
}

// accepted is told what a peer says of itself that accepts this witness.
func (w *Witness) accepted(peer transport.Identity) error {
	w.refusals.Remove(peer.Node)
	return w.meet(peer)
}

func (w *Witness) wayBack() string {
	return fmt.Sprintf("clear %s and join as a new node", w.config.Dir)
}

func (w *Witness) errRemoved(z nexusraft.ZoneID) error {
	return fmt.Errorf("%w: witness %v was removed from zone %v: %s", nexusraft.ErrFenced, w.keeper.identity().Node, z, w.wayBack())
}
