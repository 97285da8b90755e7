package worker

import (
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/datadir"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// incarnationAfterCrash is which incarnation a crash leaves in the node's record on the disk.
func incarnationAfterCrash(t *testing.T, disk *storage.MemFS) nexusraft.Incarnation {
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
	return records.Identity.Incarnation
}

// reopenPeering is the worker's node as after another opening, which has not spoken yet.
func reopenPeering(t *testing.T, w *idleWorker) {
	t.Helper()
	known := func() nexusraft.Membership { return w.o.Replicas.Members(nexusraft.RootZone) }
	p, err := openPeering(w.o.Dir, false, known, w.o.Logger)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Dial(transport.PeersOptions{}).Close)
	p.Serve(w.server)
	w.o.Peering = p
}

// TestOnlyVoterCounts: a replica that needs no peer gives its commands an incarnation, so that is
// stored once it is its zone's only voter: at the opening, or by a conf change while it runs.
func TestOnlyVoterCounts(t *testing.T) {
	disk := storage.NewMemFS()
	w := idleWorkerOn(t, false, disk)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w, err := reopen(disk, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if incarnationAfterCrash(t, disk) == w.o.Peering.Self().Incarnation {
		t.Fatal("an opening counts although nothing has run")
	}
	host(t, w)
	if got := incarnationAfterCrash(t, disk); got != w.o.Peering.Self().Incarnation {
		t.Errorf("the only voter is incarnation %d, and %d is on the disk", w.o.Peering.Self().Incarnation, got)
	}

	w, h, _ := votingWorker(t)
	reopenPeering(t, w)
	a := appendOf(20, 2, 2, 0, 22)
	a.Message.Entries = []*raftpb.Entry{leaving(t, 21, leaderReplica, witnessReplica), leaving(t, 22)}
	w.turnWith(t, a)
	id, _, err := w.o.Dir.Identity()
	if h.log.Applied() != 22 || id.Incarnation != w.o.Peering.Self().Incarnation || err != nil {
		t.Errorf("applied %d as incarnation %d, and %d is on the disk (%v)", h.log.Applied(), w.o.Peering.Self().Incarnation,
			id.Incarnation, err)
	}
}

// leaving is the entry of a conf change that removes voters, or, without any, leaves the joint
// configuration.
func leaving(t *testing.T, index uint64, remove ...nexusraft.ReplicaID) *raftpb.Entry {
	t.Helper()
	e := &raftpb.Entry{Type: raftpb.EntryConfChangeV2.Enum(), Term: new(uint64(2)), Index: new(index)}
	if len(remove) == 0 {
		return e
	}
	cc := &raftpb.ConfChangeV2{Transition: raftpb.ConfChangeTransitionJointImplicit.Enum()}
	for _, id := range remove {
		cc.Changes = append(cc.Changes, &raftpb.ConfChangeSingle{
			Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: new(uint64(id)),
		})
	}
	var err error
	cc.Context, err = json.Marshal(map[string]any{
		"proposal": zone.ProposalID{Replica: leaderReplica, Incarnation: 1, Sequence: index},
	})
	if err != nil {
		t.Fatal(err)
	}
	if e.Data, err = proto.Marshal(cc); err != nil {
		t.Fatal(err)
	}
	return e
}
