package raftlog

import (
	"errors"
	"slices"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

func TestCreate(t *testing.T) {
	s, tree := newTree(t)
	l := founded(t, s, tree)
	want := dump{Meta: testMeta(10, 2), HardState: hardState(2, 1, 10), Applied: 10}
	if d := diff(dumpLog(t, l), want); d != "" {
		t.Errorf("founder (-want +got):\n%s", d)
	}
	snap, err := l.Snapshot()
	must(t, err)
	if got := snap.GetMetadata(); got.GetIndex() != 10 || got.GetTerm() != 2 {
		t.Errorf("founder's snapshot: got %v, want index 10 of term 2", got)
	}

	joiner := Meta{Replica: 2, StateTree: "state"}
	write(t, s, func(b *storage.Batch) error { return Create(b, tree, 8, joiner, nil, 0) })
	l = reopen(t, tree, 8)
	joiner.ConfState = confState()
	want = dump{Meta: joiner, HardState: hardState(0, 0, 0)}
	if d := diff(dumpLog(t, l), want); d != "" {
		t.Errorf("joiner (-want +got):\n%s", d)
	}
	if _, err := l.Snapshot(); !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		t.Errorf("joiner's snapshot: got %v, want ErrSnapshotTemporarilyUnavailable", err)
	}

	b := s.NewBatch()
	defer b.Close()
	if err := Create(b, tree, zone, testMeta(10, 2), hardState(2, 1, 10), 10); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("second replica of a zone: got %v, want ErrRefused", err)
	}
	if err := Create(b, tree, 9, testMeta(10, 2), hardState(2, 1, 10), 11); err == nil {
		t.Error("a replica that has applied what it has no log for: got no error")
	}
	if !b.Empty() {
		t.Error("a refused Create has staged something")
	}
}

func TestZones(t *testing.T) {
	s, tree := newTree(t)
	got, err := Zones(tree)
	if err != nil || len(got) != 0 {
		t.Errorf("empty tree: got %v, %v", got, err)
	}
	want := []nexusraft.ZoneID{0, 1, 255, 256, 1 << 40, ^nexusraft.ZoneID(0)}
	for _, z := range want {
		write(t, s, func(b *storage.Batch) error { return Create(b, tree, z, testMeta(10, 2), hardState(2, 1, 10), 10) })
		l := reopen(t, tree, z)
		write(t, s, func(b *storage.Batch) error { return l.Append(b, entries(11, 3, 2)) })
	}
	got, err = Zones(tree)
	must(t, err)
	if d := diff(got, want); d != "" {
		t.Errorf("zones (-want +got):\n%s", d)
	}
	for _, z := range want {
		if l := reopen(t, tree, z); l.Len() != 3 {
			t.Errorf("zone %v: got %d entries, want 3", z, l.Len())
		}
	}
	if _, err := Open(tree, 2); !errors.Is(err, nexusraft.ErrZoneNotFound) {
		t.Errorf("a zone that is not there: got %v, want ErrZoneNotFound", err)
	}
}

// Invariant I7: of a conflicting suffix, nothing is left, in memory or on disk.
func TestAppendReplacesConflictingSuffix(t *testing.T) {
	for _, tc := range []struct {
		name string
		add  []*raftpb.Entry
		last uint64
	}{
		{"shorter", entries(12, 1, 3), 12},
		{"as long", entries(12, 4, 3), 15},
		{"longer", entries(12, 9, 3), 20},
		{"whole log", entries(11, 1, 3), 11},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, tree := newTree(t)
			l := founded(t, s, tree)
			write(t, s, func(b *storage.Batch) error { return l.Append(b, entries(11, 5, 2)) })
			l = reopen(t, tree, zone) // so that the old entries are on disk only
			write(t, s, func(b *storage.Batch) error {
				return errors.Join(l.Append(b, tc.add), l.SetHardState(b, hardState(3, 0, 10)))
			})
			staged := dumpLog(t, l)
			if got, _ := l.LastIndex(); got != tc.last {
				t.Errorf("last index: got %d, want %d", got, tc.last)
			}
			if d := diff(dumpLog(t, reopen(t, tree, zone)), staged); d != "" {
				t.Errorf("after reopening (-want +got):\n%s", d)
			}
			if _, err := l.Term(tc.last + 1); !errors.Is(err, raft.ErrUnavailable) {
				t.Errorf("term after the last: got %v, want ErrUnavailable", err)
			}
		})
	}
}

// What is staged can be read before it is committed, also when it is more than the cache
// holds, and however many batches went before.
func TestStagedEntriesAreReadable(t *testing.T) {
	s, tree := newTree(t)
	l := founded(t, s, tree)
	l.tail.maxEntries, l.tail.maxBytes = 4, 4*weight(entry(1, 1, "payload"))
	b := s.NewBatch()
	defer b.Close()
	want := []*raftpb.Entry{}
	for _, n := range []int{3, 20, 1, 9} {
		add := entries(11+len(want), n, 3)
		want = append(want, add...)
		must(t, l.Append(b, add))
		if d := diff(dumpLog(t, l).Entries, want); d != "" {
			t.Fatalf("staged entries (-want +got):\n%s", d)
		}
		if got := len(l.tail.entries); got > 4+n {
			t.Errorf("the cache has %d entries after an append of %d, its bound is 4", got, n)
		}
		must(t, b.Commit(true))
		b.Reset()
	}
}

func TestTailKeepsItsByteBound(t *testing.T) {
	s, tree := newTree(t)
	l := founded(t, s, tree)
	big := strings.Repeat("x", 1<<20)
	for i := uint64(11); i < 21; i++ {
		write(t, s, func(b *storage.Batch) error { return l.Append(b, []*raftpb.Entry{entry(i, 2, big)}) })
		if l.tail.bytes > maxTailBytes+1<<21 {
			t.Fatalf("the cache holds %d bytes", l.tail.bytes)
		}
	}
	if got := len(dumpLog(t, l).Entries); got != 10 {
		t.Errorf("got %d entries, want 10", got)
	}
}

// The slice that Entries returns is the caller's to append to.
// Logs that share memory keep to its bound by what they append, each has what it has appended last all the same, and
// what they forget is given back.
func TestTailsShareMemory(t *testing.T) {
	const logs, rounds, each = 8, 40, 32 << 10
	s, tree := newTree(t)
	m := NewMemory(4 * minTailBytes)
	all := make([]*Log, logs)
	for i := range all {
		z := nexusraft.ZoneID(100 + i)
		write(t, s, func(b *storage.Batch) error { return Create(b, tree, z, testMeta(10, 2), hardState(2, 1, 10), 10) })
		all[i] = reopen(t, tree, z)
		all[i].Share(m)
	}
	most := int64(0)
	for n := range uint64(rounds) {
		for _, l := range all {
			write(t, s, func(b *storage.Batch) error {
				if err := l.Append(b, []*raftpb.Entry{entry(11+n, 2, strings.Repeat("x", each))}); err != nil {
					return err
				}
				if got := len(l.tail.entries); got == 0 || l.tail.entries[got-1].GetIndex() != 11+n {
					t.Fatalf("entry %d is staged, and not in memory", 11+n)
				}
				return nil
			})
			most = max(most, m.Used())
		}
	}
	if limit := int64(4*minTailBytes + logs*(minTailBytes+each+each/2)); most > limit || most < 4*minTailBytes {
		t.Errorf("the logs had up to %d bytes in memory, want %d to %d", most, 4*minTailBytes, limit)
	}
	for _, l := range all {
		l.Forget()
		if got, err := l.Entries(11, 11+rounds, 1<<30); err != nil || len(got) != rounds {
			t.Errorf("after Forget: %d entries, %v", len(got), err)
		}
	}
	if m.Used() != 0 {
		t.Errorf("all logs have forgotten, and %d bytes are in memory", m.Used())
	}
}

func TestEntriesAreNotAliased(t *testing.T) {
	s, tree := newTree(t)
	l := founded(t, s, tree)
	write(t, s, func(b *storage.Batch) error { return l.Append(b, entries(11, 5, 2)) })
	want := dumpLog(t, l)
	got, err := l.Entries(11, 13, ^uint64(0))
	must(t, err)
	_ = append(got, entry(99, 99, "foreign"))
	clear(got)
	if d := diff(dumpLog(t, l), want); d != "" {
		t.Errorf("the log changed with its caller's slice (-want +got):\n%s", d)
	}
}

// TestCompactOver: the older half of a log over its bounds goes, but for what a snapshot on its way needs.
func TestCompactOver(t *testing.T) {
	for name, tc := range map[string]struct {
		entries int
		bytes   int64
		needed  []nexusraft.Index
		want    nexusraft.Index
	}{
		"within its bounds":                {entries: 20, bytes: 1 << 20, want: 10},
		"too many entries":                 {entries: 19, bytes: 1 << 20, want: 21},
		"too many bytes":                   {entries: 20, bytes: 19, want: 21},
		"a snapshot is on its way":         {entries: 19, bytes: 1 << 20, needed: []nexusraft.Index{25, 14}, want: 14},
		"four times too many all the same": {entries: 4, bytes: 1 << 20, needed: []nexusraft.Index{14}, want: 21},
		"not all of half is applied":       {entries: 2, bytes: 1 << 20, want: 17},
	} {
		t.Run(name, func(t *testing.T) {
			s, tree := newTree(t)
			l := founded(t, s, tree)
			applied := nexusraft.Index(30)
			if tc.want == 17 {
				applied = 17
			}
			write(t, s, func(b *storage.Batch) error {
				return errors.Join(l.Append(b, entries(11, 20, 2)), l.SetHardState(b, hardState(2, 1, 30)),
					l.SetApplied(b, applied))
			})
			write(t, s, func(b *storage.Batch) error {
				return l.CompactOver(b, tc.entries, tc.bytes, slices.Values(tc.needed))
			})
			if got := l.Meta().Compacted; got != tc.want {
				t.Errorf("compacted up to %d, want %d", got, tc.want)
			}
		})
	}
}

func TestCompact(t *testing.T) {
	s, tree := newTree(t)
	l := founded(t, s, tree)
	write(t, s, func(b *storage.Batch) error {
		return errors.Join(l.Append(b, append(entries(11, 5, 2), entries(16, 5, 4)...)),
			l.SetHardState(b, hardState(4, 1, 18)), l.SetApplied(b, 17))
	})
	b := s.NewBatch()
	defer b.Close()
	if err := l.Compact(b, 18); err == nil {
		t.Error("compacting what is not applied: got no error")
	}
	must(t, l.Compact(b, 10))
	if !b.Empty() {
		t.Error("compacting what is compacted has staged something")
	}
	must(t, l.Compact(b, 17))
	must(t, b.Commit(false))

	if got := l.Meta(); got.Compacted != 17 || got.CompactedTerm != 4 {
		t.Errorf("compacted: got %d of term %d, want 17 of term 4", got.Compacted, got.CompactedTerm)
	}
	if got := len(l.tail.entries); got != 3 {
		t.Errorf("the cache holds %d entries, want the 3 that are left", got)
	}
	if _, err := l.Entries(17, 18, 1); !errors.Is(err, raft.ErrCompacted) {
		t.Errorf("a compacted entry: got %v, want ErrCompacted", err)
	}
	if _, err := l.Term(16); !errors.Is(err, raft.ErrCompacted) {
		t.Errorf("term before the compacted entry: got %v, want ErrCompacted", err)
	}
	if got, err := l.Term(17); err != nil || got != 4 {
		t.Errorf("term of the compacted entry: got %d, %v, want 4", got, err)
	}
	if d := diff(dumpLog(t, reopen(t, tree, zone)), dumpLog(t, l)); d != "" {
		t.Errorf("after reopening (-want +got):\n%s", d)
	}
}

func TestInstallSnapshotDropsTheWholeLog(t *testing.T) {
	s, tree := newTree(t)
	l := founded(t, s, tree)
	write(t, s, func(b *storage.Batch) error { return l.Append(b, entries(11, 20, 2)) }) // beyond the snapshot
	m := testMeta(15, 3)
	m.StateTree = "staged"
	m.ConfState = confState(1, 2)
	write(t, s, func(b *storage.Batch) error {
		return l.InstallSnapshot(b, 15, 3, m.ConfState, m.Membership, "staged", hardState(3, 0, 15))
	})
	want := dump{Meta: m, HardState: hardState(3, 0, 15), Applied: 15}
	if d := diff(dumpLog(t, l), want); d != "" {
		t.Errorf("in memory (-want +got):\n%s", d)
	}
	if d := diff(dumpLog(t, reopen(t, tree, zone)), want); d != "" {
		t.Errorf("after reopening (-want +got):\n%s", d)
	}
}

// Invariants I2 and I7: what would break them is refused, and nothing is staged.
func TestRefusals(t *testing.T) {
	members := testMeta(10, 2).Membership
	for _, tc := range []struct {
		name string
		do   func(l *Log, b *storage.Batch) error
		want string
	}{
		{
			"append below commit", func(l *Log, b *storage.Batch) error { return l.Append(b, entries(12, 1, 3)) },
			"committed up to 12",
		},
		{"append with a gap", func(l *Log, b *storage.Batch) error { return l.Append(b, entries(17, 1, 3)) }, "gap after 15"},
		{"append with a hole", func(l *Log, b *storage.Batch) error {
			return l.Append(b, []*raftpb.Entry{entry(16, 3, ""), entry(18, 3, "")})
		}, "index 18 where 17"},
		{
			"append of an older term", func(l *Log, b *storage.Batch) error { return l.Append(b, entries(16, 1, 2)) },
			"after one of term 3",
		},
		{
			"term goes back", func(l *Log, b *storage.Batch) error { return l.SetHardState(b, hardState(2, 1, 12)) },
			"back from term 3",
		},
		{
			"vote changes", func(l *Log, b *storage.Batch) error { return l.SetHardState(b, hardState(3, 2, 12)) },
			"vote in term 3",
		},
		{
			"commit goes back", func(l *Log, b *storage.Batch) error { return l.SetHardState(b, hardState(3, 1, 11)) },
			"from 12 to 11",
		},
		{
			"commit beyond the log", func(l *Log, b *storage.Batch) error { return l.SetHardState(b, hardState(3, 1, 16)) },
			"up to 15",
		},
		{"applied goes back", func(l *Log, b *storage.Batch) error { return l.SetApplied(b, 10) }, "from 11 to 10"},
		{"applied beyond commit", func(l *Log, b *storage.Batch) error { return l.SetApplied(b, 13) }, "commit index 12"},
		{"older snapshot", func(l *Log, b *storage.Batch) error {
			return l.InstallSnapshot(b, 12, 3, confState(1), members, "x", hardState(3, 1, 12))
		}, "snapshot at 12"},
		{"snapshot that is not committed", func(l *Log, b *storage.Batch) error {
			return l.InstallSnapshot(b, 14, 3, confState(1), members, "x", hardState(3, 1, 13))
		}, "snapshot at 14"},
		{"snapshot of a later term", func(l *Log, b *storage.Batch) error {
			return l.InstallSnapshot(b, 14, 4, confState(1), members, "x", hardState(3, 1, 14))
		}, "up to term 4"},
		{"conf state that raft would not start with", func(l *Log, b *storage.Batch) error {
			return l.SetMembership(b, &raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{1}}, members)
		}, "conf state"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s, tree := newTree(t)
			l := founded(t, s, tree)
			write(t, s, func(b *storage.Batch) error {
				return errors.Join(l.Append(b, entries(11, 5, 3)), l.SetHardState(b, hardState(3, 1, 12)), l.SetApplied(b, 11))
			})
			before := dumpLog(t, l)
			b := s.NewBatch()
			defer b.Close()
			err := tc.do(l, b)
			if err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "zone 7") {
				t.Errorf("got %v, want an error with %q and the zone", err, tc.want)
			}
			if errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("got %v: nothing on disk is corrupt", err)
			}
			if d := diff(dumpLog(t, l), before); d != "" {
				t.Errorf("a refused change changed the log (-want +got):\n%s", d)
			}
		})
	}
}
