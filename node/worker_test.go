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
	"github.com/nexi-lab/nexus-raft/internal/datadir"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/internal/replicas"
	"github.com/nexi-lab/nexus-raft/internal/snapshot"
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
func idleNode(t testing.TB, join bool) *Node {
	t.Helper()
	return idleNodeOn(t, join, storage.NewMemFS())
}

func idleConfig(t testing.TB, disk storage.FS) Config {
	return Config{
		Dir: "data", StateMachine: nothing{}, Storage: storage.Options{FS: disk},
		Machines: map[string]nexusraft.StateMachine{"keeping": keeping{}},
		Logger:   slog.New(slog.NewTextHandler(t.Output(), nil)), TickInterval: TestTick / 2,
	}
}

func idleNodeOn(t testing.TB, join bool, disk storage.FS) *Node {
	t.Helper()
	c := idleConfig(t, disk)
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
	n.worker.batch = n.dir.Store.NewBatch()
	return n
}

// host has the node's worker host the root zone.
func host(t testing.TB, n *Node) *group {
	t.Helper()
	g, err := openGroup(n.worker, nexusraft.RootZone, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := g.openMachine(); err != nil {
		t.Fatal(err)
	}
	n.worker.add(g)
	return g
}

func admittedNode(t *testing.T) (*Node, *group) {
	t.Helper()
	n := idleNode(t, true)
	err := n.peering.Admitted(transport.JoinResult{
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

// arrived is a snapshot that has arrived from a node, and the message that announces it.
type arrived struct {
	from     nexusraft.NodeID
	message  *raftpb.Message
	received *snapshot.Received
}

// offer hands it to the worker.
func (a arrived) offer(t *testing.T, n *Node) {
	t.Helper()
	if err := n.putSnapshot(a.from, nexusraft.RootZone, a.message, a.received); err != nil {
		t.Fatal(err)
	}
}

func snapshotAt(t *testing.T, n *Node, from nexusraft.NodeID, index nexusraft.Index) arrived {
	t.Helper()
	tree, err := n.dir.Store.Tree(datadir.NewStateTreeName(nexusraft.RootZone))
	if err != nil {
		t.Fatal(err)
	}
	return arrived{
		from: from,
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
			var in []arrived
			for i, index := range x.indexes {
				in = append(in, snapshotAt(t, n, x.from[i], index))
				in[i].offer(t, n)
			}
			n.worker.loop.Drain()
			if _, err := n.worker.Turn(); err != nil {
				t.Fatalf("round with two snapshots: %v", err)
			}
			for i, m := range in {
				err := answered(t, fmt.Sprint("snapshot ", i), m.received.Ended())
				if (err == nil) != (i == x.want) {
					t.Errorf("snapshot %d ended with %v", i, err)
				}
			}
			if h.state != in[x.want].received.Tree || h.log.Applied() != x.indexes[x.want] {
				t.Errorf("state is %s at %d, want %s at %d", h.state.Name(), h.log.Applied(), in[x.want].received.Tree.Name(),
					x.indexes[x.want])
			}
		})
	}
}

// Who waits for a snapshot to be taken up waits without a deadline: it must always hear.
func TestSnapshotOfAStoppingZone(t *testing.T) {
	t.Run("the disk fails", func(t *testing.T) {
		n, _ := admittedNode(t)
		m := snapshotAt(t, n, leaderNode, 20)
		if err := n.dir.Store.Close(); err != nil {
			t.Fatal(err)
		}
		m.offer(t, n)
		if err := n.worker.run(make(chan struct{})); !errors.Is(err, nexusraft.ErrClosed) {
			t.Fatalf("run with a closed store: %v, want ErrClosed", err)
		}
		if err := answered(t, "snapshot", m.received.Ended()); !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("the snapshot ended with %v, want ErrClosed", err)
		}
	})
	t.Run("the zone fails", func(t *testing.T) {
		n, h := admittedNode(t)
		m := snapshotAt(t, n, leaderNode, 20)
		m.offer(t, n)
		n.worker.loop.Drain()
		n.worker.fail(h, errors.New("as a state machine does"))
		if err := answered(t, "snapshot", m.received.Ended()); !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("the snapshot ended with %v, want ErrClosed", err)
		}
	})
}

// raft panics where its log contradicts itself. Whoever waited in the same round is told.
func TestPanicWhileDraining(t *testing.T) {
	n, h := admittedNode(t)
	calls := make(chan error, 2)
	vote := raftwire.NewWaiter(transport.Vote{Zone: h.id})
	p := propose.New(h.id)
	err := errors.Join(
		n.worker.inbox.Call(func(err error) {
			if err == nil {
				panic("raft: out of range")
			}
			calls <- err
		}),
		n.worker.inbox.Call(func(err error) { calls <- err }),
		n.worker.put(p),
	)
	if err != nil {
		t.Fatal(err)
	}
	n.worker.inbox.Put([]driver.Inbound{{
		Zone: h.id, From: leaderNode, Vote: vote,
		Message: raftwire.NewWaiter(transport.Vote{From: leaderReplica, To: selfReplica, Term: 3}).Message(),
	}})
	if err := n.worker.run(make(chan struct{})); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("run: %v, want ErrCorrupt", err)
	}
	for range 2 {
		if err := answered(t, "call", calls); !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("a call was answered %v, want ErrClosed", err)
		}
	}
	if a := answerOf(t, "proposal", p); !errors.Is(a.err, nexusraft.ErrClosed) {
		t.Errorf("the proposal was answered %v, want ErrClosed", a.err)
	}
	answered(t, "vote", vote.Done())
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
	if err := h.replica.Campaign(); err != nil {
		t.Fatal(err)
	}
	ended, stop := make(chan error, 1), make(chan struct{})
	go func() { ended <- n.worker.run(stop) }()
	propose := func() error {
		_, err := n.Handler().Propose(t.Context(), transport.Proposal{Zone: h.id, Command: []byte("k")})
		return err
	}
	err := propose()
	deadline := time.Now().Add(10 * time.Second)
	for errors.Is(err, nexusraft.ErrNotLeader) && time.Now().Before(deadline) {
		err = propose()
	}
	_, bad := ask(t.Context(), n, h.id, func(g *group) (struct{}, error) {
		g.overlay = storage.NewOverlay(badBlocks{})
		return struct{}{}, nil
	})
	if err != nil || bad != nil {
		t.Fatal(err, bad)
	}
	if err = propose(); !errors.Is(err, nexusraft.ErrUncertain) {
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
	for range 40 {
		for range 100 {
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- z.Read(ctx, func(nexusraft.Reader) error { return nil }) }()
			<-n.worker.inbox.Woken()
			n.worker.loop.Drain()
			cancel()
			if err := <-ended; !errors.Is(err, nexusraft.ErrNoQuorum) {
				t.Fatalf("read without a leader: %v, want ErrNoQuorum", err)
			}
		}
		h.tick()
		if _, err := n.worker.Turn(); err != nil {
			t.Fatal(err)
		}
	}
	if got := h.group.Reads(); got > 100 {
		t.Errorf("%d reads are kept for callers that have gone", got)
	}
}

// A caller that has gone leaves no snapshot behind, which would keep what is deleted later.
func TestAbandonedChecksumKeepsNoSnapshot(t *testing.T) {
	n, h := admittedNode(t)
	open := func() int { return reflect.ValueOf(n.dir.Store).Elem().FieldByName("snapshots").Len() }
	for range 50 { // either end of the call may come first
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := n.checksum(ctx, h.id)
			ended <- err
		}()
		<-n.worker.inbox.Woken()
		cancel()
		n.worker.loop.Drain()
		<-ended
	}
	if got := open(); got != 0 {
		t.Errorf("%d snapshots are open and nobody's", got)
	}
}

// Before a node is ready its zones are not unknown: a caller tries again.
func TestZonesBeforeReady(t *testing.T) {
	n := idleNode(t, false)
	if _, err := n.Zone(9); !errors.Is(err, nexusraft.ErrOverloaded) || errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("while the node starts: %v, want ErrOverloaded", err)
	}
	close(n.ready)
	if _, err := n.Zone(9); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("once it is ready: %v, want ErrZoneNotFound", err)
	}
}

// The time to hand over in is that of all zones together.
func TestHandOverEndsForEveryZone(t *testing.T) {
	n := idleNode(t, false) // whose worker does nothing, so that no zone is ever handed over
	for id := range nexusraft.ZoneID(3) {
		n.replicas.Publish(id+1, replicas.Known{})
	}
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
		stored <- n.Handler().Hello(transport.Identity{
			Cluster: n.Cluster(), Node: leaderNode, Incarnation: 1, Boot: 1,
			Address: "127.0.0.1:1",
		})
	}()
	<-inside
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		n.peering.AddressOf(leaderNode, "")
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
	broken := errors.New("the listener is broken")
	failed := make(chan error)
	n, err := Open(Config{
		Dir: "data", StateMachine: nothing{}, Storage: storage.Options{FS: storage.NewMemFS()},
		TickInterval: TestTick / 2, Join: []string{lis.Addr().String()},
		Logger: slog.New(admittedLog{slog.NewTextHandler(t.Output(), nil), func() { failed <- broken }}),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	n.peering.ListenOn(listenLoopback(t).Addr()) // as Run does
	if err := n.joinWhile(ctx, failed); !errors.Is(err, broken) {
		t.Errorf("the join ended with %v, want %v", err, broken)
	}
}

func TestZoneWithoutStateIsNamed(t *testing.T) {
	n := idleNode(t, false)
	names, err := n.dir.Store.Trees()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "zone/") {
			if err := n.dir.Store.DropTree(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err = openGroup(n.worker, nexusraft.RootZone, "")
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
