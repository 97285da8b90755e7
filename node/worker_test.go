package node

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// nothing is a state machine that reads the key it is given.
type nothing struct{}

func (nothing) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	if string(cmd.Data) == "panic" {
		panic("asked to")
	}
	value, _, err := tx.Get(cmd.Data)
	return value, err
}

// The admission of the node that admittedNode makes.
const (
	selfReplica   nexusraft.ReplicaID = 7
	leaderReplica nexusraft.ReplicaID = 5
	leaderNode    nexusraft.NodeID    = 0x55
)

// idleNode is an opened node that does not run: the test drives its worker.
func idleNode(t *testing.T, join bool) *Node {
	t.Helper()
	c := Config{
		Dir: "data", StateMachine: nothing{}, Storage: storage.Options{FS: storage.NewMemFS()},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), TickInterval: 5 * time.Millisecond,
	}
	if join {
		c.Join = []string{"127.0.0.1:1"}
	} else if _, err := Init(c); err != nil {
		t.Fatal(err)
	}
	n, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	n.worker.batch = n.store.NewBatch()
	return n
}

// host has the node's worker host the root zone.
func host(t *testing.T, n *Node) *hosted {
	t.Helper()
	h, err := openHosted(n.worker, nexusraft.RootZone)
	if err != nil {
		t.Fatal(err)
	}
	n.worker.zones[h.id] = h
	return h
}

func admittedNode(t *testing.T) (*Node, *hosted) {
	t.Helper()
	n := idleNode(t, true)
	err := n.admitted(transport.JoinResult{
		Cluster: 1, Zone: nexusraft.RootZone, Replica: selfReplica, Membership: admittedMembers(n),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return n, host(t, n)
}

func admittedMembers(n *Node) nexusraft.Membership {
	return nexusraft.Membership{Shape: nexusraft.DefaultShape}.
		With(nexusraft.Member{Replica: leaderReplica, Node: leaderNode, Address: "127.0.0.1:1", Role: nexusraft.RoleMember}).
		With(nexusraft.Member{Replica: selfReplica, Node: n.ID(), Address: "127.0.0.1:2", Role: nexusraft.RoleLearner})
}

// snapshotAt is a snapshot that has arrived from a node, and the message that announces it.
func snapshotAt(t *testing.T, n *Node, from nexusraft.NodeID, index nexusraft.Index) inbound {
	t.Helper()
	tree, err := n.store.Tree(newStateTreeName(nexusraft.RootZone))
	if err != nil {
		t.Fatal(err)
	}
	return inbound{
		zone: nexusraft.RootZone, from: from,
		message: &raftpb.Message{
			Type: raftpb.MsgSnap.Enum(), From: new(uint64(leaderReplica)), To: new(uint64(selfReplica)), Term: new(uint64(2)),
			Snapshot: &raftpb.Snapshot{
				Data: admittedMembers(n).Encode(),
				Metadata: &raftpb.SnapshotMetadata{
					Index: new(uint64(index)), Term: new(uint64(2)),
					ConfState: &raftpb.ConfState{Voters: []uint64{uint64(leaderReplica)}, Learners: []uint64{uint64(selfReplica)}},
				},
			},
		},
		staged: &staged{index: index, term: 2, tree: tree, done: make(chan error, 1)},
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

// Two snapshots may wait for one round: after a stall, or from two leaders. The one that
// raft takes is installed, whatever came after it.
func TestSnapshotsOfOneRound(t *testing.T) {
	for _, x := range []struct {
		name    string
		indexes []nexusraft.Index
		from    []nexusraft.NodeID
		want    int // which one is installed
	}{
		{"older second", []nexusraft.Index{20, 15}, []nexusraft.NodeID{leaderNode, leaderNode}, 0},
		{"newer second", []nexusraft.Index{15, 20}, []nexusraft.NodeID{leaderNode, leaderNode}, 1},
		{"refused second", []nexusraft.Index{20, 21}, []nexusraft.NodeID{leaderNode, 0x66}, 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			n, h := admittedNode(t)
			var in []inbound
			for i, index := range x.indexes {
				in = append(in, snapshotAt(t, n, x.from[i], index))
			}
			n.worker.inbox.putMessages(in)
			n.worker.drain()
			if _, err := n.worker.turn(); err != nil {
				t.Fatalf("round with two snapshots: %v", err)
			}
			for i, m := range in {
				err := answered(t, fmt.Sprint("snapshot ", i), m.staged.done)
				if (err == nil) != (i == x.want) {
					t.Errorf("snapshot %d ended with %v", i, err)
				}
			}
			if h.state != in[x.want].staged.tree || h.log.Applied() != x.indexes[x.want] {
				t.Errorf("state is %s at %d, want %s at %d", h.state.Name(), h.log.Applied(), in[x.want].staged.tree.Name(), x.indexes[x.want])
			}
		})
	}
}

// Who waits for a snapshot to be taken up waits without a deadline: it must always hear.
func TestSnapshotOfAStoppingZone(t *testing.T) {
	t.Run("the disk fails", func(t *testing.T) {
		n, _ := admittedNode(t)
		m := snapshotAt(t, n, leaderNode, 20)
		if err := n.store.Close(); err != nil {
			t.Fatal(err)
		}
		n.worker.inbox.putMessages([]inbound{m})
		if err := n.worker.run(make(chan struct{})); !errors.Is(err, nexusraft.ErrClosed) {
			t.Fatalf("run with a closed store: %v, want ErrClosed", err)
		}
		if err := answered(t, "snapshot", m.staged.done); !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("the snapshot ended with %v, want ErrClosed", err)
		}
	})
	t.Run("the zone fails", func(t *testing.T) {
		n, h := admittedNode(t)
		m := snapshotAt(t, n, leaderNode, 20)
		n.worker.inbox.putMessages([]inbound{m})
		n.worker.drain()
		n.worker.fail(h, errors.New("as a state machine does"))
		if err := answered(t, "snapshot", m.staged.done); !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("the snapshot ended with %v, want ErrClosed", err)
		}
	})
}

// raft panics where its log contradicts itself. Whoever waited in the same round is told.
func TestPanicWhileDraining(t *testing.T) {
	n, h := admittedNode(t)
	calls := make(chan error, 2)
	vote := &voteSlot{vote: transport.Vote{Zone: h.id}, done: make(chan transport.VoteResult, 1)}
	p := newProposal(h.id)
	err := errors.Join(
		n.worker.inbox.putCall(func(err error) {
			if err == nil {
				panic("raft: out of range")
			}
			calls <- err
		}),
		n.worker.inbox.putCall(func(err error) { calls <- err }),
		n.worker.inbox.putProposal(p),
	)
	if err != nil {
		t.Fatal(err)
	}
	n.worker.inbox.putMessages([]inbound{{
		zone: h.id, from: leaderNode, vote: vote,
		message: voteMessage(transport.Vote{From: leaderReplica, To: selfReplica, Term: 3}),
	}})
	if err := n.worker.run(make(chan struct{})); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("run: %v, want ErrCorrupt", err)
	}
	for range 2 {
		if err := answered(t, "call", calls); !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("a call was answered %v, want ErrClosed", err)
		}
	}
	if a := answered(t, "proposal", p.done); !errors.Is(a.err, nexusraft.ErrClosed) {
		t.Errorf("the proposal was answered %v, want ErrClosed", a.err)
	}
	answered(t, "vote", vote.done)
}

var errBadBlock = errors.New("bad block")

// badBlocks is a tree that can't be read.
type badBlocks struct{}

func (badBlocks) Get([]byte) ([]byte, bool, error) { return nil, false, errBadBlock }

func (badBlocks) Scan(_, _ []byte) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) { yield(nexusraft.Pair{}, errBadBlock) }
}

func (b badBlocks) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return b.Scan(start, end)
}

// A disk that can't be read while a command is applied ends the node, not just the zone.
func TestUnreadableStateEndsTheWorker(t *testing.T) {
	n := idleNode(t, false)
	h := host(t, n)
	h.overlay = storage.NewOverlay(badBlocks{})
	if err := h.replica.Campaign(); err != nil {
		t.Fatal(err)
	}
	ended, stop := make(chan error, 1), make(chan struct{})
	go func() { ended <- n.worker.run(stop) }()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if _, err = n.Propose(t.Context(), transport.Proposal{Zone: h.id, Command: []byte("k")}); !errors.Is(err, nexusraft.ErrNotLeader) {
			break
		}
	}
	if !errors.Is(err, nexusraft.ErrUncertain) {
		t.Errorf("propose: %v, want ErrUncertain", err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, errBadBlock) {
			t.Errorf("the worker ended with %v, want %v", err, errBadBlock)
		}
	case <-time.After(5 * time.Second):
		t.Error("the worker goes on with a disk that can't be read")
		close(stop)
		<-ended
	}
}

// Reads that nobody waits for any more don't pile up while there is no leader.
func TestAbandonedReadsAreForgotten(t *testing.T) {
	n, h := admittedNode(t)
	z, err := n.Zone(h.id)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 * readRetryTicks {
		for range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- z.Read(ctx, func(nexusraft.Reader) error { return nil }) }()
			<-n.worker.inbox.wake
			n.worker.drain()
			cancel()
			if err := <-ended; !errors.Is(err, nexusraft.ErrNoQuorum) {
				t.Fatalf("read without a leader: %v, want ErrNoQuorum", err)
			}
		}
		h.tick()
		if _, err := n.worker.turn(); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(h.reads.waiting) + len(h.reads.inFlight); got > 100*(readRetryTicks+1) {
		t.Errorf("%d reads are kept for callers that have gone", got)
	}
}

// A caller that has gone leaves no snapshot behind, which would keep what is deleted later.
func TestAbandonedChecksumKeepsNoSnapshot(t *testing.T) {
	n, h := admittedNode(t)
	open := func() int { return reflect.ValueOf(n.store).Elem().FieldByName("snapshots").Len() }
	for range 50 { // either end of the call may come first
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := n.Checksum(ctx, h.id)
			ended <- err
		}()
		<-n.worker.inbox.wake
		cancel()
		n.worker.drain()
		<-ended
	}
	if got := open(); got != 0 {
		t.Errorf("%d snapshots are open and nobody's", got)
	}
}

// The time to hand over in is that of all zones together.
func TestHandOverEndsForEveryZone(t *testing.T) {
	n := idleNode(t, false)
	for id := range nexusraft.ZoneID(3) {
		n.publish(id+1, published{})
	}
	n.worker.inbox.close() // so no zone is ever handed over
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.handOver()
	}()
	select {
	case <-ended:
	case <-time.After(5 * handOverTimeout):
		t.Fatal("handing over does not end")
	}
}

// A node that is told to stop while its disk hangs still ends: the watchdog sees to it.
func TestStopWithAStuckWorker(t *testing.T) {
	n := idleNode(t, false)
	lis := listenLoopback(t)
	n.listenOn(lis)
	r := n.start(lis, nil)
	inside, release := make(chan struct{}), make(chan struct{})
	err := n.worker.inbox.putCall(func(error) { close(inside); <-release })
	if err != nil {
		t.Fatal(err)
	}
	<-inside
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	<-r.stops
	stuck := errStuck{errors.New("the disk hangs")}
	r.failed <- stuck
	select {
	case err := <-stopped:
		if !errors.Is(err, stuck) {
			t.Errorf("stop returned %v, want the watchdog's error", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("stop waits for ever for a worker that hangs")
	}
	close(release)
	<-r.worker
	r.finish()
}

// A failure while the node stops is its end, not an orderly stop.
func TestStopTellsTheWorkersError(t *testing.T) {
	n := idleNode(t, false)
	lis := listenLoopback(t)
	n.listenOn(lis)
	r := n.start(lis, nil)
	n.worker.inbox.putEvent(func() { panic("raft: out of range") })
	<-r.worker
	if err := r.stop(); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("stop returned %v, want the worker's error", err)
	}
}

// A peer's record is synced, and a disk that hangs in that must not hang the worker, which
// asks for addresses: nobody would see a sync of its own that does not end.
func TestPeersRecordDoesNotHoldTheWorker(t *testing.T) {
	var hang atomic.Bool
	inside, release := make(chan struct{}, 100), make(chan struct{})
	disk := errorfs.Wrap(storage.NewMemFS(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if hang.Load() && op.Kind == errorfs.OpFileSync || hang.Load() && op.Kind == errorfs.OpFileSyncData {
			inside <- struct{}{}
			<-release
		}
		return nil
	}))
	c := Config{Dir: "data", StateMachine: nothing{}, Storage: storage.Options{FS: disk}}
	if _, err := Init(c); err != nil {
		t.Fatal(err)
	}
	n, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	hang.Store(true)
	stored := make(chan error, 1)
	go func() {
		stored <- n.Hello(transport.Identity{Cluster: n.Cluster(), Node: leaderNode, Incarnation: 1, Boot: 1, Address: "127.0.0.1:1"})
	}()
	<-inside
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		n.addressOf(leaderNode, "")
	}()
	select {
	case <-asked:
	case <-time.After(2 * time.Second):
		t.Error("the address of a peer waits for the disk")
	}
	hang.Store(false)
	close(release)
	<-asked
	if err := errors.Join(<-stored, n.Close()); err != nil {
		t.Error(err)
	}
}

// admittedLog is a log that calls f when the node says that it was admitted.
type admittedLog struct {
	slog.Handler
	f func()
}

func (l admittedLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "joined" {
		l.f()
	}
	return nil
}

// What ends the node while it joins ends it, even at the moment when it has joined.
func TestFailureAtTheEndOfTheJoin(t *testing.T) {
	leader := idleNode(t, false)
	lis := listenLoopback(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- leader.Run(ctx, lis, nil) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	n := idleNode(t, true)
	n.listenOn(listenLoopback(t)) // as Run does
	broken := errors.New("the listener is broken")
	r := &running{failed: make(chan error)}
	n.config.Join = []string{lis.Addr().String()}
	n.logger = slog.New(admittedLog{n.logger.Handler(), func() { r.failed <- broken }})
	if err := n.joinWhile(ctx, r); !errors.Is(err, broken) {
		t.Errorf("the join ended with %v, want %v", err, broken)
	}
}

func TestBadRecordsAreNamed(t *testing.T) {
	n := idleNode(t, false)
	b := n.store.NewBatch()
	defer b.Close()
	if err := errors.Join(b.Set(n.trees.node, identityKey, []byte(`{"node":"0"}`)), b.Commit(true)); err != nil {
		t.Fatal(err)
	}
	_, _, err := loadIdentity(n.trees.node)
	if !errors.Is(err, nexusraft.ErrCorrupt) || strings.Contains(err.Error(), "%!") {
		t.Errorf("an identity without a node: %v", err)
	}
	names, err := n.store.Trees()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, statePart) {
			if err := n.store.DropTree(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err = openHosted(n.worker, nexusraft.RootZone)
	if !errors.Is(err, nexusraft.ErrCorrupt) || strings.Contains(err.Error(), "%!") {
		t.Errorf("a zone without its state: %v", err)
	}
}

func listenLoopback(t *testing.T) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return lis
}
