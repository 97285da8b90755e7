package demo

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

func held(value string, modified, version int) client.KeyValue {
	return client.KeyValue{
		Key: []byte("k"), Value: []byte(value), ModRevision: nexusraft.Revision(modified),
		Version: int64(version),
	}
}

func TestCheck(t *testing.T) {
	// Two acknowledged writes, the last "b" at revision 9, and "u", whose outcome is open.
	h := history{acknowledged: 2, value: "b", revision: 9, uncertain: []string{"u"}}
	onlyUncertain := history{uncertain: []string{"u", "v"}}
	for _, tc := range []struct {
		name  string
		h     history
		kv    client.KeyValue
		found bool
		want  outcome
		text  string
	}{
		{"the acknowledged value", h, held("b", 9, 2), true, sound, ""},
		{"acknowledged, the uncertain one before it", h, held("b", 9, 3), true, sound, ""},
		{"the uncertain value after it", h, held("u", 10, 3), true, sound, ""},
		{"absent", h, client.KeyValue{}, false, lost, "absent"},
		{"an older value", h, held("a", 5, 2), true, lost, `holds "a"`},
		{"the acknowledged value at another revision", h, held("b", 8, 2), true, lost, "revision 8"},
		{"the uncertain value in place of a later one", h, held("u", 8, 2), true, lost, `holds "u"`},
		{"a lost write that a later one has covered", h, held("b", 9, 1), true, lost, "written 1 times"},
		{"a lost write that an uncertain one has covered", h, held("u", 10, 1), true, lost, "written 1 times"},
		{"a write that ran twice", h, held("b", 9, 4), true, unexpected, "at most 3"},
		{"an uncertain write that ran twice", h, held("u", 11, 4), true, unexpected, "at most 3"},
		{"a value from nowhere", h, held("x", 12, 3), true, lost, `holds "x"`},
		{"nothing acknowledged, absent", onlyUncertain, client.KeyValue{}, false, sound, ""},
		{"nothing acknowledged, one there", onlyUncertain, held("v", 3, 1), true, sound, ""},
		{"nothing acknowledged, both there", onlyUncertain, held("u", 4, 2), true, sound, ""},
		{"nothing acknowledged, another there", onlyUncertain, held("x", 3, 1), true, unexpected, "never written"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, text := tc.h.check(tc.kv, tc.found)
			if got != tc.want || !strings.Contains(text, tc.text) {
				t.Errorf("got %d %q, want %d with %q", got, text, tc.want, tc.text)
			}
		})
	}
}

func TestLedgerCompare(t *testing.T) {
	l := newLedger()
	now := time.Now()
	l.acknowledge("kept", []byte("1"), now, client.PutResult{Revision: 2, Copies: 2})
	l.acknowledge("gone", []byte("2"), now, client.PutResult{Revision: 3, Copies: 2})
	l.acknowledge("stale", []byte("3"), now, client.PutResult{Revision: 4, Copies: 1})
	l.acknowledge("stale", []byte("4"), now, client.PutResult{Revision: 5, Copies: 2})
	l.doubt("open", []byte("5"))
	found := l.compare(map[string]client.KeyValue{
		"kept":  held("1", 2, 1),
		"stale": held("3", 4, 1),
		"alien": held("x", 6, 1),
	})
	got := make(map[string]outcome)
	for _, f := range found {
		got[f.key] = f.outcome
	}
	want := map[string]outcome{"gone": lost, "stale": lost, "alien": unexpected}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("findings (-want +got):\n%s\n%v", d, found)
	}
}

func TestLedgerCounts(t *testing.T) {
	l := newLedger()
	now := time.Now()
	l.acknowledge("a", []byte("1"), now, client.PutResult{Revision: 2, Copies: 2})
	l.acknowledge("a", []byte("2"), now, client.PutResult{Revision: 3, Copies: 1})
	l.acknowledge("b", []byte("3"), now, client.PutResult{Revision: 4}) // the node did not say
	l.doubt("b", []byte("4"))
	l.refuse()
	got := l.counts()
	got.longestGap = 0
	want := counts{acknowledged: 3, uncertain: 1, refused: 1, twoCopies: 1, oneCopy: 2, records: 2}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(counts{})); d != "" {
		t.Errorf("counts (-want +got):\n%s", d)
	}
}

func TestFirstAfterIgnoresWritesBegunBefore(t *testing.T) {
	l := newLedger()
	kill := time.Now()
	first := l.firstAfter(kill)
	l.acknowledge("k", []byte("1"), kill.Add(-time.Millisecond), client.PutResult{Revision: 2})
	select {
	case at := <-first:
		t.Fatalf("a write begun before the kill counted, at %v", at)
	default:
	}
	l.acknowledge("k", []byte("2"), kill.Add(time.Millisecond), client.PutResult{Revision: 3})
	l.acknowledge("k", []byte("3"), kill.Add(time.Millisecond), client.PutResult{Revision: 4})
	select {
	case at := <-first:
		if at.Before(kill) {
			t.Errorf("got %v, want a time after %v", at, kill)
		}
	default:
		t.Fatal("the write begun after the kill did not count")
	}
}
