package node

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/storage"
)

// recordZone gives the root zone's state the record of one more zone, with a replica on n alone.
func recordZone(t *testing.T, n *Node, root *group, name string) {
	t.Helper()
	state := storage.NewOverlay(root.state)
	for _, c := range []*pb.NodeCommand{
		{Kind: &pb.NodeCommand_RaiseClusterVersion{
			RaiseClusterVersion: &pb.RaiseClusterVersion{Minor: system.ZonesVersion},
		}},
		{Kind: &pb.NodeCommand_CreateZone{CreateZone: &pb.CreateZone{Name: name, Machine: "nothing", Nodes: []*pb.Member{
			{Node: uint64(n.ID()), Address: "127.0.0.1:2", Role: pb.Role_ROLE_MEMBER},
		}}}},
	} {
		b, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := system.Apply(state, 1, 1, b); errors.Join(err, r.Refused) != nil {
			t.Fatal(err, r.Refused)
		}
	}
	if err := errors.Join(state.WriteTo(n.worker.batch, root.state), n.worker.Commit(nil, true)); err != nil {
		t.Fatal(err)
	}
}

// What the root zone asks for waits while it has stopped on this node; the others go on.
func TestHostWithoutTheRootZone(t *testing.T) {
	n := idleNode(t, false)
	root := host(t, n)
	recordZone(t, n, root, "zone-a")
	n.worker.hosting = toHost{look: true, compare: true, seen: nexusraft.RootZone}
	n.worker.fail(root, errors.New("as a state machine does"))
	if more, err := n.worker.Turn(); more || err != nil {
		t.Errorf("got %v, %v, want no more work and no error", more, err)
	}
	if n.replicas.Has(2) {
		t.Error("a zone was made by records that can't be read")
	}
}

// A disk that comes to be full while zones are made, or has more to drop than one round does, ends nothing;
// with room again the zones are made.
func TestHostOnAFullDisk(t *testing.T) {
	for _, noticed := range []bool{false, true} {
		t.Run(fmt.Sprintf("noticed %v", noticed), func(t *testing.T) {
			disk := storage.NewMemFS()
			n := idleNodeOn(t, false, disk)
			n.worker.batch.UseReserve()
			root := host(t, n)
			recordZone(t, n, root, "zone-a")
			disk.SetDiskFree(0)
			eventuallyRoom(t, n, false)
			h := &n.worker.hosting
			*h = toHost{look: true, seen: nexusraft.RootZone}
			if noticed {
				n.worker.Room()
				h.deleted = make([]nexusraft.ZoneID, 2*maxHosted) // of zones that were never here
				for i := range h.deleted {
					h.deleted[i] = nexusraft.ZoneID(100 + i)
				}
			}
			for range 4 {
				if _, err := n.worker.Turn(); err != nil {
					t.Fatal(err)
				}
			}
			if n.replicas.Has(2) || len(h.deleted) > 0 {
				t.Errorf("zone made: %v; %d left to drop", n.replicas.Has(2), len(h.deleted))
			}
			disk.SetDiskFree(1 << 40)
			eventuallyRoom(t, n, true)
			n.worker.Room()
			if _, err := n.worker.Turn(); err != nil {
				t.Fatal(err)
			}
			if !n.replicas.Has(2) {
				t.Error("the zone is not made with room again")
			}
		})
	}
}

// eventuallyRoom waits until the store has noticed whether its disk has room.
func eventuallyRoom(t *testing.T, n *Node, want bool) {
	t.Helper()
	for (n.Room() == nil) != want {
		if t.Context().Err() != nil {
			t.Fatal("the store does not notice")
		}
	}
}

// Messages that are lost one after the other, as by a full queue, are one thing to do for the worker; what
// is lost afterwards is another one.
func TestUnreachableIsToldOnce(t *testing.T) {
	n, _ := admittedNode(t)
	for range 2 {
		for range 2 * inboxBounds.Calls { // which no Call would find room behind
			n.unreachable(leaderNode)
		}
		if err := n.worker.inbox.Call(func(error) {}); err != nil {
			t.Errorf("a call behind what was lost: %v", err)
		}
		if _, waits := n.lost.Load(leaderNode); !waits {
			t.Error("the worker is not to be told")
		}
		n.worker.loop.Drain()
		if _, waits := n.lost.Load(leaderNode); waits {
			t.Error("the worker was not told")
		}
	}
}
