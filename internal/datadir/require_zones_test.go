package datadir

import (
	"errors"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/storage"
)

// TestRequireZones: the directory opens again, as often as it was asked for, and keeps what was in it.
// That earlier releases refuse it, TestEarlierProgramRefusesZones of cmd/nexus-raft shows with one.
func TestRequireZones(t *testing.T) {
	fs := storage.NewMemFS()
	for range 3 {
		d, err := Open("data", &storage.Options{FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		id, _, err := d.Identity()
		if err == nil && id.Node == 0 {
			err = d.Save(peering.RecordChange{Identity: &peering.Identity{Node: 7, Incarnation: 1}})
		} else if id.Node != 7 {
			t.Errorf("it is node %v's, want that of 7", id.Node)
		}
		if err := errors.Join(err, d.RequireZones(), d.RequireZones(), d.Close()); err != nil {
			t.Fatal(err)
		}
		if err := d.RequireZones(); !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("closed: got %v, want ErrClosed", err)
		}
	}
}
