package raftlog

import (
	"errors"
	"math/rand/v2"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// machine runs a Log side by side with raft's own MemoryStorage, through restarts and
// crashes, and remembers what the Log was after each batch.
type machine struct {
	fs    *storage.MemFS
	store *storage.Store
	log   *Log

	model *raft.MemoryStorage
	hs    *raftpb.HardState
	// applied and the conf state are those of the model's snapshot.
	applied nexusraft.Index

	history []dump // after Create and after each batch
	synced  int    // the latest of them that is certainly on disk
	other   dump   // of a neighbouring zone, which never changes
}

const neighbour = zone + 1

func newMachine(t *rapid.T) *machine {
	m := &machine{fs: storage.NewMemFS()}
	s, tree := openStore(t, m.fs)
	m.store, m.log = s, founded(t, s, tree)
	write(t, s, func(b *storage.Batch) error {
		return Create(b, tree, neighbour, testMeta(10, 2), hardState(2, 1, 10), 10)
	})
	other := reopen(t, tree, neighbour)
	write(t, s, func(b *storage.Batch) error { return other.Append(b, entries(11, 50, 2)) })
	m.other = dumpLog(t, other)
	m.history = []dump{dumpLog(t, m.log)}
	m.rollTo(t, m.history[0])
	return m
}

// rollTo sets the model to a state of the Log.
func (m *machine) rollTo(t *rapid.T, d dump) {
	m.model, m.hs, m.applied = raft.NewMemoryStorage(), d.HardState, d.Applied
	m.install(t, d.Meta.Compacted, d.Meta.CompactedTerm, d.Meta.ConfState, d.Meta.Membership)
	must(t, m.model.Append(d.Entries))
	must(t, m.model.SetHardState(d.HardState))
	if d.Applied > d.Meta.Compacted {
		_, err := m.model.CreateSnapshot(uint64(d.Applied), d.Meta.ConfState, d.Meta.Membership.Encode())
		must(t, err)
	}
}

func (m *machine) install(
	t *rapid.T, index nexusraft.Index, term nexusraft.Term, cs *raftpb.ConfState, members nexusraft.Membership,
) {
	must(t, m.model.ApplySnapshot(&raftpb.Snapshot{Data: members.Encode(), Metadata: &raftpb.SnapshotMetadata{
		Index: new(uint64(index)), Term: new(uint64(term)), ConfState: cs,
	}}))
}

// write stages with f, checks what is staged, and commits it, synced or not.
func (m *machine) write(t *rapid.T, f func(b *storage.Batch) error) {
	b := m.store.NewBatch()
	defer b.Close()
	must(t, f(b))
	m.check(t)
	sync := rapid.Bool().Draw(t, "sync")
	must(t, b.Commit(sync))
	m.history = append(m.history, dumpLog(t, m.log))
	if sync {
		m.synced = len(m.history) - 1
	}
}

func (m *machine) last() int {
	last, _ := m.model.LastIndex()
	return int(last)
}

func (m *machine) commit() int { return int(m.hs.GetCommit()) }

// append appends n entries from an index on, in the current term or a new one.
func (m *machine) append(t *rapid.T, from int, newTerm bool) {
	add := entries(from, rapid.IntRange(1, 8).Draw(t, "n"), m.hs.GetTerm())
	hs := m.hs
	if newTerm {
		hs = hardState(m.hs.GetTerm()+1, rapid.Uint64Range(0, 3).Draw(t, "vote"), m.hs.GetCommit())
		add = entries(from, len(add), hs.GetTerm())
	}
	m.hs = hs
	must(t, m.model.SetHardState(hs))
	must(t, m.model.Append(add))
	m.write(t, func(b *storage.Batch) error {
		return errors.Join(m.log.Append(b, add), m.log.SetHardState(b, hs))
	})
}

func (m *machine) Append(t *rapid.T) { m.append(t, m.last()+1, rapid.Bool().Draw(t, "new term")) }

func (m *machine) Conflict(t *rapid.T) {
	if m.commit() == m.last() {
		t.Skip("nothing is uncommitted")
	}
	m.append(t, rapid.IntRange(m.commit()+1, m.last()).Draw(t, "from"), true)
}

func (m *machine) Commit(t *rapid.T) {
	m.hs = hardState(m.hs.GetTerm(), m.hs.GetVote(), uint64(rapid.IntRange(m.commit(), m.last()).Draw(t, "commit")))
	must(t, m.model.SetHardState(m.hs))
	m.write(t, func(b *storage.Batch) error { return m.log.SetHardState(b, m.hs) })
}

// Forget drops what is in memory besides the disk.
func (m *machine) Forget(t *rapid.T) {
	m.log.Forget()
	m.check(t)
}

// Apply moves the applied index, with a conf change or without.
func (m *machine) Apply(t *rapid.T) {
	if int(m.applied) == m.commit() {
		t.Skip("all is applied")
	}
	m.applied = nexusraft.Index(rapid.IntRange(int(m.applied)+1, m.commit()).Draw(t, "applied"))
	meta := m.log.Meta()
	cs, members := meta.ConfState, meta.Membership
	confChange := rapid.Bool().Draw(t, "conf change")
	if confChange {
		id := nexusraft.ReplicaID(rapid.IntRange(2, 9).Draw(t, "learner"))
		members = members.With(nexusraft.Member{Replica: id, Node: nexusraft.NodeID(id), Role: nexusraft.RoleLearner})
		cs = &raftpb.ConfState{Voters: []uint64{1}, Learners: []uint64{uint64(id)}, AutoLeave: new(false)}
	}
	_, err := m.model.CreateSnapshot(uint64(m.applied), cs, members.Encode())
	must(t, err)
	m.write(t, func(b *storage.Batch) error {
		if confChange {
			must(t, m.log.SetMembership(b, cs, members))
		}
		return m.log.SetApplied(b, m.applied)
	})
}

func (m *machine) Compact(t *rapid.T) {
	upTo := rapid.Uint64Range(0, uint64(m.applied)).Draw(t, "up to")
	if err := m.model.Compact(upTo); err != nil && !errors.Is(err, raft.ErrCompacted) {
		t.Fatal(err)
	}
	m.write(t, func(b *storage.Batch) error { return m.log.Compact(b, nexusraft.Index(upTo)) })
}

// Install installs a snapshot, with entries after it in the same batch or without.
func (m *machine) Install(t *rapid.T) {
	index := nexusraft.Index(rapid.IntRange(m.commit()+1, m.last()+20).Draw(t, "index"))
	term := m.hs.GetTerm() + 1
	more := entries(int(index)+1, rapid.IntRange(0, 4).Draw(t, "entries"), term)
	m.hs = hardState(term, 0, uint64(index)+uint64(len(more)))
	m.applied = index
	members := m.log.Meta().Membership
	m.install(t, index, nexusraft.Term(term), confState(1), members)
	must(t, m.model.Append(more))
	must(t, m.model.SetHardState(m.hs))
	m.write(t, func(b *storage.Batch) error {
		return errors.Join(
			m.log.InstallSnapshot(b, index, nexusraft.Term(term), confState(1), members, "staged", m.hs),
			m.log.Append(b, more), m.log.SetHardState(b, m.hs))
	})
}

func (m *machine) Restart(t *rapid.T) {
	must(t, m.store.Close())
	m.synced = len(m.history) - 1 // an orderly end loses nothing
	m.start(t)
}

// Crash goes on with what a crash leaves behind: a state that the Log had after a batch, no
// earlier than the last synced one (invariants I1 and I2).
func (m *machine) Crash(t *rapid.T) {
	rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
	clone := m.fs.CrashClone(rng, rapid.SampledFrom([]int{0, 30, 70, 100}).Draw(t, "unsynced percent"))
	must(t, m.store.Close())
	m.fs = clone
	m.start(t)
}

func (m *machine) start(t *rapid.T) {
	store, tree := openStore(t, m.fs)
	m.store, m.log = store, reopen(t, tree, zone)
	m.log.tail.maxEntries = 5 // so that old entries come from disk
	got := dumpLog(t, m.log)
	p := len(m.history) - 1
	for ; !got.equal(m.history[p]); p-- {
		if p == m.synced {
			t.Fatalf("reopened as none of the states since the last sync; the synced one (-want +got):\n%s",
				diff(got, m.history[p]))
		}
	}
	m.history, m.synced = m.history[:p+1], p // Raft acts on what it finds: it must stay
	m.rollTo(t, m.history[p])
	if other := dumpLog(t, reopen(t, tree, neighbour)); !other.equal(m.other) {
		t.Fatalf("the neighbouring zone changed (-want +got):\n%s", diff(other, m.other))
	}
}

// check compares every method of raft.Storage with the model.
func (m *machine) check(t *rapid.T) {
	t.Helper()
	first, _ := m.model.FirstIndex()
	last, _ := m.model.LastIndex()
	gotFirst, _ := m.log.FirstIndex()
	gotLast, _ := m.log.LastIndex()
	if gotFirst != first || gotLast != last {
		t.Fatalf("log: got %d to %d, want %d to %d", gotFirst, gotLast, first, last)
	}
	for i := first - 3; i <= last+2; i++ {
		want, wantErr := m.model.Term(i)
		if got, err := m.log.Term(i); got != want || err != wantErr {
			t.Fatalf("Term(%d): got %d, %v, want %d, %v", i, got, err, want, wantErr)
		}
	}
	m.checkState(t)
	if first <= last {
		m.checkEntries(t, first, last)
	}
	if _, err := m.log.Entries(first, last+2, 1); err != raft.ErrUnavailable {
		t.Fatalf("entries beyond the last: got %v, want ErrUnavailable", err)
	}
}

func (m *machine) checkState(t *rapid.T) {
	t.Helper()
	wantHS, wantCS, _ := m.model.InitialState()
	hs, cs, err := m.log.InitialState()
	must(t, err)
	if !proto.Equal(hs, wantHS) || !proto.Equal(cs, wantCS) {
		t.Fatalf("initial state (-want +got):\n%s%s", diff(hs, wantHS), diff(cs, wantCS))
	}
	want, _ := m.model.Snapshot()
	snap, err := m.log.Snapshot()
	must(t, err)
	if !proto.Equal(snap, want) {
		t.Fatalf("snapshot (-want +got):\n%s", diff(snap, want))
	}
}

func (m *machine) checkEntries(t *rapid.T, first, last uint64) {
	t.Helper()
	lo := rapid.Uint64Range(first-2, last).Draw(t, "lo")
	hi := rapid.Uint64Range(lo+1, last+1).Draw(t, "hi")
	size := rapid.SampledFrom([]uint64{0, 15, 60, ^uint64(0)}).Draw(t, "max size")
	want, wantErr := m.model.Entries(lo, hi, size)
	got, err := m.log.Entries(lo, hi, size)
	if err != wantErr {
		t.Fatalf("Entries(%d, %d, %d): got %v, want %v", lo, hi, size, err, wantErr)
	}
	if !equalEntries(got, want) {
		t.Fatalf("Entries(%d, %d, %d) (-want +got):\n%s", lo, hi, size, diff(got, want))
	}
}

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMachine(t)
		defer func() { must(t, m.store.Close()) }()
		t.Repeat(map[string]func(*rapid.T){
			"":         m.check,
			"append":   m.Append,
			"conflict": m.Conflict,
			"commit":   m.Commit,
			"apply":    m.Apply,
			"compact":  m.Compact,
			"install":  m.Install,
			"restart":  m.Restart,
			"crash":    m.Crash,
		})
	})
}
