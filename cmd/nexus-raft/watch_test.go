package main

import (
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// Where to go on after some of a batch's changes: no change is left out, also of a revision that comes in parts.
func TestAfterChange(t *testing.T) {
	change := func(r nexusraft.Revision) client.KeyChange {
		return client.KeyChange{Pair: client.KeyValue{ModRevision: r}}
	}
	whole := client.KeyChanges{
		Changes: []client.KeyChange{change(3), change(3), change(5), change(7), change(7)}, Through: 9,
	}
	for i, want := range []nexusraft.Revision{3, 5, 7, 7, 10} {
		if got := afterChange(whole, i); got != want {
			t.Errorf("after change %d: got %d, want %d", i, got, want)
		}
	}
	part := client.KeyChanges{Changes: []client.KeyChange{change(3)}, Through: 2}
	if got := afterChange(part, 0); got != 3 {
		t.Errorf("after a part of revision 3: got %d", got)
	}
}
