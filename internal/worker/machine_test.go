package worker

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/storage"
)

// Whatever the leader has believed, a replica applies nothing from a raise on that its program does not know: the
// zone stops before it, and what was proposed with it is uncertain.
func TestRaiseThatThisProgramDoesNotKnow(t *testing.T) {
	w, h, _ := amplifying(t, storage.NewMemFS())
	command, err := proto.Marshal(&pb.NodeCommand{Kind: &pb.NodeCommand_RaiseMachineVersion{
		RaiseMachineVersion: &pb.RaiseMachineVersion{Version: 1, RootZone: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	raise, after := propose.New(h.id), propose.New(h.id)
	raise.Own, raise.Command, after.Command = true, command, []byte("after")
	h.propose([]*propose.Call{raise, after})
	w.turns(t)
	for _, p := range []*propose.Call{raise, after} {
		if a := answerOf(t, "proposal", p); !errors.Is(a.err, nexusraft.ErrUncertain) {
			t.Errorf("got %v", a.err)
		}
	}
	if _, err := w.o.Replicas.View(h.id); err == nil || !strings.Contains(err.Error(), "is at version 1") {
		t.Errorf("the zone: got %v", err)
	}
	if v, err := system.MachineVersion(h.state); err != nil || v != 0 {
		t.Errorf("version %d was stored, %v", v, err)
	}
}

// What is proposed in one term is not appended in another one, though this replica leads in both.
func TestProposalOfAnotherTerm(t *testing.T) {
	w, h, _ := amplifying(t, storage.NewMemFS())
	late, now := propose.New(h.id), propose.New(h.id)
	late.Term, now.Term = h.replica.Term()-1, h.replica.Term()
	late.Command, now.Command = []byte("late"), []byte("now")
	h.propose([]*propose.Call{late, now})
	w.turns(t)
	if a := answerOf(t, "proposal of an earlier term", late); !errors.Is(a.err, nexusraft.ErrNotLeader) {
		t.Errorf("got %v", a.err)
	}
	if a := answerOf(t, "proposal of this term", now); a.err != nil {
		t.Error(a.err)
	}
}
