package raftlog

import (
	"fmt"
	"io"
	"log"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// replica drives raft itself over a Log, as a zone's worker does.
type replica struct {
	t     *testing.T
	store *storage.Store
	log   *Log
	node  *raft.RawNode
}

func newReplica(t *testing.T, s *storage.Store, l *Log, id uint64) *replica {
	t.Helper()
	node, err := raft.NewRawNode(&raft.Config{
		ID: id, ElectionTick: 6, HeartbeatTick: 1, Storage: l, Applied: uint64(l.Applied()),
		MaxSizePerMsg: 1 << 10, MaxInflightMsgs: 16, PreVote: true, CheckQuorum: true,
		Logger: &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)},
	})
	must(t, err)
	return &replica{t, s, l, node}
}

// run handles Readys until there is none.
func (r *replica) run() {
	r.t.Helper()
	for r.node.HasReady() {
		rd := r.node.Ready()
		write(r.t, r.store, func(b *storage.Batch) error { return r.stage(b, rd) })
		r.node.Advance(rd)
	}
}

// stage stages a Ready in the order of the package comment.
func (r *replica) stage(b *storage.Batch, rd raft.Ready) error {
	if !raft.IsEmptySnap(rd.Snapshot) {
		meta := rd.Snapshot.GetMetadata()
		members, err := nexusraft.DecodeMembership(rd.Snapshot.GetData())
		must(r.t, err)
		must(r.t, r.log.InstallSnapshot(b, nexusraft.Index(meta.GetIndex()), nexusraft.Term(meta.GetTerm()),
			meta.GetConfState(), members, "staged", rd.HardState))
	}
	must(r.t, r.log.Append(b, rd.Entries))
	must(r.t, r.log.SetHardState(b, rd.HardState))
	if n := len(rd.CommittedEntries); n > 0 {
		must(r.t, r.log.SetApplied(b, nexusraft.Index(rd.CommittedEntries[n-1].GetIndex())))
	}
	return nil
}

// A founder elects itself, writes, compacts, and goes on after restarts where it was.
func TestRaftRunsOverALog(t *testing.T) {
	s, tree := newTree(t)
	r := newReplica(t, s, founded(t, s, tree), 1)
	for restart := range 3 {
		must(t, r.node.Campaign())
		r.run()
		for i := range 50 {
			must(t, r.node.Propose(fmt.Append(nil, restart, "/", i)))
			r.run()
		}
		write(t, s, func(b *storage.Batch) error { return r.log.Compact(b, r.log.Applied()-20) })
		before := dumpLog(t, r.log)
		r = newReplica(t, s, reopen(t, tree, zone), 1)
		if d := diff(dumpLog(t, r.log), before); d != "" {
			t.Fatalf("after restart %d (-want +got):\n%s", restart, d)
		}
		// An election's empty entry and 50 commands each time, after index 10.
		if want := nexusraft.Index(10 + 51*(restart+1)); r.log.Applied() != want {
			t.Errorf("applied: got %d, want %d", r.log.Applied(), want)
		}
	}
}

// A joiner gets a snapshot and the entries after it in one Ready, already committed.
func TestRaftInstallsSnapshotAndEntriesInOneReady(t *testing.T) {
	s, tree := newTree(t)
	write(t, s, func(b *storage.Batch) error {
		return Create(b, tree, zone, Meta{Replica: 2, StateTree: "state"}, nil, 0)
	})
	r := newReplica(t, s, reopen(t, tree, zone), 2)
	members := testMeta(10, 2).Membership
	must(t, r.node.Step(&raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(uint64(3)),
		Snapshot: &raftpb.Snapshot{Data: members.Encode(), Metadata: &raftpb.SnapshotMetadata{
			Index: new(uint64(20)), Term: new(uint64(2)), ConfState: confState(1, 2),
		}},
	}))
	must(t, r.node.Step(&raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: new(uint64(1)), To: new(uint64(2)), Term: new(uint64(3)),
		Index: new(uint64(20)), LogTerm: new(uint64(2)), Commit: new(uint64(22)), Entries: entries(21, 4, 3),
	}))
	rd := r.node.Ready()
	if raft.IsEmptySnap(rd.Snapshot) || len(rd.Entries) != 4 || rd.GetCommit() != 22 {
		t.Fatalf("raft does not give snapshot, entries and commit at once any more: %+v", rd)
	}
	write(t, s, func(b *storage.Batch) error { return r.stage(b, rd) })
	r.node.Advance(rd)
	r.run()

	got := dumpLog(t, reopen(t, tree, zone))
	if d := diff(got, dumpLog(t, r.log)); d != "" {
		t.Errorf("after reopening (-want +got):\n%s", d)
	}
	if got.Applied != 22 || len(got.Entries) != 4 || got.Meta.StateTree != "staged" || got.Meta.Compacted != 20 {
		t.Errorf("got applied %d, %d entries, tree %q, compacted %d; want 22, 4, staged, 20",
			got.Applied, len(got.Entries), got.Meta.StateTree, got.Meta.Compacted)
	}
}
