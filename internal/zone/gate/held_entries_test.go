package gate

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// The logs of these tests begin behind this entry.
const (
	foundedIndex = 10
	foundedTerm  = 1
)

// A leader's log for the tests of held: terms rise, a few entries are conf changes, and
// every normal entry carries a payload.
func drawLog(t *rapid.T) []*raftpb.Entry {
	log := []*raftpb.Entry{{Index: new(uint64(foundedIndex)), Term: new(uint64(foundedTerm))}}
	n := rapid.IntRange(1, 60).Draw(t, "length")
	term := uint64(foundedTerm)
	for i := 1; i <= n; i++ {
		if rapid.IntRange(0, 5).Draw(t, "new term") == 0 {
			term += rapid.Uint64Range(1, 3).Draw(t, "by")
		}
		e := entryAt(foundedIndex+uint64(i), term)
		e.Data = []byte("payload")
		if rapid.IntRange(0, 9).Draw(t, "conf change") == 0 {
			e.Type = raftpb.EntryConfChangeV2.Enum()
		}
		log = append(log, e)
	}
	return log
}

// stripped is what a witness may see of an entry.
func stripped(e *raftpb.Entry) *raftpb.Entry {
	if e.GetType() != raftpb.EntryNormal {
		return e
	}
	return &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Index: e.Index, Term: e.Term}
}

// describeAppend is an append as text: what it must be is written the same way.
func describeAppend(term uint64, prev *raftpb.Entry, commit nexusraft.Index, entries []*raftpb.Entry) string {
	s := fmt.Sprintf("1->3 t%d after %d/%d commit %d:", term, prev.GetIndex(), prev.GetTerm(), commit)
	for _, e := range entries {
		s += fmt.Sprintf(" %d/%d %v %q", e.GetIndex(), e.GetTerm(), e.GetType(), e.GetData())
	}
	return s
}

// naive is held as a child would write it: it keeps positions in a log that it can see.
type naive struct {
	log        []*raftpb.Entry // log[i] has index foundedIndex+i
	begin, end int             // the span is log[begin+1 : end+1]; -1: nothing yet
	probe      bool
}

func (n *naive) add(prev, count int) {
	if prev != n.end {
		n.begin, n.probe = prev, false
	}
	n.end = prev + count
	n.probe = n.probe || count == 0
}

func (n *naive) take(term uint64, limit, commit nexusraft.Index) (string, bool) {
	end := min(n.end, int(limit)-foundedIndex)
	if n.begin < 0 || end < n.begin || end == n.begin && !n.probe {
		return "", false
	}
	var entries []*raftpb.Entry
	for _, e := range n.log[n.begin+1 : end+1] {
		entries = append(entries, stripped(e))
	}
	out := describeAppend(term, n.log[n.begin], commit, entries)
	n.begin, n.probe = end, false
	return out, true
}

// TestHeldAgainstModel: raft appends behind what it sent or rewinds, the limit wanders;
// what is released is a stripped span of the log, conf changes whole, contiguous from
// where the span began and never beyond the limit.
func TestHeldAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := drawLog(t)
		term := log[len(log)-1].GetTerm()
		h, model := &held{}, &naive{log: log, begin: -1, end: -1}
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				prev := model.end
				if prev < 0 || rapid.IntRange(0, 4).Draw(t, "rewind") == 0 {
					prev = rapid.IntRange(0, len(log)-1).Draw(t, "to")
				}
				count := rapid.IntRange(0, min(8, len(log)-1-prev)).Draw(t, "count")
				m := &raftpb.Message{
					Type: raftpb.MsgApp.Enum(), From: new(uint64(1)), To: new(uint64(3)), Term: new(term),
					Index: new(log[prev].GetIndex()), LogTerm: new(log[prev].GetTerm()), Entries: log[prev+1 : prev+1+count],
				}
				h.add(m)
				model.add(prev, count)
			},
			"take": func(t *rapid.T) {
				limit := nexusraft.Index(rapid.IntRange(0, foundedIndex+len(log)).Draw(t, "limit"))
				commit := nexusraft.Index(rapid.IntRange(0, foundedIndex+len(log)).Draw(t, "commit"))
				m := h.take(limit, commit)
				want, some := model.take(term, limit, commit)
				if (m != nil) != some {
					t.Fatalf("got %v, want %q", m, want)
				}
				if m == nil {
					return
				}
				got := describeAppend(m.GetTerm(), entryAt(m.GetIndex(), m.GetLogTerm()), nexusraft.Index(m.GetCommit()),
					m.GetEntries())
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("(-want +got):\n%s", diff)
				}
				if end := nexusraft.Index(m.GetIndex()) + nexusraft.Index(len(m.GetEntries())); end > limit {
					t.Fatalf("an append up to %d, the limit is %d", end, limit)
				}
			},
		})
	})
}

// TestHeldKeepsNothingOfTheLog: entries share memory with the leader's log, which must
// neither change nor stay alive.
func TestHeldKeepsNothingOfTheLog(t *testing.T) {
	e := entryAt(11, 2)
	e.Type, e.Data = raftpb.EntryConfChangeV2.Enum(), []byte("change")
	m := from(1, 3, raftpb.MsgApp, appends(10, 1, e))
	before := proto.Clone(m)
	h := &held{}
	h.add(m)
	out := h.take(11, 10)
	if !proto.Equal(before, m) {
		t.Error("raft's message was changed")
	}
	e.Data[0] = 'X'
	if got := string(out.GetEntries()[0].GetData()); got != "change" {
		t.Errorf("got %q: the append shares the log's memory", got)
	}
}

// TestHeldSize: what is kept grows with terms and conf changes, not with writes.
func TestHeldSize(t *testing.T) {
	h := &held{}
	for i := range uint64(10_000) {
		h.add(from(1, 3, raftpb.MsgApp, appends(10+i, 2, entryAt(11+i, 2))))
	}
	if len(h.runs) != 1 || len(h.conf) != 0 || h.last != 10_010 {
		t.Errorf("got %d runs and %d conf changes up to %d, want 1 and 0 up to 10010", len(h.runs), len(h.conf), h.last)
	}
}

// TestHeldOfAnotherTerm: a span belongs to one term of leadership.
func TestHeldOfAnotherTerm(t *testing.T) {
	h := &held{}
	h.add(from(1, 3, raftpb.MsgApp, appends(10, 1, entryAt(11, 2))))
	later := from(1, 3, raftpb.MsgApp, appends(11, 2, entryAt(12, 3)))
	later.Term = new(uint64(3))
	h.add(later)
	m := h.take(12, 10)
	if m.GetTerm() != 3 || m.GetIndex() != 11 || len(m.GetEntries()) != 1 {
		t.Errorf("got %v, want the append of term 3 alone", m)
	}
}
