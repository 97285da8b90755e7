package leading

import (
	"errors"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Notes that wait are bounded on the node, and those of an ended call count no more.
func TestNotesAreBounded(t *testing.T) {
	x := New(Options{})
	call := func() *Lead {
		return &Lead{of: x, cancel: func(error) {}, ended: make(chan struct{}), more: make(chan struct{}, 1)}
	}
	notes := make([]nexusraft.Note, MaxNotes/2)
	a, b, c := call(), call(), call()
	if a.Put(append(notes, nexusraft.Note{})) {
		t.Error("one zone got more than half of the room")
	}
	if !a.Put(notes) || a.Put(notes[:1]) {
		t.Error("one zone got more than half of the room, or less")
	}
	if !b.Put(notes[1:]) || !c.Put(notes[:1]) || c.Put(notes[:1]) {
		t.Error("all zones got more than there is room for, or less")
	}
	if _, err := b.NextNote(t.Context()); err != nil {
		t.Error(err)
	}
	if !c.Put(notes[:1]) {
		t.Error("the room of a note that was taken is lost")
	}
	why := errors.New("over")
	if !a.End(why) || a.End(why) || !a.Put(notes) {
		t.Error("a call ends once")
	}
	if _, err := a.NextNote(t.Context()); !errors.Is(err, why) {
		t.Errorf("the next note of an ended call: got %v", err)
	}
	b.End(why)
	c.End(why)
	if left := x.waiting.Load(); left != 0 {
		t.Errorf("%d notes count for ever", left)
	}
}
