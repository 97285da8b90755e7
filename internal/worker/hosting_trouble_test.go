package worker

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

// recordZone gives the root zone's state the record of one more zone, with a replica on w's node alone.
func recordZone(t *testing.T, w *idleWorker, root *group, name string) {
	t.Helper()
	state := storage.NewOverlay(root.state)
	for _, c := range []*pb.NodeCommand{
		{Kind: &pb.NodeCommand_RaiseClusterVersion{
			RaiseClusterVersion: &pb.RaiseClusterVersion{Minor: system.ZonesVersion},
		}},
		{Kind: &pb.NodeCommand_CreateZone{CreateZone: &pb.CreateZone{Name: name, Machine: "nothing", Nodes: []*pb.Member{
			{Node: uint64(w.ID()), Address: "127.0.0.1:2", Role: pb.Role_ROLE_MEMBER},
		}}}},
	} {
		b, err := proto.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := system.Apply(state, nil, 1, 1, b); errors.Join(err, r.Refused) != nil {
			t.Fatal(err, r.Refused)
		}
	}
	if err := errors.Join(state.WriteTo(w.batch, root.state), w.Commit(nil, true)); err != nil {
		t.Fatal(err)
	}
}

// What the root zone asks for waits while it has stopped on this node; the others go on.
func TestHostWithoutTheRootZone(t *testing.T) {
	w := newIdleWorker(t, false)
	root := host(t, w)
	recordZone(t, w, root, "zone-a")
	w.hosting = toHost{zonesNews: zonesNews{look: true, compare: true}, opened: true, seen: nexusraft.RootZone}
	w.fail(root, errors.New("as a state machine does"))
	if more, err := w.Turn(); more || err != nil {
		t.Errorf("got %v, %v, want no more work and no error", more, err)
	}
	if w.o.Replicas.Has(2) {
		t.Error("a zone was made by records that can't be read")
	}
}

// A disk that comes to be full while zones are made, or has more to drop than one round does, ends nothing;
// with room again the zones are made.
func TestHostOnAFullDisk(t *testing.T) {
	for _, noticed := range []bool{false, true} {
		t.Run(fmt.Sprintf("noticed %v", noticed), func(t *testing.T) {
			disk := storage.NewMemFS()
			w := idleWorkerOn(t, false, disk)
			w.batch.UseReserve()
			root := host(t, w)
			recordZone(t, w, root, "zone-a")
			disk.SetDiskFree(0)
			eventuallyRoom(t, w, false)
			h := &w.hosting
			*h = toHost{zonesNews: zonesNews{look: true}, opened: true, seen: nexusraft.RootZone}
			if noticed {
				w.Room()
				h.deleted = make([]nexusraft.ZoneID, 2*maxHosted) // of zones that were never here
				for i := range h.deleted {
					h.deleted[i] = nexusraft.ZoneID(100 + i)
				}
			}
			for range 4 {
				if _, err := w.Turn(); err != nil {
					t.Fatal(err)
				}
			}
			if w.o.Replicas.Has(2) || len(h.deleted) > 0 {
				t.Errorf("zone made: %v; %d left to drop", w.o.Replicas.Has(2), len(h.deleted))
			}
			disk.SetDiskFree(1 << 40)
			eventuallyRoom(t, w, true)
			w.Room()
			if _, err := w.Turn(); err != nil {
				t.Fatal(err)
			}
			if !w.o.Replicas.Has(2) {
				t.Error("the zone is not made with room again")
			}
		})
	}
}

// eventuallyRoom waits until the store has noticed whether its disk has room.
func eventuallyRoom(t *testing.T, w *idleWorker, want bool) {
	t.Helper()
	for (w.o.Dir.Store.Room() == nil) != want {
		if t.Context().Err() != nil {
			t.Fatal("the store does not notice")
		}
	}
}

// Messages that are lost one after the other, as by a full queue, are one thing to do for the worker; what
// is lost afterwards is another one.
func TestUnreachableIsToldOnce(t *testing.T) {
	w, _ := admittedWorker(t)
	for range 2 {
		for range 2 * inboxBounds.Calls { // which no Call would find room behind
			w.ask.Unreachable(leaderNode)
		}
		if err := w.inbox.Call(func(error) {}); err != nil {
			t.Errorf("a call behind what was lost: %v", err)
		}
		if _, waits := w.lost.Load(leaderNode); !waits {
			t.Error("the worker is not to be told")
		}
		w.loop.Drain()
		if _, waits := w.lost.Load(leaderNode); waits {
			t.Error("the worker was not told")
		}
	}
}
