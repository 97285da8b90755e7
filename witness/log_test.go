package witness

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

var (
	testOrigin  = Origin{Cluster: 0xc1, Node: 0x30, Zone: nexusraft.RootZone, Replica: 3}
	testMembers = nexusraft.Membership{
		Shape: nexusraft.DefaultShape,
		Members: []nexusraft.Member{
			{Replica: 1, Node: 0x10, Name: "n1", Address: "127.0.0.1:1", Role: nexusraft.RoleMember},
			{Replica: 2, Node: 0x20, Name: "n2", Address: "127.0.0.1:2", Role: nexusraft.RoleMember},
			{Replica: 3, Node: 0x30, Name: "w", Address: "127.0.0.1:3", Role: nexusraft.RoleWitness},
		},
	}
	testConf = &raftpb.ConfState{Voters: []uint64{1, 2, 3}, AutoLeave: new(false)}
)

func newTestLog(t testing.TB, f FS) *Log {
	t.Helper()
	log, err := CreateLog(f, "d", testOrigin, testMembers)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func testSnapshot(index, term uint64) *raftpb.Snapshot {
	return &raftpb.Snapshot{
		Data:     testMembers.Encode(),
		Metadata: &raftpb.SnapshotMetadata{Index: new(index), Term: new(term), ConfState: testConf},
	}
}

func testHardState(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: new(term), Vote: new(vote), Commit: new(commit)}
}

func testEntries(first uint64, terms ...uint64) []*raftpb.Entry {
	var out []*raftpb.Entry
	for i, term := range terms {
		out = append(out, &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Index: new(first + uint64(i)), Term: new(term)})
	}
	return out
}

// model is a full log, raft's own.
type model struct {
	full      *raft.MemoryStorage
	hardState *raftpb.HardState
	applied   uint64
}

func newModel() *model {
	return &model{full: raft.NewMemoryStorage(), hardState: testHardState(0, 0, 0)}
}

func (m *model) last() uint64 { i, _ := m.full.LastIndex(); return i }

func (m *model) clone() *model {
	c := newModel()
	c.hardState, c.applied = m.hardState, m.applied
	snap, _ := m.full.Snapshot()
	if !raft.IsEmptySnap(snap) {
		must(c.full.ApplySnapshot(snap))
	}
	first, _ := m.full.FirstIndex()
	if last := m.last(); last >= first {
		entries, err := m.full.Entries(first, last+1, math.MaxUint64)
		must(err)
		must(c.full.Append(entries))
	}
	return c
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// draw makes a random update that raft could ask for, and applies it to the model. The
// entries carry payload, which the witness must not keep.
func (m *model) draw(t *rapid.T) (u Update, sync bool) {
	term, commit := m.hardState.GetTerm(), m.hardState.GetCommit()
	switch rapid.SampledFrom([]string{"append", "append", "append", "commit", "vote", "snapshot"}).Draw(t, "kind") {
	case "append":
		term += rapid.Uint64Range(0, 2).Draw(t, "later")
		term = max(term, 1)
		first := rapid.Uint64Range(commit+1, m.last()+1).Draw(t, "first")
		prev, err := m.full.Term(first - 1)
		must(err)
		for i := range rapid.Uint64Range(1, 6).Draw(t, "count") {
			prev = max(1, rapid.Uint64Range(prev, term).Draw(t, "term"))
			e := &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Index: new(first + i), Term: new(prev), Data: []byte("payload")}
			if rapid.IntRange(0, 9).Draw(t, "conf") == 0 {
				e.Type, e.Data = raftpb.EntryConfChangeV2.Enum(), []byte{byte(first + i)}
			}
			u.Append = append(u.Append, e)
		}
		must(m.full.Append(u.Append))
		sync = true
	case "vote":
		term++
		sync = true
	case "snapshot":
		index := m.last() + rapid.Uint64Range(1, 5).Draw(t, "ahead")
		term = max(term, 1)
		u.Snapshot = testSnapshot(index, term)
		must(m.full.ApplySnapshot(u.Snapshot))
		commit, m.applied, sync = index, index, true
	}
	commit = rapid.Uint64Range(commit, m.last()).Draw(t, "commit")
	vote := rapid.Uint64Range(0, 3).Draw(t, "vote")
	m.hardState = testHardState(term, vote, commit)
	u.HardState = m.hardState
	if applied := rapid.Uint64Range(m.applied, commit).Draw(t, "applied"); applied > m.applied {
		m.applied, u.Applied = applied, nexusraft.Index(applied)
	}
	return u, sync
}

// compare returns where a log differs from the model.
func (m *model) compare(l *Log) string {
	type view struct {
		First, Last uint64
		Terms       []uint64
		ConfChanges []string
		HardState   string
	}
	hs, _, err := l.InitialState()
	must(err)
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	got := view{First: first, Last: last, HardState: hs.String()}
	want := view{First: m.applied + 1, Last: m.last(), HardState: m.hardState.String()}
	for i := m.applied; i <= m.last(); i++ {
		term, err := l.Term(i)
		must(err)
		fullTerm, err := m.full.Term(i)
		must(err)
		got.Terms, want.Terms = append(got.Terms, term), append(want.Terms, fullTerm)
	}
	if m.last() > m.applied {
		entries, err := l.Entries(first, last+1, math.MaxUint64)
		must(err)
		full, err := m.full.Entries(m.applied+1, m.last()+1, math.MaxUint64)
		must(err)
		got.ConfChanges, want.ConfChanges = stripped(entries), stripped(full)
		if slices.ContainsFunc(entries, func(e *raftpb.Entry) bool {
			return e.GetType() == raftpb.EntryNormal &&
				len(e.GetData()) > 0
		}) {
			return "the log has kept a payload"
		}
	}
	return cmp.Diff(want, got)
}

func stripped(entries []*raftpb.Entry) (out []string) {
	for _, e := range entries {
		e = proto.CloneOf(e)
		if e.GetType() == raftpb.EntryNormal {
			e.Data = nil
		}
		out = append(out, e.String())
	}
	return out
}

// TestLogAgreesWithAFullLog: appends with conflicts, commits, votes, snapshots, reopening
// and crashes; the run-length log and raft's own say the same of every index.
func TestLogAgreesWithAFullLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := NewMemFS()
		log, err := CreateLog(f, "d", testOrigin, testMembers)
		must(err)
		now := newModel()
		synced := now.clone()
		reopen := func(on *MemFS, expected *model) {
			f = on
			if log, err = OpenLog(f, "d", testOrigin.Zone); err != nil {
				t.Fatal(err)
			}
			now = expected.clone()
			if diff := now.compare(log); diff != "" {
				t.Fatalf("reopened log differs from the full one (-want +got):\n%s", diff)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				u, sync := now.draw(t)
				if err := log.Write(u, sync); err != nil {
					t.Fatal(err)
				}
				if sync {
					synced = now.clone()
				}
			},
			"reopen": func(*rapid.T) { reopen(f, synced) },
			"crash": func(t *rapid.T) {
				seed := rapid.Uint64().Draw(t, "seed")
				reopen(f.CrashClone(rand.New(rand.NewPCG(seed, 0)), 50), synced)
			},
			"": func(t *rapid.T) {
				if diff := now.compare(log); diff != "" {
					t.Fatalf("log differs from the full one (-want +got):\n%s", diff)
				}
			},
		})
	})
}

// TestLogCrashAtEveryStep: before each write and sync the disk is crashed; the log that is
// opened then is the last acknowledged one or the one that is being written (I1 to I3, I7).
func TestLogCrashAtEveryStep(t *testing.T) {
	crashes := 0
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rng := rand.New(rand.NewPCG(seed, 0))
		f := NewMemFS()
		log, err := CreateLog(f, "d", testOrigin, testMembers)
		must(err)
		old, next := newModel(), newModel()
		f.Before = func(step, _ string) error {
			for range 2 {
				crashes++
				found, err := OpenLog(f.CrashClone(rng, 50), "d", testOrigin.Zone)
				if err != nil {
					t.Fatalf("crash before a %s: %v", step, err)
				}
				if was, is := old.compareSafely(found), next.compareSafely(found); was != "" && is != "" {
					t.Fatalf("crash before a %s: not the old log:\n%s\nand not the new one:\n%s", step, was, is)
				}
			}
			return nil
		}
		for range 10 {
			u, sync := next.draw(t)
			if err := log.Write(u, sync); err != nil {
				t.Fatal(err)
			}
			if sync {
				old = next.clone()
			}
		}
	})
	if crashes == 0 {
		t.Error("nothing was ever written")
	}
}

// compareSafely is compare for a log whose range may be another one.
func (m *model) compareSafely(l *Log) (diff string) {
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if first != m.applied+1 || last != m.last() {
		return cmp.Diff([]uint64{m.applied + 1, m.last()}, []uint64{first, last})
	}
	return m.compare(l)
}

func TestLogGrowsWithTermsNotWrites(t *testing.T) {
	log := newTestLog(t, NewMemFS())
	if err := log.Write(Update{Append: testEntries(1, 1), HardState: testHardState(1, 0, 0)}, true); err != nil {
		t.Fatal(err)
	}
	before := log.Bytes()
	for i := uint64(2); i < 5000; i++ {
		if err := log.Write(Update{Append: testEntries(i, 1)}, true); err != nil {
			t.Fatal(err)
		}
	}
	if got := log.Bytes(); got != before {
		t.Errorf("5,000 entries that are not committed take %d bytes, one takes %d", got, before)
	}
}

func TestLogEntries(t *testing.T) {
	log := newTestLog(t, NewMemFS())
	entries := testEntries(11, 2, 2, 3, 3, 3)
	entries[3].Type, entries[3].Data = raftpb.EntryConfChangeV2.Enum(), []byte("conf")
	must(log.Write(Update{Snapshot: testSnapshot(10, 2), Append: entries, HardState: testHardState(3, 1, 12), Applied: 11},
		true))

	got, err := log.Entries(12, 16, math.MaxUint64)
	if diff := cmp.Diff(entries[1:], got, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("Entries(12, 16): %v (-want +got):\n%s", err, diff)
	}
	if got, err := log.Entries(12, 16, 1); err != nil || len(got) != 1 {
		t.Errorf("Entries over the limit: got %d entries, %v; want one", len(got), err)
	}
	for _, tc := range []struct {
		lo, hi uint64
		want   error
	}{{11, 13, raft.ErrCompacted}, {12, 17, raft.ErrUnavailable}, {17, 18, raft.ErrUnavailable}} {
		if _, err := log.Entries(tc.lo, tc.hi, math.MaxUint64); !errors.Is(err, tc.want) {
			t.Errorf("Entries(%d, %d): got %v, want %v", tc.lo, tc.hi, err, tc.want)
		}
	}
	for index, want := range map[uint64]error{10: raft.ErrCompacted, 11: nil, 15: nil, 16: raft.ErrUnavailable} {
		if _, err := log.Term(index); !errors.Is(err, want) {
			t.Errorf("Term(%d): got %v, want %v", index, err, want)
		}
	}
	if _, err := log.Snapshot(); !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		t.Errorf("Snapshot: got %v", err)
	}
}

// TestLogRefuses: what raft never asks for is refused, and the log is not used again.
func TestLogRefuses(t *testing.T) {
	for name, u := range map[string]Update{
		"a gap":                     {Append: testEntries(20, 3)},
		"a committed entry":         {Append: testEntries(12, 3)},
		"a term that goes down":     {Append: testEntries(14, 1)},
		"a term above the current":  {Append: testEntries(14, 9)},
		"hard state going back":     {HardState: testHardState(2, 0, 12)},
		"commit going back":         {HardState: testHardState(3, 0, 11)},
		"commit beyond the end":     {HardState: testHardState(3, 0, 99)},
		"applied beyond the commit": {Applied: 13},
		"applied going back":        {Applied: 9},
		"an old snapshot":           {Snapshot: testSnapshot(12, 3)},
		"a snapshot without records": {Snapshot: &raftpb.Snapshot{
			Data: []byte("?"),
			Metadata: &raftpb.SnapshotMetadata{
				Index: new(uint64(50)), Term: new(uint64(3)), ConfState: testConf,
			},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			log := newTestLog(t, NewMemFS())
			must(log.Write(Update{
				Snapshot: testSnapshot(10, 2), Append: testEntries(11, 2, 2, 3),
				HardState: testHardState(3, 1, 12),
			}, true))
			if err := log.Write(u, true); err == nil {
				t.Fatal("no error")
			}
			if err := log.Write(Update{HardState: testHardState(4, 0, 12)}, true); err == nil {
				t.Error("the log was used again after an error")
			}
		})
	}
}

func TestLogOfAnotherZone(t *testing.T) {
	f := NewMemFS()
	if _, err := OpenLog(f, "d", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no log: got %v, want fs.ErrNotExist", err)
	}
	newTestLog(t, f)
	for _, slot := range []string{".a", ".b"} {
		f.files["d/zone-2"+slot] = f.files["d/zone-1"+slot]
	}
	if _, err := OpenLog(f, "d", 2); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("another zone's log: got %v, want ErrCorrupt", err)
	}
}

func TestLogConfStateRoundTrip(t *testing.T) {
	f := NewMemFS()
	log := newTestLog(t, f)
	joint := &raftpb.ConfState{
		Voters: []uint64{1, 2, 3}, VotersOutgoing: []uint64{1, 2}, Learners: []uint64{4},
		LearnersNext: []uint64{2}, AutoLeave: new(true),
	}
	members := testMembers.With(nexusraft.Member{Replica: 4, Node: 0x40, Address: "a:1", Role: nexusraft.RoleLearner})
	must(log.Write(Update{
		Append: testEntries(1, 1), HardState: testHardState(1, 2, 1),
		Applied: 1, ConfState: joint, Membership: &members,
	}, true))
	log, err := OpenLog(f, "d", testOrigin.Zone)
	if err != nil {
		t.Fatal(err)
	}
	_, cs, _ := log.InitialState()
	if diff := cmp.Diff(joint, cs, protocmp.Transform()); diff != "" {
		t.Errorf("conf state (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(members, log.Membership()); diff != "" {
		t.Errorf("membership (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(testOrigin, log.Origin()); diff != "" {
		t.Errorf("origin (-want +got):\n%s", diff)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	r := record{Origin: testOrigin, Membership: testMembers}
	seed, err := r.encode()
	must(err)
	f.Add(seed)
	r, err = r.with(Update{
		Snapshot: testSnapshot(10, 2), Append: testEntries(11, 2, 2, 3),
		HardState: testHardState(3, 1, 12), Applied: 11,
	})
	must(err)
	seed, err = r.encode()
	must(err)
	f.Add(seed)
	compact, err := r.compactForm()
	must(err)
	f.Add(compact)
	f.Add(bytes.Replace(seed, []byte(`"membership":{`), []byte(`"membership":{"removed":[],`), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			if !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Fatalf("got %v, want ErrCorrupt", err)
			}
			return
		}
		for form, encode := range map[string]func() ([]byte, error){"slots": r.encode, "journal": r.compactForm} {
			again, err := encode()
			must(err)
			r2, err := decodeRecord(again)
			if err != nil {
				t.Fatalf("%s: does not read what it wrote: %v", form, err)
			}
			if diff := cmp.Diff(r, r2, cmp.AllowUnexported(record{}), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s: round trip (-first +second):\n%s", form, diff)
			}
		}
		// Raft asks for any entry of the tail, and never by more than it can hold.
		l := &Log{record: r}
		first, _ := l.FirstIndex()
		if last, _ := l.LastIndex(); last >= first {
			if _, err := l.Entries(first, min(last, first+100)+1, 1000); err != nil {
				t.Errorf("entries of a valid record: %v", err)
			}
		}
	})
}
