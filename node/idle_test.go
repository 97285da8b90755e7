package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/replicas"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// nothing is a state machine that does nothing.
type nothing struct{}

func (nothing) Apply(nexusraft.Tx, nexusraft.Command) ([]byte, error) { return nil, nil }

// The admission of the node that admit admits.
const (
	selfReplica   nexusraft.ReplicaID = 7
	leaderReplica nexusraft.ReplicaID = 5
	leaderNode    nexusraft.NodeID    = 0x55
)

// idleNode is an opened node that does not run.
func idleNode(t testing.TB, join bool) *Node {
	t.Helper()
	return idleNodeOn(t, join, storage.NewMemFS())
}

func idleNodeOn(t testing.TB, join bool, disk storage.FS) *Node {
	t.Helper()
	c := Config{
		Dir: "data", StateMachine: nothing{}, Storage: storage.Options{FS: disk},
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil)), TickInterval: TestTick / 2,
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
	return n
}

// admit makes an idle node a learner beside a member at an address.
func admit(t *testing.T, n *Node, peer string) {
	t.Helper()
	members := nexusraft.Membership{Shape: nexusraft.DefaultShape}.
		With(nexusraft.Member{Replica: leaderReplica, Node: leaderNode, Address: peer, Role: nexusraft.RoleMember}).
		With(nexusraft.Member{Replica: selfReplica, Node: n.ID(), Address: "127.0.0.1:2", Role: nexusraft.RoleLearner})
	err := n.peering.Admitted(transport.JoinResult{
		Cluster: 1, Zone: nexusraft.RootZone, Replica: selfReplica, Membership: members,
	}, nil)
	if err != nil {
		t.Fatal(err)
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

func listenLoopback(t *testing.T) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return lis
}
