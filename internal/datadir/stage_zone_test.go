package datadir

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/storage"
)

const stagedZone nexusraft.ZoneID = 5

var stagedFounders = []nexusraft.Member{
	{Replica: 11, Node: 1, Address: "a:1", Role: nexusraft.RoleMember},
	{Replica: 12, Node: 2, Address: "b:1", Role: nexusraft.RoleMember},
	{Replica: 13, Node: 3, Address: "c:1", Role: nexusraft.RoleWitness},
}

// commit writes what f stages.
func commit(t *testing.T, d *Dir, f func(*storage.Batch) error) {
	t.Helper()
	b := d.Store.NewBatch()
	defer b.Close()
	err := f(b)
	if err == nil {
		err = b.Commit(true)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// staged stages a replica of the zone in a directory of its own, and returns its log.
func staged(t *testing.T, self nexusraft.ReplicaID) (*Dir, *raftlog.Log) {
	t.Helper()
	d := openDir(t)
	commit(t, d, func(b *storage.Batch) error { return d.StageZone(b, stagedZone, self, stagedFounders) })
	log, err := raftlog.Open(d.Raft, stagedZone)
	if err != nil {
		t.Fatal(err)
	}
	tree, ok, err := d.Store.OpenTree(log.Meta().StateTree)
	if err != nil || !ok || !strings.HasPrefix(tree.Name(), "zone/"+stagedZone.String()+"/") {
		t.Errorf("the state %q of replica %v: there %t, %v", log.Meta().StateTree, self, ok, err)
	}
	return d, log
}

// stateTrees returns the trees of zones' states.
func stateTrees(t *testing.T, d *Dir) []string {
	t.Helper()
	names, err := d.Store.Trees()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(names, func(s string) bool { return !strings.HasPrefix(s, statePrefix) })
}

// Two founders make the same, each for itself, but for who it is and what its tree is called.
func TestFoundersBeginAlike(t *testing.T) {
	_, first := staged(t, 11)
	_, second := staged(t, 12)
	a, b := first.Meta(), second.Meta()
	if a.Replica != 11 || b.Replica != 12 || a.StateTree == b.StateTree {
		t.Errorf("replicas %v and %v, with states %q and %q", a.Replica, b.Replica, a.StateTree, b.StateTree)
	}
	b.Replica, b.StateTree = a.Replica, a.StateTree
	if d := cmp.Diff(a, b, protocmp.Transform()); d != "" {
		t.Errorf("the founders differ:\n%s", d)
	}
	if d := cmp.Diff(first.HardState(), second.HardState(), protocmp.Transform()); d != "" {
		t.Errorf("the founders' hard states differ:\n%s", d)
	}
	if !slices.Equal(a.Membership.Members, stagedFounders) ||
		!slices.Equal(a.ConfState.GetVoters(), []uint64{11, 12, 13}) {
		t.Errorf("they begin with %v, voters %v", a.Membership.Members, a.ConfState.GetVoters())
	}
	last, _ := first.LastIndex()
	hs := first.HardState()
	if first.Applied() != second.Applied() || uint64(first.Applied()) != hs.GetCommit() || hs.GetCommit() != last ||
		hs.GetVote() != 0 || last < 2 {
		t.Errorf("applied %d and %d, last %d, hard state %v", first.Applied(), second.Applied(), last, hs)
	}
}

// Whoever is no founder begins with nothing, so that it neither votes nor campaigns.
func TestNonFounderBeginsBlank(t *testing.T) {
	_, log := staged(t, 99)
	last, _ := log.LastIndex()
	hs, m := log.HardState(), log.Meta()
	if last != 0 || log.Applied() != 0 || hs.GetTerm() != 0 || hs.GetVote() != 0 || hs.GetCommit() != 0 ||
		len(m.ConfState.GetVoters()) != 0 || m.Replica != 99 || m.Compacted != 0 {
		t.Errorf("last %d, applied %d, hard state %v, %+v", last, log.Applied(), hs, m)
	}
	if !slices.Equal(m.Membership.Members, stagedFounders) {
		t.Errorf("it knows %v, want the founders, of which one will admit it", m.Membership.Members)
	}
}

// A zone is dropped with its log and its state, and no other's; once more, or one that never was, is no error.
func TestDropZone(t *testing.T) {
	d, _ := staged(t, 11)
	commit(t, d, func(b *storage.Batch) error { return d.StageZone(b, stagedZone+1, 11, stagedFounders) })
	before := len(stateTrees(t, d))
	commit(t, d, func(b *storage.Batch) error { return d.DropZone(b, stagedZone) })
	for _, id := range []nexusraft.ZoneID{stagedZone, stagedZone, stagedZone + 9} {
		commit(t, d, func(b *storage.Batch) error { return d.DropZone(b, id) })
	}
	zones, err := raftlog.Zones(d.Raft)
	if trees := stateTrees(t, d); err != nil || !slices.Equal(zones, []nexusraft.ZoneID{stagedZone + 1}) ||
		before != 2 || len(trees) != 1 || !strings.HasPrefix(trees[0], statePrefix+(stagedZone+1).String()+"/") {
		t.Errorf("left are zones %v (%v), states %v, want those of the other zone", zones, err, trees)
	}
	commit(t, d, func(b *storage.Batch) error { return d.DropZone(b, stagedZone+1) })
	for p, err := range d.Raft.Scan(nil, nil) {
		t.Errorf("left behind in the logs: %x, %v", p.Key, err)
	}
}

// Of a corrupt zone the log goes, and its state when the directory is opened again.
func TestDropCorruptZone(t *testing.T) {
	d, _ := staged(t, 11)
	corrupt(t, d, stagedZone)
	commit(t, d, func(b *storage.Batch) error { return d.DropZone(b, stagedZone) })
	for p, err := range d.Raft.Scan(nil, nil) {
		t.Errorf("left behind in the logs: %x, %v", p.Key, err)
	}
	if err := d.DropOrphans(); err != nil {
		t.Fatal(err)
	}
	if trees := stateTrees(t, d); len(trees) != 0 {
		t.Errorf("states %v are left", trees)
	}
}

// A directory opens with a zone that is corrupt, which stops alone; its state is not taken for an orphan's,
// while those of others are dropped.
func TestOrphansBesideACorruptZone(t *testing.T) {
	d, log := staged(t, 11)
	corrupt(t, d, stagedZone)
	if _, err := d.Store.Tree(NewStateTreeName(stagedZone * 16)); err != nil { // its name begins like the zone's
		t.Fatal(err)
	}
	if err := d.DropOrphans(); err != nil {
		t.Fatal(err)
	}
	if trees := stateTrees(t, d); !slices.Equal(trees, []string{log.Meta().StateTree}) {
		t.Errorf("left are the states %v, want that of the corrupt zone, %s", trees, log.Meta().StateTree)
	}
}

// corrupt damages every record of a zone.
func corrupt(t *testing.T, d *Dir, id nexusraft.ZoneID) {
	t.Helper()
	commit(t, d, func(b *storage.Batch) error {
		for p, err := range d.Raft.Scan(nil, nil) {
			if err != nil {
				return err
			}
			if err := b.Set(d.Raft, slices.Clone(p.Key), []byte("\xff\xff\xff")); err != nil {
				return err
			}
		}
		return nil
	})
	if _, err := raftlog.Open(d.Raft, id); err == nil {
		t.Fatal("the log opens all the same")
	}
}
