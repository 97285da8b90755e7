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
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Witness is a vote-only node: an open data directory, and while Run runs, a server.
type Witness struct {
	config Config
	logger *slog.Logger

	unlock  func() error
	keeper  *keeper
	journal *journal
	logs    []*Log        // until the worker owns them
	taking  chan struct{} // has room for one: it takes over which zones there are

	worker  *worker
	peering *peering.Peering
	peers   *transport.Peers

	ready   chan struct{} // closed once it is admitted and serves
	broken  chan struct{} // closed once failure is set
	stopped chan struct{} // closed when the worker has ended

	breakOnce sync.Once
	failure   error // why the witness can't go on; read it after broken is closed

	server   *transport.Server // set before the worker starts
	limits   *mtls.Limits
	counters budget.Counters

	mu      sync.Mutex // guards what follows
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
	shares, err := budget.Share(budget.Descriptors(), budget.ConnectionsOfWitness, false)
	if err != nil {
		return nil, fmt.Errorf("open witness: %w", err)
	}
	unlock, err := lock(c.FS, c.Dir)
	if err != nil {
		return nil, err
	}
	w := &Witness{
		config: c, logger: c.Logger, unlock: unlock,
		ready: make(chan struct{}), broken: make(chan struct{}), stopped: make(chan struct{}),
		taking: make(chan struct{}, 1),
	}
	w.limits = mtls.NewLimits(mtls.LimitOptions{
		Connections: shares.Connections, Counters: &w.counters,
		Identify: mtls.IdentifyByCertificate,
	})
	if err := w.load(); err != nil {
		return nil, errors.Join(err, w.release())
	}
	w.worker = newWorker(c, w.journal, w.peering.Self().Incarnation, w.peering.Minor)
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
			return fmt.Errorf("%w: %s holds the store of a member (%s): give it to nexus-raft serve, and the witness a "+
				"directory of its own",
				nexusraft.ErrRefused, dir, name)
		}
	}
	if slices.Contains(names, identityName+".a") {
		return nil
	}
	for _, name := range names {
		if name != lockName && name != "lost+found" {
			return fmt.Errorf("%w: %s is not empty and holds no witness (it has %q); give an empty directory or one that is "+
				"absent", nexusraft.ErrRefused, dir, name)
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
	if w.keeper, _, err = openKeeper(c.FS, c.Dir); err != nil {
		return err
	}
	if err := w.openJournal(); err != nil {
		return err
	}
	w.peering, err = peering.Open(peering.Options{
		Dir: c.Dir, Name: c.Name, Advertise: c.Advertise, Join: c.Join, JoinTimeout: c.JoinTimeout,
		Role: nexusraft.RoleWitness, MaxPeers: maxPeers,
		TLS: c.TLS, ClusterTLS: c.ClusterTLS, JoinToken: c.JoinToken, Insecure: c.Insecure,
		TickInterval: c.TickInterval, Clock: c.Clock, Logger: c.Logger,
		Store: store{w.keeper, w}, Members: w.learnt, Fail: w.stop,
	})
	if errors.Is(err, nexusraft.ErrNotFounded) {
		return errNoCluster(c.Dir)
	}
	if err != nil {
		return err
	}
	if err := w.peering.Secure(); err != nil {
		return fmt.Errorf("open witness: %w", err)
	}
	return w.loadLogs()
}

// loadLogs opens the logs of the zones that the identity names.
func (w *Witness) loadLogs() error {
	c, id := w.config, w.keeper.stored()
	for _, z := range slices.Concat(id.Zones, id.Hosted) {
		log, err := w.journal.open(z)
		if slices.Contains(id.Zones, z) {
			log, err = openLog(c.FS, c.Dir, z, readSlots)
		}
		if isMissing(err) {
			err = errLogGone(c.Dir, z)
		}
		if err != nil {
			return err
		}
		if o := log.Origin(); o.Cluster != id.Cluster || o.Node != id.Node {
			return fmt.Errorf("%w: %s: the log of zone %v belongs to node %v of cluster %v, the directory to node %v of "+
				"cluster %v",
				nexusraft.ErrCorrupt, c.Dir, z, o.Node, o.Cluster, id.Node, id.Cluster)
		}
		if z == nexusraft.RootZone {
			if log.Membership().IsRemovedNode(id.Node) {
				return fmt.Errorf("open witness: %w", w.errRemoved(z))
			}
			w.members = log.Membership()
		}
		w.logs = append(w.logs, log)
	}
	if len(w.logs) == 0 {
		return nil
	}
	if err := c.FS.SyncDir(c.Dir); err != nil { // once for all that were opened
		return fmt.Errorf("sync directory %s: %w", c.Dir, err)
	}
	return nil
}

// Close gives back the directory of a witness that was never run.
func (w *Witness) Close() error {
	if !w.claim() {
		return nil
	}
	return w.release()
}

// release gives the directory back.
func (w *Witness) release() error {
	var err error
	if w.journal != nil {
		err = w.journal.Close()
	}
	return errors.Join(err, w.unlock())
}

// claim reports whether this is the first call.
func (w *Witness) claim() bool {
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
	if !w.claim() {
		return errors.Join(fmt.Errorf("run witness: %w", nexusraft.ErrClosed), lis.Close())
	}
	defer func() { err = errors.Join(err, w.release()) }()
	w.peering.ListenOn(lis.Addr())
	w.peers = w.peering.Dial(transport.PeersOptions{
		VoteTimeout: time.Duration(w.config.ElectionTicks) * w.config.TickInterval, // an election timeout
	})
	w.worker.out.Network = w.peers
	defer w.peers.Close()

	server, checks := w.newServer()
	served := make(chan error, 1)
	go func() { served <- server.Serve(w.limits.Listen(lis)) }()
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
	if err := w.worker.loop.Run(ticks, stop); err != nil {
		w.stop(err)
	}
}

func (w *Witness) newServer() (*grpc.Server, *health.Server) {
	options := append(transport.LimitedServerOptions(w.limits, w.peering.TLS()), mtls.GuardOptions()...)
	options = append(options, grpc.WaitForHandlers(true)) // they may write to the directory, which Run gives back
	server := grpc.NewServer(options...)
	w.server = transport.NewServer(w.peering.Introduce, w.handlers())
	w.peering.Serve(w.server)
	w.server.Register(server)
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
	go func() { admitted <- w.join(joinCtx) }()
	defer cancel()
	stopTending := func() {}
	defer func() { stopTending() }()
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
			self := w.peering.Self()
			w.logger.Info("ready", "node", self.Node, "name", self.Name, "addr", self.Address, "cluster", self.Cluster)
			close(w.ready)
			stopTending = w.peering.Tend(ctx, w.peering.ByMembers())
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

// learn takes over the records of the root zone: the senders know the node of every replica, and
// forget those that were removed.
func (w *Witness) learn(members nexusraft.Membership) {
	w.mu.Lock()
	w.members = members
	w.mu.Unlock()
	for _, t := range members.Removed {
		if _, back := members.Node(t.Node); !back {
			w.peering.Removed(t.Node)
		}
	}
	w.peering.Connect(members)
}

// connect takes over the records of another zone, of nodes of which the root zone's say nothing: these
// may be older here.
func (w *Witness) connect(members nexusraft.Membership) {
	root := w.learnt()
	members.Members = slices.DeleteFunc(slices.Clone(members.Members), func(m nexusraft.Member) bool {
		_, known := root.Node(m.Node)
		return known || root.IsRemovedNode(m.Node)
	})
	w.peering.Connect(members)
}

// learnt returns the latest records of the root zone.
func (w *Witness) learnt() nexusraft.Membership {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.members
}

func (w *Witness) errRemoved(z nexusraft.ZoneID) error {
	node := w.peering.Self().Node
	if z != nexusraft.RootZone {
		return fmt.Errorf("%w: witness %v was removed from zone %v", nexusraft.ErrFenced, node, z)
	}
	return fmt.Errorf("%w: witness %v was removed from zone %v: %s", nexusraft.ErrFenced, node, z,
		peering.WayBack(w.config.Dir))
}
