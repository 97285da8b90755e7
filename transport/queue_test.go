package transport

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// What is put comes out in order, whatever the steps, and nothing that was taken is kept.
func TestQueueKeepsOrderAndNothingElse(t *testing.T) {
	const limit = 100
	q := newQueue(limit, 10<<20)
	var next, want nexusraft.ZoneID // put, and taken
	var frame []Message
	for step := range 1000 {
		for range step * 7 % 61 {
			if fits := q.put(Append, Message{Zone: next, Data: make([]byte, 20<<10)}); fits != (next-want < limit) {
				t.Fatalf("step %d: put says %t with %d waiting", step, fits, next-want)
			} else if fits {
				next++
			}
		}
		if got := q.len(); got != int(next-want) {
			t.Fatalf("step %d: %d wait, want %d", step, got, next-want)
		}
		frame = q.take(frame[:0], []Class{Append})
		for _, m := range frame {
			if m.Zone != want {
				t.Fatalf("step %d: got message %d, want %d", step, m.Zone, want)
			}
			want++
		}
		l := &q.classes[Append]
		for i, m := range l.msgs[:cap(l.msgs)] {
			if (i < l.head || i >= len(l.msgs)) && m.Data != nil {
				t.Fatalf("step %d: message %d was taken, and is kept at %d", step, m.Zone, i)
			}
		}
		if cap(l.msgs) > 4*limit {
			t.Fatalf("step %d: an array of %d for %d messages at most", step, cap(l.msgs), limit)
		}
	}
	if want == 0 || q.classes[Append].bytes != 20<<10*q.len() {
		t.Errorf("%d were taken, %d bytes are left of %d messages", want, q.classes[Append].bytes, q.len())
	}
}

// A queue takes no more than its limits, in each class by itself.
func TestQueueLimits(t *testing.T) {
	q := newQueue(2, 10)
	var got []bool
	for _, m := range []struct {
		class Class
		bytes int
	}{{Append, 4}, {Append, 7}, {Append, 6}, {Append, 0}, {Control, 11}, {Control, 10}} {
		got = append(got, q.put(m.class, Message{Data: make([]byte, m.bytes)}))
	}
	if diff := cmp.Diff([]bool{true, false, true, false, false, true}, got); diff != "" {
		t.Errorf("put (-want +got):\n%s", diff)
	}
	if n := q.clear(); n != 3 || q.len() != 0 || !q.put(Append, Message{Data: make([]byte, 10)}) {
		t.Errorf("clear dropped %d, want 3, and %d are left", n, q.len())
	}
}
