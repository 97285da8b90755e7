package raftlog

import (
	"log/slog"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

const zone nexusraft.ZoneID = 7

// failer is what testing.T, testing.B and rapid.T have in common.
type failer interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

func must(t failer, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openStore(t failer, fs storage.FS) (*storage.Store, *storage.Tree) {
	t.Helper()
	s, err := storage.Open("data", &storage.Options{
		FS: fs, CacheBytes: 1 << 20, MemTableBytes: 64 << 10, FlushInterval: -1,
		Logger: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	tree, err := s.Tree("raft")
	must(t, err)
	return s, tree
}

func newTree(t *testing.T) (*storage.Store, *storage.Tree) {
	t.Helper()
	s, tree := openStore(t, storage.NewMemFS())
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, tree
}

// write stages with f and commits.
func write(t failer, s *storage.Store, f func(b *storage.Batch) error) {
	t.Helper()
	b := s.NewBatch()
	defer b.Close()
	must(t, f(b))
	must(t, b.Commit(true))
}

func reopen(t failer, tree *storage.Tree, zone nexusraft.ZoneID) *Log {
	t.Helper()
	l, err := Open(tree, zone)
	must(t, err)
	return l
}

func testMeta(compacted nexusraft.Index, term nexusraft.Term) Meta {
	members := nexusraft.Membership{Shape: nexusraft.DefaultShape}
	members = members.With(nexusraft.Member{Replica: 1, Node: 11, Address: "a:1", Role: nexusraft.RoleMember})
	return Meta{
		Replica: 1, StateTree: "state", Compacted: compacted, CompactedTerm: term,
		ConfState: confState(1), Membership: members,
	}
}

func confState(voters ...uint64) *raftpb.ConfState {
	return &raftpb.ConfState{Voters: voters, AutoLeave: new(false)}
}

func hardState(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: new(term), Vote: new(vote), Commit: new(commit)}
}

func entry(index, term uint64, data string) *raftpb.Entry {
	return &raftpb.Entry{Index: new(index), Term: new(term), Type: raftpb.EntryNormal.Enum(), Data: []byte(data)}
}

// entries returns n entries of a term from an index on.
func entries(from, n int, term uint64) []*raftpb.Entry {
	var out []*raftpb.Entry
	for i := from; i < from+n; i++ {
		out = append(out, entry(uint64(i), term, "payload"))
	}
	return out
}

// founded returns the log of a founder that begins after index 10 of term 2.
func founded(t failer, s *storage.Store, tree *storage.Tree) *Log {
	t.Helper()
	write(t, s, func(b *storage.Batch) error {
		return Create(b, tree, zone, testMeta(10, 2), hardState(2, 1, 10), 10)
	})
	return reopen(t, tree, zone)
}

// dump is everything that a Log shows.
type dump struct {
	Meta      Meta
	HardState *raftpb.HardState
	Applied   nexusraft.Index
	Entries   []*raftpb.Entry
	Bytes     int64
}

func dumpLog(t failer, l *Log) dump {
	t.Helper()
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	all, err := l.Entries(first, last+1, ^uint64(0))
	must(t, err)
	if len(all) != l.Len() || first+uint64(len(all)) != last+1 {
		t.Fatalf("entries %d to %d: got %d, and Len %d", first, last, len(all), l.Len())
	}
	var bytes int64
	for _, e := range all {
		bytes += int64(proto.Size(e))
		if term, err := l.Term(e.GetIndex()); err != nil || term != e.GetTerm() {
			t.Fatalf("Term(%d): got %d, %v, want %d", e.GetIndex(), term, err, e.GetTerm())
		}
	}
	if l.Bytes() != bytes {
		t.Fatalf("Bytes: got %d, want %d", l.Bytes(), bytes)
	}
	return dump{l.Meta(), l.HardState(), l.Applied(), all, bytes}
}

func (d dump) equal(x dump) bool {
	return d.Applied == x.Applied && d.Bytes == x.Bytes && equalEntries(d.Entries, x.Entries) &&
		proto.Equal(d.HardState, x.HardState) && proto.Equal(d.Meta.ConfState, x.Meta.ConfState) &&
		diff(d.Meta.Membership, x.Meta.Membership) == "" && d.Meta.Replica == x.Meta.Replica &&
		d.Meta.StateTree == x.Meta.StateTree && d.Meta.Compacted == x.Meta.Compacted &&
		d.Meta.CompactedTerm == x.Meta.CompactedTerm
}

func equalEntries(a, b []*raftpb.Entry) bool {
	return slices.EqualFunc(a, b, func(x, y *raftpb.Entry) bool { return proto.Equal(x, y) })
}

// diff is slow; what is expected to be equal many times is compared with equal first.
func diff(got, want any) string { return cmp.Diff(want, got, protocmp.Transform()) }
