package node

import (
	"context"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/datadir"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// An opening is stored once it speaks to a peer, and not before (I5).
func TestOpeningsThatSpeakCount(t *testing.T) {
	c := Config{
		Dir: "data", StateMachine: nothing{}, Storage: storage.Options{FS: storage.NewMemFS()}, Join: []string{"a:1"},
	}
	var first nexusraft.Incarnation
	for i, speaks := range []bool{true, false, false, true, false} {
		n, err := Open(c)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = n.self().Incarnation
		}
		if want := first + []nexusraft.Incarnation{0, 1, 1, 1, 2}[i]; n.self().Incarnation != want {
			t.Errorf("opening %d is incarnation %d, want %d", i, n.self().Incarnation, want)
		}
		if speaks && n.peering.Introduce().Node == 0 {
			t.Errorf("opening %d has no identity", i)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestForgetLives: a peer that was refused as a copy is met again, and where it was is kept.
func TestForgetLives(t *testing.T) {
	n := idleNode(t, true)
	admit(t, n, "127.0.0.1:1")
	peer := transport.Identity{Cluster: 1, Node: leaderNode, Incarnation: 7, Boot: 3, Address: "a:1"}
	if err := n.Handler().Hello(peer); err != nil {
		t.Fatal(err)
	}
	peer.Boot = 4
	if err := n.Handler().Hello(peer); err == nil {
		t.Fatal("another opening with the same number is accepted")
	}
	if forgotten, err := n.dir.ForgetLives(); err != nil || forgotten == 0 {
		t.Fatalf("got %d, %v", forgotten, err)
	}
	stored, err := n.dir.Load()
	if err != nil || stored.Peers[leaderNode] != (peering.Peer{Address: "a:1"}) {
		t.Fatalf("the record is %+v, %v", stored.Peers[leaderNode], err)
	}
	reopenPeering(t, n)
	if err := n.Handler().Hello(peer); err != nil {
		t.Errorf("it is refused: %v", err)
	}
}

// reopenPeering is the node as after another opening, which has not spoken yet.
func reopenPeering(t *testing.T, n *Node) {
	t.Helper()
	var err error
	n.peering, err = peering.Open(peering.Options{
		Store: n.dir, Members: n.membership, Logger: n.logger, Fail: n.fail,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.peering.Dial(transport.PeersOptions{}).Close)
	n.peering.Serve(n.server)
}

// afterCrash is what a crash leaves of the node's records on the disk.
func afterCrash(t *testing.T, disk *storage.MemFS) peering.Records {
	t.Helper()
	dir, err := datadir.Open("data", &storage.Options{FS: disk.CrashClone(rand.New(rand.NewPCG(1, 1)), 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	records, err := dir.Load()
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// greeter is a peer that does nothing but look at handshakes.
type greeter struct {
	transport.PeerHandler
	hello func(transport.Identity) error
}

func (g greeter) Hello(peer transport.Identity) error           { return g.hello(peer) }
func (g greeter) Receive(nexusraft.NodeID, []transport.Message) {}
func (g greeter) Leaving(nexusraft.NodeID)                      {}
func (g greeter) RequestVote(context.Context, nexusraft.NodeID, []transport.Vote) ([]transport.VoteResult, error) {
	return nil, nexusraft.ErrRefused
}

// TestOpeningIsStoredBeforeItIsTold: whatever peer hears of an opening first, by its own call or by
// the node's, a crash in that moment leaves it on the disk.
func TestOpeningIsStoredBeforeItIsTold(t *testing.T) {
	for _, calls := range []bool{true, false} {
		name := map[bool]string{true: "the node calls", false: "the peer calls"}[calls]
		t.Run(name, func(t *testing.T) {
			disk, lis := storage.NewMemFS(), listenLocal(t)
			peer := transport.Identity{Cluster: 1, Node: leaderNode, Incarnation: 1, Boot: 1, Address: lis.Addr().String()}
			n := reopenedMember(t, disk, peer.Address)
			before := afterCrash(t, disk).Identity
			told := make(chan transport.Identity, 16)
			look := func(id transport.Identity) error {
				if s := afterCrash(t, disk).Identity; s.Incarnation != id.Incarnation || s.Boots[0] != id.Boot {
					t.Errorf("it says incarnation %d, and %d is on the disk", id.Incarnation, s.Incarnation)
				}
				select {
				case told <- id:
				default:
				}
				return nil
			}
			own := listenLocal(t)
			if calls {
				srv := grpc.NewServer(transport.ServerOptions()...)
				handlers := transport.Handlers{Peer: greeter{hello: look}}
				server := transport.NewServer(func() transport.Identity { return peer }, handlers)
				server.Register(srv)
				go srv.Serve(lis)
				defer server.Close()
				defer srv.Stop()
			} else if err := lis.Close(); err != nil {
				t.Fatal(err)
			}
			runUntilTheEnd(t, n, own)
			if !calls {
				p := transport.NewPeers(func() transport.Identity { return peer }, transport.PeersOptions{Accept: look})
				defer p.Close()
				p.SetAddress(n.ID(), own.Addr().String())
			}
			select {
			case id := <-told:
				if id.Incarnation != before.Incarnation+1 {
					t.Errorf("it says incarnation %d after %d", id.Incarnation, before.Incarnation)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("nobody was told anything")
			}
		})
	}
}

func listenLocal(t *testing.T) net.Listener {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return lis
}

// reopenedMember is a node that was admitted by a peer at an address, and is opened again.
func reopenedMember(t *testing.T, disk storage.FS, peer string) *Node {
	t.Helper()
	n := idleNodeOn(t, true, disk)
	admit(t, n, peer)
	c := n.config
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	c.Join, c.Advertise = nil, ""
	n, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func runUntilTheEnd(t *testing.T, n *Node, lis net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx, lis, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// TestCountingKeepsTheRecord: how the directory was served is still known after the opening counts.
func TestCountingKeepsTheRecord(t *testing.T) {
	disk := storage.NewMemFS()
	n := reopenedMember(t, disk, "127.0.0.1:1")
	defer n.Close()
	mode := peering.FromFiles
	if err := n.dir.Save(peering.RecordChange{TLSMode: &mode}); err != nil {
		t.Fatal(err)
	}
	if err := n.peering.Count(); err != nil {
		t.Fatal(err)
	}
	if got := afterCrash(t, disk); got.TLSMode != peering.FromFiles || got.Identity.Cluster != 1 {
		t.Errorf("the record is %+v", got)
	}
}
