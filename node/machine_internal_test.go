package node

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
	n, h, _ := amplifying(t, storage.NewMemFS())
	command, err := proto.Marshal(&pb.NodeCommand{Kind: &pb.NodeCommand_RaiseMachineVersion{
		RaiseMachineVersion: &pb.RaiseMachineVersion{Version: 1, RootZone: true},
	}})
	if err != nil {
		t.Fatal(err)
	}
	raise, after := propose.New(h.id), propose.New(h.id)
	raise.Own, raise.Command, after.Command = true, command, []byte("after")
	h.propose([]*propose.Call{raise, after})
	n.turns(t)
	for _, p := range []*propose.Call{raise, after} {
		if a := answerOf(t, "proposal", p); !errors.Is(a.err, nexusraft.ErrUncertain) {
			t.Errorf("got %v", a.err)
		}
	}
	if _, err := n.replicas.View(h.id); err == nil || !strings.Contains(err.Error(), "is at version 1") {
		t.Errorf("the zone: got %v", err)
	}
	if v, err := system.MachineVersion(h.state); err != nil || v != 0 {
		t.Errorf("version %d was stored, %v", v, err)
	}
}

// Notes that wait are bounded on the node, and those of an ended call count no more.
func TestNotesAreBounded(t *testing.T) {
	n := &Node{}
	call := func() *leadership {
		return &leadership{
			node: n, cancel: func(error) {}, ended: make(chan struct{}), more: make(chan struct{}, 1),
		}
	}
	notes := make([]nexusraft.Note, maxNotes/2)
	a, b, c := call(), call(), call()
	if a.put(append(notes, nexusraft.Note{})) {
		t.Error("one zone got more than half of the room")
	}
	if !a.put(notes) || a.put(notes[:1]) {
		t.Error("one zone got more than half of the room, or less")
	}
	if !b.put(notes[1:]) || !c.put(notes[:1]) || c.put(notes[:1]) {
		t.Error("all zones got more than there is room for, or less")
	}
	if _, err := b.NextNote(t.Context()); err != nil {
		t.Error(err)
	}
	if !c.put(notes[:1]) {
		t.Error("the room of a note that was taken is lost")
	}
	why := errors.New("over")
	if !a.end(why) || a.end(why) || !a.put(notes) {
		t.Error("a call ends once")
	}
	if _, err := a.NextNote(t.Context()); !errors.Is(err, why) {
		t.Errorf("the next note of an ended call: got %v", err)
	}
	b.end(why)
	c.end(why)
	if left := n.leads.waiting.Load(); left != 0 {
		t.Errorf("%d notes count for ever", left)
	}
}

// What is proposed in one term is not appended in another one, though this replica leads in both.
func TestProposalOfAnotherTerm(t *testing.T) {
	n, h, _ := amplifying(t, storage.NewMemFS())
	late, now := propose.New(h.id), propose.New(h.id)
	late.Term, now.Term = h.replica.Term()-1, h.replica.Term()
	late.Command, now.Command = []byte("late"), []byte("now")
	h.propose([]*propose.Call{late, now})
	n.turns(t)
	if a := answerOf(t, "proposal of an earlier term", late); !errors.Is(a.err, nexusraft.ErrNotLeader) {
		t.Errorf("got %v", a.err)
	}
	if a := answerOf(t, "proposal of this term", now); a.err != nil {
		t.Error(a.err)
	}
}
