package datadir

import (
	"errors"
	"slices"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/storage"
)

// A log that can't be read costs its zone alone, whose state is kept; that of the root zone is an error.
func TestDropOrphansOfDamagedZones(t *testing.T) {
	const other, damaged nexusraft.ZoneID = 3, 2
	d, err := Open("data", &storage.Options{FS: storage.NewMemFS()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b := d.Store.NewBatch()
	defer b.Close()
	members := []nexusraft.Member{{Replica: 5, Node: 7, Role: nexusraft.RoleMember, Address: "a:1"}}
	for _, id := range []nexusraft.ZoneID{nexusraft.RootZone, damaged, other} {
		if err := d.StageZone(b, id, 5, members); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	used, err := d.Store.Trees()
	if err != nil {
		t.Fatal(err)
	}
	orphan, err := d.Store.Tree(NewStateTreeName(other))
	if err != nil {
		t.Fatal(err)
	}
	damage(t, d, damaged)
	if err := d.DropOrphans(); err != nil {
		t.Fatal(err)
	}
	if left, err := d.Store.Trees(); err != nil || !slices.Equal(left, used) {
		t.Errorf("trees: got %v, %v, want %v, without %s", left, err, used, orphan.Name())
	}
	damage(t, d, nexusraft.RootZone)
	if err := d.DropOrphans(); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("with a damaged root zone: got %v, want ErrCorrupt", err)
	}
}

// damage makes a zone's log one that can't be read.
func damage(t *testing.T, d *Dir, zone nexusraft.ZoneID) {
	t.Helper()
	seen := nexusraft.ZoneID(0)
	for p, err := range d.Raft.Scan(nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		if seen = nexusraft.ZoneID(p.Key[7]); seen != zone {
			continue
		}
		if err := d.Raft.Set(p.Key, []byte("damaged")); err != nil {
			t.Fatal(err)
		}
		break
	}
	if _, err := raftlog.Open(d.Raft, zone); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Fatalf("the log of zone %v: %v, want ErrCorrupt", zone, err)
	}
}
