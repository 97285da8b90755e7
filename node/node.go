package node

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
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

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// maxSending is how many snapshots may go out at once.
const maxSending = 2

// Node is one process's part in a cluster. Its methods may be called from many goroutines.
type Node struct {
	config Config
	logger *slog.Logger
	store  *storage.Store
	trees  trees

	worker    *worker
	peers     *transport.Peers
	server    *transport.Server
	sending   *jobs
	transfers *transfers
	forwards  forwards
	watchdog  watchdog
	cancel    context.CancelFunc // ends the jobs

	ready   chan struct{} // closed when the node serves
	fenced  chan error    // has room for one: too many peers refuse this node for good
	running atomic.Bool
	closed  sync.Once

	who atomic.Pointer[transport.Identity]

	access       *access
	tls          *transport.TLS
	certificates atomic.Pointer[transport.Certificates] // of ClusterTLS; nil without

	refusals transport.Refusals

	events      *localEvents
	subscribers atomic.Int64

	helloMu sync.Mutex // held while a peer's record is compared and stored
	peersMu sync.Mutex // guards known; never held during a write, since the worker takes it
	known   map[nexusraft.NodeID]peerRecord

	// stateMu guards states. Who holds it for reading may take a storage snapshot of a
	// state tree that is current; the worker holds it while it switches trees.
	stateMu sync.RWMutex
	states  map[nexusraft.ZoneID]published
}

// published is what other goroutines may know of a zone without asking its worker.
type published struct {
	state   *storage.Tree
	members nexusraft.Membership
	term    *atomic.Uint64
	events  *bell // rings when there are new ones, and when the zone has stopped
	failed  error // the zone has stopped on this node
}

// Open opens a data directory. It counts a new incarnation, synced, and mints an identity
// if the directory has none; then Config.Join must name a cluster, or the directory must
// be founded with Init first: ErrNotFounded, and nothing is created. A directory that holds
// something else is ErrRefused, one whose node was removed, or refused as a copy, ErrFenced.
// Run or Close must follow.
func Open(c Config) (_ *Node, err error) {
	if c, err = c.withDefaults(); err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	exists, err := checkDir(c)
	if err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	if !exists && len(c.Join) == 0 {
		return nil, notFounded(c.Dir)
	}
	keepPrivate(c)
	store, err := storage.Open(c.Dir, &c.Storage)
	if err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, store.Close())
		}
	}()
	n := &Node{
		config: c, logger: c.Logger, store: store,
		ready:  make(chan struct{}),
		fenced: make(chan error, 1),
		states: make(map[nexusraft.ZoneID]published),
	}
	if n.trees, err = openTrees(store); err != nil {
		return nil, err
	}
	if err = n.openIdentity(); err != nil {
		return nil, err
	}
	if err = n.openSecurity(); err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	if err = n.checkRemoved(); err != nil {
		return nil, err
	}
	n.access = newAccess(n)
	n.events = newLocalEvents(c.Clock, n.identity().Incarnation)
	if n.known, err = loadPeers(n.trees.node); err != nil {
		return nil, err
	}
	if err = n.dropOrphans(); err != nil {
		return nil, err
	}
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(context.Background())
	n.worker, n.sending, n.transfers = newWorker(n), newJobs(ctx, maxSending), newTransfers(c.Logger)
	n.server = transport.NewServer(n.self, n, n)
	n.peers = transport.NewPeers(n.self, transport.PeersOptions{
		Logger: c.Logger, VoteTimeout: c.electionTimeout(), OnUnreachable: n.unreachable, OnConnection: n.events.peer, Accept: n.accepted,
		OnFenced: n.fencedBy, TLS: n.tls, SnapshotBandwidth: c.SnapshotBandwidth, SnapshotCompression: c.SnapshotCompression,
	})
	return n, nil
}

func notFounded(dir string) error {
	return fmt.Errorf("%w: %s; found one with init, or join one with --join ADDRESS", nexusraft.ErrNotFounded, dir)
}

// openIdentity loads or mints the identity and counts the incarnation.
func (n *Node) openIdentity() error {
	id, ok, err := loadIdentity(n.trees.node)
	switch {
	case err != nil:
		return err
	case !ok:
		id = identity{Node: nexusraft.NodeID(nexusraft.MintID()), Name: n.config.Name}
	}
	if id.Cluster == 0 && len(n.config.Join) == 0 {
		return notFounded(n.config.Dir)
	}
	if id.Name == "" {
		id.Name = n.config.Name
	}
	id.Incarnation++
	id.Boots = transport.NewBoot(id.Boots)
	return n.setIdentity(id, nil)
}

// checkRemoved refuses a directory whose own records say that the node was removed.
func (n *Node) checkRemoved() error {
	zones, err := raftlog.Zones(n.trees.raft)
	if err != nil {
		return err
	}
	if !slices.Contains(zones, nexusraft.RootZone) {
		return nil
	}
	log, err := raftlog.Open(n.trees.raft, nexusraft.RootZone)
	if err != nil {
		return fmt.Errorf("open the log of zone %v: %w", nexusraft.RootZone, err)
	}
	if !log.Meta().Membership.IsRemovedNode(n.ID()) {
		return nil
	}
	return fmt.Errorf("open node: %w: node %v was removed from the cluster: %s", nexusraft.ErrFenced, n.ID(), wayBack(n.config.Dir))
}

func wayBack(dir string) string { return fmt.Sprintf("clear %s and join as a new node", dir) }

// fencedBy is told that a peer refuses this node for good. A peer that can't be who it says
// is not believed, and one alone ends the node only if no quorum is left without it.
func (n *Node) fencedBy(peer transport.Identity, err error) {
	if refused := n.meet(peer); refused != nil {
		n.logger.Warn("a refusal is not believed", "peer", peer.Node, "err", refused)
		return
	}
	why, news := n.refusals.Add(peer.Node, err)
	if news {
		n.logger.Error("refused for good", "peer", peer.Node, "err", why)
	}
	n.stateMu.RLock()
	members := n.states[nexusraft.RootZone].members
	n.stateMu.RUnlock()
	if !n.refusals.Final(members) {
		return
	}
	select {
	case n.fenced <- fmt.Errorf("%w: peer %v refuses this node for good: %w: %s", nexusraft.ErrFenced, peer.Node, why, wayBack(n.config.Dir)):
	default: // one is enough
	}
}

// setIdentity stores the identity, synced, with what more adds to the batch.
func (n *Node) setIdentity(id identity, more func(*storage.Batch) error) error {
	b := n.store.NewBatch()
	defer b.Close()
	b.UseReserve() // a node must open on a full disk
	if err := stageIdentity(b, n.trees.node, id); err != nil {
		return err
	}
	if more != nil {
		if err := more(b); err != nil {
			return err
		}
	}
	if err := b.Commit(true); err != nil {
		return fmt.Errorf("store identity: %w", err)
	}
	address := n.config.Advertise
	if old := n.who.Load(); old != nil {
		address = old.Address
	}
	n.who.Store(&transport.Identity{
		Cluster: id.Cluster, Node: id.Node, Name: id.Name, Address: address,
		Incarnation: id.Incarnation, Boot: id.Boots[0], Earlier: id.Boots[1:],
	})
	return nil
}

// self is what the node says of itself in handshakes.
func (n *Node) self() transport.Identity { return *n.who.Load() }

func (n *Node) identity() identity {
	w := n.self()
	return identity{
		Node: w.Node, Name: w.Name, Cluster: w.Cluster,
		Incarnation: w.Incarnation, Boots: append([]nexusraft.Boot{w.Boot}, w.Earlier...),
	}
}

// dropOrphans removes state trees that no zone refers to: snapshots that a crash cut off.
func (n *Node) dropOrphans() error {
	names, err := n.store.Trees()
	if err != nil {
		return err
	}
	zones, err := raftlog.Zones(n.trees.raft)
	if err != nil {
		return err
	}
	var used []string
	for _, id := range zones {
		log, err := raftlog.Open(n.trees.raft, id)
		if err != nil {
			return fmt.Errorf("open the log of zone %v: %w", id, err)
		}
		used = append(used, log.Meta().StateTree)
	}
	for _, name := range names {
		if strings.HasPrefix(name, statePart) && !slices.Contains(used, name) {
			if err := n.store.DropTree(name); err != nil {
				return fmt.Errorf("drop orphaned tree %s: %w", name, err)
			}
		}
	}
	return nil
}

// Ready returns a channel that is closed when the node has joined and serves its zones.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Run serves on lis until ctx ends, then stops in order: it hands over what it leads,
// tells its peers, and closes its store. It joins a cluster first if the directory
// belongs to none. register may add services to the gRPC server; nil adds none.
//
// Run returns nil after an orderly stop, or the error that ended the node. A node runs once.
func (n *Node) Run(ctx context.Context, lis net.Listener, register func(grpc.ServiceRegistrar)) (err error) {
	if !n.running.CompareAndSwap(false, true) {
		return fmt.Errorf("%w: a node runs once", nexusraft.ErrClosed)
	}
	n.listenOn(lis)
	r := n.start(lis, register)
	err = n.serve(ctx, r)
	if !isStuck(err) {
		if ended := r.stop(); ended != nil && !errors.Is(err, ended) {
			err = errors.Join(err, ended)
		}
	}
	if isStuck(err) {
		return err // nothing can be waited for; the process is to end
	}
	return errors.Join(err, n.close())
}

// listenOn settles the address that peers are told.
func (n *Node) listenOn(lis net.Listener) {
	who := n.self()
	if who.Address == "" {
		who.Address = lis.Addr().String()
	}
	n.who.Store(&who)
}

// serve joins if need be, opens the zones and waits for the end.
func (n *Node) serve(ctx context.Context, r *running) error {
	if err := n.openZones(ctx, r); err != nil {
		if ctx.Err() != nil { // stopped while it joined
			return nil
		}
		return err
	}
	r.serving()
	who := n.self()
	n.logger.Info("ready", "node", who.Node, "name", who.Name, "addr", who.Address, "cluster", who.Cluster)
	close(n.ready)
	hinted, cancel := context.WithCancel(ctx)
	var hints sync.WaitGroup
	hints.Go(func() { n.followHints(hinted) })
	hints.Go(func() { n.keepCertificate(hinted) })
	defer hints.Wait()
	defer cancel()
	select {
	case <-ctx.Done():
		n.logger.Info("stopping in order")
		n.handOver()
		n.forwards.drain(forwardTimeout)
		return nil
	case err := <-r.failed:
		return err
	case err := <-n.fenced:
		return err
	}
}

func (n *Node) openZones(ctx context.Context, r *running) error {
	if n.self().Cluster == 0 {
		if err := n.joinWhile(ctx, r); err != nil {
			return err
		}
	}
	zones, err := raftlog.Zones(n.trees.raft)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	err = n.worker.inbox.putCall(func(err error) {
		for _, id := range zones {
			var h *hosted
			if err == nil {
				h, err = openHosted(n.worker, id)
			}
			if err == nil {
				n.worker.zones[id] = h
				n.connect(h.replica.Membership())
			}
		}
		done <- err
	})
	if err != nil {
		return err
	}
	return <-done
}

// joinWhile joins while what Run has started goes on.
func (n *Node) joinWhile(ctx context.Context, r *running) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var failed error
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case failed = <-r.failed:
			cancel(failed)
		case <-ctx.Done():
		}
	})
	err := n.join(ctx)
	cancel(nil)
	watching.Wait()
	if err == nil {
		err = failed // it came when the join was as good as done
	}
	return err
}

// ID returns the node's ID.
func (n *Node) ID() nexusraft.NodeID { return n.self().Node }

// Cluster returns the cluster that the node belongs to; 0 before it has joined one.
func (n *Node) Cluster() nexusraft.ClusterID { return n.self().Cluster }

// Zone returns a zone that this node has a replica of, or ErrZoneNotFound.
func (n *Node) Zone(id nexusraft.ZoneID) (*Zone, error) {
	if _, err := n.view(id); err != nil {
		return nil, err
	}
	return &Zone{node: n, id: id}, nil
}

func (n *Node) missing(id nexusraft.ZoneID) error {
	return fmt.Errorf("%w: zone %v", nexusraft.ErrZoneNotFound, id)
}

// absent says why the worker does not have a zone: it is not here, or it has stopped.
func (n *Node) absent(id nexusraft.ZoneID) error {
	if p, err := n.view(id); p.failed != nil {
		return err
	}
	return n.missing(id)
}

func (n *Node) stopped(id nexusraft.ZoneID) bool {
	p, _ := n.view(id)
	return p.failed != nil
}

func (n *Node) view(id nexusraft.ZoneID) (published, error) {
	n.stateMu.RLock()
	defer n.stateMu.RUnlock()
	p, ok := n.states[id]
	if !ok {
		return p, n.missing(id)
	}
	return p, p.failed
}

// reader returns a view of all that a zone keeps as of now, and what ends it.
func (n *Node) reader(id nexusraft.ZoneID) (nexusraft.Reader, func(), error) {
	n.stateMu.RLock()
	defer n.stateMu.RUnlock()
	p, ok := n.states[id]
	if !ok {
		return nil, nil, n.missing(id)
	}
	if p.failed != nil {
		return nil, nil, p.failed
	}
	snap := n.store.NewSnapshot()
	return snap.Reader(p.state), snap.Close, nil
}

// publish makes a zone's tree and records known to readers.
func (n *Node) publish(id nexusraft.ZoneID, p published) {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	n.publishLocked(id, p)
}

func (n *Node) publishLocked(id nexusraft.ZoneID, p published) {
	before := n.states[id].members
	n.states[id] = p
	n.connect(p.members)
	for _, m := range before.Members {
		if !n.isPeer(m.Node) {
			n.peers.Remove(m.Node)
			n.server.GreetAgain(m.Node)
		}
	}
}

// isPeer reports whether a node has a replica in a zone of this node; stateMu is held.
func (n *Node) isPeer(id nexusraft.NodeID) bool {
	for _, p := range n.states {
		if _, ok := p.members.Node(id); ok {
			return true
		}
	}
	return false
}

func (n *Node) zoneFailed(id nexusraft.ZoneID, err error) {
	n.stateMu.Lock()
	defer n.stateMu.Unlock()
	p := n.states[id]
	p.failed = fmt.Errorf("%w: zone %v has stopped on this node: %w", nexusraft.ErrClosed, id, err)
	n.states[id] = p
	p.events.ring()
}

// Status is what the node says of itself. It implements transport.PeerHandler.
func (n *Node) Status(ctx context.Context) (nexusraft.NodeStatus, error) {
	who := n.self()
	s := nexusraft.NodeStatus{
		Cluster: who.Cluster, Node: who.Node, Name: who.Name, Address: who.Address,
		Incarnation: who.Incarnation, DiskBytes: n.store.DiskBytes(), DiskFree: n.store.DiskFree(),
		Problem: n.problem(), CertificateUntil: n.tls.Until(),
	}
	s.Healthy = s.Problem == ""
	asking, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	for _, id := range n.zones() {
		z, err := ask(asking, n, id, func(h *hosted) (nexusraft.ZoneStatus, error) { return h.status(), nil })
		switch {
		case err == nil:
			s.Zones = append(s.Zones, z)
		case n.stopped(id): // problem says so
		case ctx.Err() == nil && asking.Err() != nil:
			s.Healthy, s.Problem = false, fmt.Sprintf("the worker has not answered for %v: the disk may be stalled", statusTimeout)
			return s, nil
		default:
			return s, err
		}
	}
	return s, nil
}

// statusTimeout is how long a status waits for the worker.
const statusTimeout = time.Second

func (n *Node) zones() []nexusraft.ZoneID {
	n.stateMu.RLock()
	defer n.stateMu.RUnlock()
	ids := make([]nexusraft.ZoneID, 0, len(n.states))
	for id := range n.states {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// problem says why the node is not healthy, "" if it is.
func (n *Node) problem() string {
	if p := n.watchdog.problem(); p != "" {
		return p
	}
	if p := n.refusals.Problem(); p != "" {
		return p
	}
	if p := n.tls.Problem(n.config.Clock()); p != "" {
		return p
	}
	n.stateMu.RLock()
	defer n.stateMu.RUnlock()
	for _, p := range n.states {
		if p.failed != nil {
			return p.failed.Error()
		}
	}
	if err := n.Room(); err != nil {
		return err.Error()
	}
	return ""
}

// Room returns nil, or ErrDiskFull with the facts while the node's disk has no more free than
// Config.Storage.DiskReserve. Then the node takes no proposals where it leads, and neither
// entries nor snapshots where it follows; it goes on to vote, to serve reads, and to write
// what little that needs into the reserve. With room again it catches up by itself.
//
// The status of such a node says that it is not healthy; the gRPC health service goes on
// to say SERVING, as reads are served.
//
// The reserve lasts: an election writes less than 1 KiB, so that 64 MiB would be used up by
// one each 300 ms only after five hours, if none of it were given back. But the engine's log is reused
// after each 16 MiB, and of the empty entries that leaders begin their terms with, the log
// keeps Config.CompactEntries at most, about 1 MiB.
func (n *Node) Room() error { return n.store.Room() }

// Checksum digests this node's own copy of a zone's state: SHA-256 over each pair in key
// order, lengths included. It implements transport.MemberHandler.
func (n *Node) Checksum(ctx context.Context, id nexusraft.ZoneID) (transport.Checksum, error) {
	type moment struct {
		applied nexusraft.Index
		snap    *storage.Snapshot
		state   *storage.Tree
	}
	snaps := make(chan moment, 1)
	var gone atomic.Bool
	drop := func() { // a snapshot that nobody takes: by whoever comes second, worker or caller
		select {
		case m := <-snaps:
			m.snap.Close()
		default:
		}
	}
	_, err := ask(ctx, n, id, func(h *hosted) (struct{}, error) {
		snaps <- moment{h.log.Applied(), n.store.NewSnapshot(), h.state}
		if gone.Load() {
			drop()
		}
		return struct{}{}, nil
	})
	if err != nil {
		gone.Store(true)
		drop()
		return transport.Checksum{}, err
	}
	m := <-snaps
	defer m.snap.Close()
	c := transport.Checksum{Applied: m.applied}
	sum := sha256.New()
	for p, err := range m.snap.Reader(m.state).Scan(nil, nil) {
		if err != nil {
			return transport.Checksum{}, err
		}
		for _, part := range [][]byte{p.Key, p.Value} {
			sum.Write(binary.AppendUvarint(nil, uint64(len(part))))
			sum.Write(part)
		}
		c.Pairs++
		c.Bytes += uint64(len(p.Key) + len(p.Value))
	}
	c.Sum = sum.Sum(nil)
	return c, ctx.Err()
}

// Close closes a node that was opened and not run; after Run it does nothing.
func (n *Node) Close() error {
	if !n.running.CompareAndSwap(false, true) {
		return nil
	}
	return n.close()
}

func (n *Node) close() (err error) {
	n.closed.Do(func() {
		n.events.end()
		n.cancel()
		n.peers.Close()
		n.server.Close()
		n.sending.wait()
		err = n.store.Close()
	})
	return err
}
