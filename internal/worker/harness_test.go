package worker

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authority"
	"github.com/nexi-lab/nexus-raft/internal/authz"
	"github.com/nexi-lab/nexus-raft/internal/datadir"
	"github.com/nexi-lab/nexus-raft/internal/events"
	"github.com/nexi-lab/nexus-raft/internal/forward"
	"github.com/nexi-lab/nexus-raft/internal/leading"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/replicas"
	"github.com/nexi-lab/nexus-raft/internal/snapshot"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/watchdog"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// nothing is a state machine that reads the key it is given.
type nothing struct{}

// Alone implements nexusraft.Batched.
func (nothing) Alone([]byte) bool { return false }

func (nothing) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	if string(cmd.Data) == "panic" {
		panic("asked to")
	}
	value, _, err := tx.Get(cmd.Data)
	return value, err
}

// The admission of the node whose worker admittedWorker makes.
const (
	selfReplica   nexusraft.ReplicaID = 7
	leaderReplica nexusraft.ReplicaID = 5
	leaderNode    nexusraft.NodeID    = 0x55
)

// idleWorker is a worker over a data directory, opened as a node opens its own, and without the rest of a node.
// It does not run: the test is its goroutine, and that of the others, if there are several.
type idleWorker struct {
	*worker               // the first one
	ask     *Workers      // all of them
	ready   chan struct{} // closed when the zones are known not to be missing

	server *transport.Server
	cancel context.CancelFunc // of the jobs
	closed sync.Once
}

func newIdleWorker(t testing.TB, join bool) *idleWorker {
	t.Helper()
	return idleWorkerOn(t, join, storage.NewMemFS())
}

func idleWorkerOn(t testing.TB, join bool, disk storage.FS) *idleWorker {
	t.Helper()
	if !join {
		found(t, disk)
	}
	w, err := reopen(disk, join, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	return w
}

// found founds a cluster, as node.Init does.
func found(t testing.TB, disk storage.FS) {
	t.Helper()
	dir, err := datadir.Open("data", storageOptions(disk, slog.New(slog.DiscardHandler)))
	if err != nil {
		t.Fatal(err)
	}
	id := peering.Identity{Node: nexusraft.NodeID(nexusraft.MintID()), Cluster: nexusraft.ClusterID(nexusraft.MintID())}
	begins, err := authority.Found(id.Cluster, id.Node, time.Now())
	if err == nil {
		err = dir.Found(id, "", begins)
	}
	if err := errors.Join(err, dir.Close()); err != nil {
		t.Fatal(err)
	}
}

// storageOptions are those of a node.
func storageOptions(disk storage.FS, logger *slog.Logger) *storage.Options {
	return &storage.Options{FS: disk, Logger: logger, FlushInterval: -1, MemTableBytes: 16 << 20, CacheBytes: 64 << 20}
}

// reopen opens what a disk has of a node with one worker.
func reopen(disk storage.FS, join bool, logger *slog.Logger) (*idleWorker, error) {
	return reopenWith(1, disk, join, logger)
}

// reopenWith opens what a disk has of a node with so many workers.
func reopenWith(workers int, disk storage.FS, join bool, logger *slog.Logger) (_ *idleWorker, err error) {
	dir, err := datadir.Open("data", storageOptions(disk, logger))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dir.Close())
		}
	}()
	o := Options{
		Workers: workers, Path: "data", Dir: dir, Forwards: new(forward.Calls), Leads: leading.New(leading.Options{}),
		ZonesChanged: new(events.Notifier), Watchdog: new(watchdog.Watchdog), Snapshots: snapshot.NewProgress(logger),
		Records:      func(bool, []*system.ZoneChange) {},
		StateMachine: nothing{}, Machines: map[string]nexusraft.StateMachine{"keeping": keeping{}},
		TickInterval: testTick, ElectionTicks: 6, HeartbeatTicks: 1, HoldTicks: 6,
		CompactEntries: 10_000, CompactBytes: 32 << 20, Clock: time.Now, Logger: logger,
	}
	known := func() nexusraft.Membership { return o.Replicas.Members(nexusraft.RootZone) }
	if o.Peering, err = openPeering(dir, join, known, logger); err != nil {
		return nil, err
	}
	w := &idleWorker{ready: make(chan struct{})}
	o.Replicas = replicas.NewTable(dir.Store, o.Peering, w.ready)
	o.Events = events.NewLocal(o.Clock, o.Peering.Self().Incarnation)
	o.Access = authz.New(authz.Config{
		Read:  func(fn func(nexusraft.Reader) error) error { return o.Replicas.Read(nexusraft.RootZone, fn) },
		Clock: o.Clock, Logger: logger,
	})
	if err := errors.Join(o.Peering.Secure(), dir.DropOrphans()); err != nil {
		return nil, err
	}
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(context.Background())
	o.Sending = snapshot.NewJobs(ctx, 2)
	o.Peers = o.Peering.Dial(transport.PeersOptions{VoteTimeout: o.electionTimeout()})
	w.server = transport.NewServer(o.Peering.Introduce, transport.Handlers{})
	o.Peering.Serve(w.server)
	w.ask = New(o)
	w.worker = w.ask.workers[0]
	for _, x := range w.ask.workers {
		x.batch = dir.Store.NewBatch()
	}
	return w, nil
}

func openPeering(
	dir *datadir.Dir, join bool, known func() nexusraft.Membership, logger *slog.Logger,
) (*peering.Peering, error) {
	o := peering.Options{
		Dir: "data", Role: nexusraft.RoleMember, Clock: time.Now, Logger: logger, Store: dir, Members: known,
		Fail: func(err error) { logger.Error("the node can't go on", "err", err) },
	}
	if join {
		o.Join = []string{"127.0.0.1:1"}
	}
	return peering.Open(o)
}

// Close closes the directory, once; a later call does nothing.
func (w *idleWorker) Close() (err error) {
	w.closed.Do(func() {
		w.cancel()
		w.o.Peers.Close()
		w.server.Close()
		w.o.Sending.Wait()
		err = w.o.Dir.Close()
	})
	return err
}

// ID is the node's.
func (w *idleWorker) ID() nexusraft.NodeID { return w.o.Peering.Self().Node }

// problem is what the node's status would say.
func (w *idleWorker) problem() string {
	p := cmp.Or(w.o.Watchdog.Problem(), w.o.Peering.Problem(), w.o.Replicas.Problem())
	if err := w.o.Dir.Store.Room(); p == "" && err != nil {
		p = err.Error()
	}
	return p
}

// openAll opens the directory's zones, as OpenZones does.
func (w *idleWorker) openAll() error {
	dir, err := w.openRoot()
	if err != nil || dir.root == nil {
		return err
	}
	for _, x := range w.ask.workers {
		if err := x.openZones(dir.zones); err != nil {
			return err
		}
	}
	w.beginRoot(dir)
	return nil
}

// put has a zone's worker propose.
func (w *idleWorker) put(p *propose.Call) error { return w.ask.of(p.Zone).put(p) }

// hosted returns the zones of all workers.
func (w *idleWorker) hosted() map[nexusraft.ZoneID]*group {
	all := make(map[nexusraft.ZoneID]*group)
	for _, x := range w.ask.workers {
		maps.Copy(all, x.zones)
	}
	return all
}

// host has the worker host the root zone.
func host(t testing.TB, w *idleWorker) *group {
	t.Helper()
	g, err := openGroup(w.worker, nexusraft.RootZone, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.openMachine(); err != nil {
		t.Fatal(err)
	}
	w.add(g)
	return g
}

func admittedWorker(t *testing.T) (*idleWorker, *group) {
	t.Helper()
	w := newIdleWorker(t, true)
	err := w.o.Peering.Admitted(transport.JoinResult{
		Cluster: 1, Zone: nexusraft.RootZone, Replica: selfReplica, Membership: admittedMembers(w),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return w, host(t, w)
}

func admittedMembers(w *idleWorker) nexusraft.Membership {
	return nexusraft.Membership{Shape: nexusraft.DefaultShape}.
		With(nexusraft.Member{Replica: leaderReplica, Node: leaderNode, Address: "127.0.0.1:1", Role: nexusraft.RoleMember}).
		With(nexusraft.Member{Replica: selfReplica, Node: w.ID(), Address: "127.0.0.1:2", Role: nexusraft.RoleLearner})
}

// arrived is a snapshot that has arrived from a node, and the message that announces it.
type arrived struct {
	from     nexusraft.NodeID
	message  *raftpb.Message
	received *snapshot.Received
}

// offer hands it to the worker.
func (a arrived) offer(t *testing.T, w *idleWorker) {
	t.Helper()
	if err := w.putSnapshot(a.from, nexusraft.RootZone, a.message, a.received); err != nil {
		t.Fatal(err)
	}
}

func snapshotAt(t *testing.T, w *idleWorker, from nexusraft.NodeID, index nexusraft.Index) arrived {
	t.Helper()
	tree, err := w.o.Dir.Store.Tree(datadir.NewStateTreeName(nexusraft.RootZone))
	if err != nil {
		t.Fatal(err)
	}
	return arrived{
		from: from,
		message: &raftpb.Message{
			Type: raftpb.MsgSnap.Enum(), From: new(uint64(leaderReplica)), To: new(uint64(selfReplica)), Term: new(uint64(2)),
			Snapshot: &raftpb.Snapshot{
				Data: admittedMembers(w).Encode(),
				Metadata: &raftpb.SnapshotMetadata{
					Index: new(uint64(index)), Term: new(uint64(2)),
					ConfState: &raftpb.ConfState{Voters: []uint64{uint64(leaderReplica)}, Learners: []uint64{uint64(selfReplica)}},
				},
			},
		},
		received: snapshot.NewReceived(index, 2, tree),
	}
}

// answered returns what a channel of answers holds, which must be there already.
func answered[T any](t *testing.T, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	default:
		t.Errorf("%s: nobody was answered", what)
	}
	return v
}

// answer is what a call got.
type answer struct {
	result nexusraft.Result
	err    error
}

// answerOf returns a call's answer, which must be there already.
func answerOf(t *testing.T, what string, c *propose.Call) (a answer) {
	t.Helper()
	a.result, a.err = c.Wait(ended(t))
	if errors.Is(a.err, context.Canceled) {
		t.Errorf("%s: nobody was answered", what)
	}
	return a
}

// ended returns a context that has ended.
func ended(t testing.TB) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
