package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authority"
	"github.com/nexi-lab/nexus-raft/internal/authz"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/datadir"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/events"
	"github.com/nexi-lab/nexus-raft/internal/forward"
	"github.com/nexi-lab/nexus-raft/internal/hosting"
	"github.com/nexi-lab/nexus-raft/internal/leading"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/internal/replicas"
	"github.com/nexi-lab/nexus-raft/internal/serving"
	"github.com/nexi-lab/nexus-raft/internal/snapshot"
	"github.com/nexi-lab/nexus-raft/internal/watchdog"
	"github.com/nexi-lab/nexus-raft/internal/worker"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// maxSending is how many snapshots may go out at once.
const maxSending = 2

// Node is one process's part in a cluster. Its methods may be called from many goroutines.
type Node struct {
	config Config
	opened time.Time
	logger *slog.Logger
	dir    *datadir.Dir

	workers   *worker.Workers
	peering   *peering.Peering
	peers     *transport.Peers
	server    *transport.Server
	sending   *snapshot.Jobs
	snapshots *snapshot.Progress // that come in and go out
	forwards  forward.Calls
	asking    askers
	watchdog  watchdog.Watchdog
	cancel    context.CancelFunc // ends the jobs

	ready   chan struct{} // closed when the node serves
	ended   chan struct{} // closed when Run or Close has returned
	endedBy error         // what Run has returned; written before ended is closed
	fatal   chan error    // has room for one: why this node can't go on
	running atomic.Bool
	closed  sync.Once

	registry     *hosting.Registry // of the zones
	zonesChanged events.Notifier   // a zone was made or deleted, or this node has made or dropped its replica

	access    *authz.Guard
	nodes     authz.Nodes
	authority *authority.Service
	limits    *mtls.Limits
	counters  budget.Counters

	events        *events.Local
	subscriptions *events.Subscriptions
	leads         *leading.Leads

	replicas *replicas.Table // of the zones, as all goroutines may know them
}

// Open opens a data directory, and mints an identity if it has none; then Config.Join must name a
// cluster, or the directory must be founded with Init first: ErrNotFounded, and nothing is created.
// A directory that holds something else is ErrRefused, one whose node was removed, or refused as a
// copy, ErrFenced.
// Run or Close must follow.
func Open(c Config) (_ *Node, err error) {
	if c, err = c.withDefaults(); err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	exists, err := datadir.Exists(c.Dir, &c.Storage)
	if err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	if !exists && len(c.Join) == 0 {
		return nil, notFounded(c.Dir)
	}
	shares, err := budget.Share(budget.Descriptors(), budget.MaxConnections, true)
	if err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	setDefault(&c.Storage.OpenTables, shares.Tables)
	datadir.KeepPrivate(c.Dir, &c.Storage, c.Logger)
	dir, err := datadir.Open(c.Dir, &c.Storage)
	if err != nil {
		return nil, fmt.Errorf("open node: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dir.Close())
		}
	}()
	n := &Node{
		opened: time.Now(), config: c, logger: c.Logger, dir: dir,
		ready: make(chan struct{}),
		ended: make(chan struct{}),
		fatal: make(chan error, 1),
	}
	n.nodes = authz.Nodes{Members: n.membership}
	if err = n.openPeering(); err != nil {
		return nil, err
	}
	if err = n.checkRemoved(); err != nil {
		return nil, err
	}
	n.access = authz.New(authz.Config{
		Read:  func(fn func(nexusraft.Reader) error) error { return n.readSystemLocal(nexusraft.RootZone, fn) },
		Clock: c.Clock, Logger: c.Logger, Permissions: c.Permissions, Encrypted: n.peering.TLS() != nil,
	})
	n.limits = mtls.NewLimits(mtls.LimitOptions{
		Connections: shares.Connections, AnswerBytes: c.AnswerBytes, Counters: &n.counters,
		Identify: n.access.Identify, Known: n.access.Known,
	})
	n.registry = hosting.New(hosting.Options{
		Zone: rootZone{n}, Logger: c.Logger, Speaks: n.peering.Minor,
		TellWitness: func(ctx context.Context, node nexusraft.NodeID, t transport.HostedZones) (uint64, error) {
			return n.peers.HostZones(ctx, node, t)
		},
		Silent: n.silent, SpareAfter: c.SpareAfter,
	})
	n.openEvents()
	if err = dir.DropOrphans(); err != nil {
		return nil, err
	}
	n.assemble()
	return n, nil
}

// assemble makes the workers and what connects them with peers; nothing runs yet.
func (n *Node) assemble() {
	var ctx context.Context
	ctx, n.cancel = context.WithCancel(context.Background())
	c := n.config
	n.sending, n.snapshots = snapshot.NewJobs(ctx, maxSending), snapshot.NewProgress(c.Logger)
	n.leads = leading.New(leading.Options{Propose: n.proposeInTerm, Read: n.read})
	n.peers = n.peering.Dial(transport.PeersOptions{
		VoteTimeout:       c.electionTimeout(),
		OnUnreachable:     func(node nexusraft.NodeID) { n.workers.Unreachable(node) },
		OnConnection:      n.events.Peer,
		SnapshotBandwidth: c.SnapshotBandwidth, SnapshotCompression: c.SnapshotCompression,
	})
	n.workers = n.makeWorkers()
	n.server = transport.NewServer(n.peering.Introduce, n.peerHandlers())
	n.peering.Serve(n.server)
}

func (n *Node) makeWorkers() *worker.Workers {
	c := n.config
	return worker.New(worker.Options{
		Workers: c.Workers,
		Path:    c.Dir, Dir: n.dir, Peering: n.peering, Peers: n.peers, Replicas: n.replicas, Events: n.events,
		Placed:  func(p worker.Placed) { n.registry.Report(p.Zone, p.Changed, p.Removed) },
		Records: n.registry.Follow,
		Access:  n.access, Forwards: &n.forwards, Leads: n.leads, ZonesChanged: &n.zonesChanged,
		Watchdog: &n.watchdog, Sending: n.sending, Snapshots: n.snapshots,
		StateMachine: c.StateMachine, Machines: c.Machines,
		TickInterval: c.TickInterval, ElectionTicks: c.ElectionTicks, HeartbeatTicks: c.HeartbeatTicks,
		HoldTicks: c.HoldTicks, MaxClockDrift: c.MaxClockDrift,
		CompactEntries: c.CompactEntries, CompactBytes: c.CompactBytes, Clock: c.Clock, Logger: c.Logger,
	})
}

func notFounded(dir string) error {
	return fmt.Errorf("%w: %s; found one with init, or join one with --join ADDRESS", nexusraft.ErrNotFounded, dir)
}

// openPeering opens the node's identity and what it knows of peers, and settles with what its
// connections are encrypted.
func (n *Node) openPeering() (err error) {
	c := n.config
	n.peering, err = peering.Open(peering.Options{
		Dir: c.Dir, Name: c.Name, Advertise: c.Advertise, Join: c.Join, JoinTimeout: c.JoinTimeout,
		Role: nexusraft.RoleMember,
		TLS:  c.TLS, ClusterTLS: c.ClusterTLS, JoinToken: c.JoinToken, Insecure: c.Insecure,
		TickInterval: c.TickInterval, Clock: c.Clock, Logger: c.Logger,
		Store: n.dir, Members: n.membership, Admits: n.nodes.Admits, Fail: n.fail,
	})
	if errors.Is(err, nexusraft.ErrNotFounded) {
		return notFounded(c.Dir)
	}
	if err != nil {
		return err
	}
	n.replicas = replicas.NewTable(n.dir.Store, n.peering, n.ready)
	if err := n.peering.Secure(); err != nil {
		return fmt.Errorf("open node: %w", err)
	}
	n.authority = n.newAuthority()
	n.authority.ProveFull(func(fn func(nexusraft.Reader) error) error {
		return n.dir.ReadRoot(func(_ nexusraft.ClusterID, state nexusraft.Reader) error { return fn(state) })
	})
	return nil
}

// checkRemoved refuses a directory whose own records say that the node was removed.
func (n *Node) checkRemoved() error {
	removed, err := n.dir.Removed(n.ID())
	if err != nil || !removed {
		return err
	}
	return fmt.Errorf("open node: %w: node %v was removed from the cluster: %s", nexusraft.ErrFenced, n.ID(),
		peering.WayBack(n.config.Dir))
}

// fail ends Run with an error; the first one counts.
func (n *Node) fail(err error) {
	select {
	case n.fatal <- err:
	default:
	}
}

// Ready returns a channel that is closed when the node has joined and serves its zones. AwaitReady
// also says why that will never be.
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
	defer func() { n.end(err) }()
	n.peering.ListenOn(lis.Addr())
	r := n.start(lis, register)
	err = n.serve(ctx, r)
	if !serving.IsStuck(err) {
		if ended := r.Stop(); ended != nil && !errors.Is(err, ended) {
			err = errors.Join(err, ended)
		}
		n.awaitLeads()
	}
	if serving.IsStuck(err) {
		return err // nothing can be waited for; the process is to end
	}
	return errors.Join(err, n.close())
}

// serve joins if need be, opens the zones and waits for the end.
func (n *Node) serve(ctx context.Context, r *serving.Running) error {
	if err := n.openZones(ctx, r); err != nil {
		if ctx.Err() != nil { // stopped while it joined
			return nil
		}
		return err
	}
	r.SetReady()
	who := n.self()
	n.logger.Info("ready", "node", who.Node, "name", who.Name, "addr", who.Address, "cluster", who.Cluster)
	close(n.ready)
	tending, cancel := context.WithCancel(ctx)
	defer cancel()
	r.Tended = n.tend(tending)
	select {
	case <-ctx.Done():
		n.logger.Info("stopping in order")
		n.handOver()
		n.forwards.Drain(forwardTimeout)
		return nil
	case err := <-r.Failed():
		return err
	case err := <-n.fatal:
		return err
	}
}

// tend starts what goes on until ctx ends, and returns what waits for its end.
func (n *Node) tend(ctx context.Context) (wait func()) {
	stop := n.peering.Tend(ctx, n.authority.Renewal())
	var tending sync.WaitGroup
	tending.Go(func() { n.registry.Tend(ctx, n.zonesChanged.Wait) })
	tending.Go(func() { n.tendMachineVersions(ctx) })
	return func() {
		stop()
		tending.Wait()
	}
}

func (n *Node) openZones(ctx context.Context, r *serving.Running) error {
	if n.self().Cluster == 0 {
		if err := n.joinWhile(ctx, r.Failed()); err != nil {
			return err
		}
	}
	return n.workers.OpenZones()
}

// joinWhile joins while what Run has started goes on, which fails by broken.
func (n *Node) joinWhile(ctx context.Context, broken <-chan error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var failed error
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case failed = <-broken:
			cancel(failed)
		case failed = <-n.fatal:
			cancel(failed)
		case <-ctx.Done():
		}
	})
	err := n.peering.Join(ctx)
	cancel(nil)
	watching.Wait()
	if err == nil {
		err = failed // it came when the join was as good as done
	}
	return err
}

// ElectionTimeout is for how long a member hears nothing of a leader before it campaigns, at least; up to twice that.
func (n *Node) ElectionTimeout() time.Duration { return n.config.electionTimeout() }

// ID returns the node's ID.
func (n *Node) ID() nexusraft.NodeID { return n.self().Node }

// Cluster returns the cluster that the node belongs to; 0 before it has joined one.
func (n *Node) Cluster() nexusraft.ClusterID { return n.self().Cluster }

// membership returns the root zone's records as they are here.
func (n *Node) membership() nexusraft.Membership { return n.replicas.Members(nexusraft.RootZone) }

// self is what the node says of itself in handshakes.
func (n *Node) self() transport.Identity { return n.peering.Self() }

// Encrypted reports whether the node speaks TLS.
func (n *Node) Encrypted() bool { return n.peering.TLS() != nil }

// Zone returns a zone that this node has a replica of, or that is on other nodes: its methods ask those to propose, and
// return ErrNotLeader, with one of them, for what needs a replica. Otherwise it returns ErrZoneNotFound.
func (n *Node) Zone(id nexusraft.ZoneID) (*Zone, error) {
	if _, err := n.replicas.View(id); err != nil && !errors.Is(err, nexusraft.ErrNotLeader) {
		return nil, err
	}
	return &Zone{node: n, id: id}, nil
}

// Status is what the node says of itself.
func (n *Node) Status(ctx context.Context) (nexusraft.NodeStatus, error) { return n.status(ctx, 0) }

// Status implements transport.PeerHandler.
func (n handler) Status(ctx context.Context, only nexusraft.ZoneID) (nexusraft.NodeStatus, error) {
	return n.status(ctx, only)
}

func (n *Node) status(ctx context.Context, only nexusraft.ZoneID) (nexusraft.NodeStatus, error) {
	who := n.self()
	s := nexusraft.NodeStatus{
		Cluster: who.Cluster, Node: who.Node, Name: who.Name, Address: who.Address,
		Incarnation: who.Incarnation, DiskBytes: n.dir.Store.DiskBytes(), DiskFree: n.dir.Store.DiskFree(),
		Problem: n.problem(), CertificateUntil: n.peering.TLS().Until(), Refused: n.counters.Refusals(),
		Peers: n.server.Links(n.peers), Minor: who.Minor, ClusterVersion: n.authority.ClusterVersion(),
		MachineVersions: n.machineVersions(),
	}
	s.Healthy = s.Problem == ""
	zones, err := n.workers.Statuses(ctx, only)
	switch {
	case err == nil:
		s.Zones = zones
	case errors.Is(err, driver.ErrNoAnswer):
		s.Zones, s.Healthy, s.Problem, err = zones, false, err.Error(), nil
	case ctx.Err() != nil:
		err = fmt.Errorf("%w: %w", nexusraft.ErrNoQuorum, err)
	}
	return s, err
}

// problem says why the node is not healthy, "" if it is.
func (n *Node) problem() string {
	if p := cmp.Or(n.watchdog.Problem(), n.peering.Problem()); p != "" {
		return p // at once: while the worker switches trees in a sync that does not end, the others wait
	}
	if p := n.replicas.Problem(); p != "" {
		return p
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
// The reserve lasts: an election writes less than 1 KiB, so that 64 MiB would be used up by one
// each 300 ms only after five hours, if none of it were given back. But the engine's log is reused
// after each 16 MiB, and of the empty entries that leaders begin their terms with, the log keeps
// Config.CompactEntries at most, about 1 MiB.
func (n *Node) Room() error { return n.dir.Store.Room() }

// Close closes a node that was opened and not run; after Run it does nothing.
func (n *Node) Close() error {
	if !n.running.CompareAndSwap(false, true) {
		return nil
	}
	defer n.end(nil)
	return n.close()
}

func (n *Node) close() (err error) {
	n.closed.Do(func() {
		n.events.End()
		n.cancel()
		n.peers.Close()
		n.server.Close()
		n.sending.Wait()
		err = n.dir.Store.Close()
	})
	return err
}
