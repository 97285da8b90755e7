package storage

import (
	"fmt"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TestPopsSkipWhatWasPopped shows where a pop begins to look: else each would step over all
// that were popped before.
func TestPopsSkipWhatWasPopped(t *testing.T) {
	s := newStore(t)
	queue := mustTree(t, s, "queue")
	for i := range 10 {
		put(t, queue, fmt.Sprint(i), "v")
	}
	pop := func(want string, pop func(...Durability) (nexusraft.Pair, bool, error)) {
		t.Helper()
		p, ok, err := pop(NoSync)
		if string(p.Key) != want || !ok || err != nil {
			t.Errorf("got %q, %v, %v, want %s", p.Key, ok, err, want)
		}
	}
	looks := func(start, end string) {
		t.Helper()
		if gotStart, gotEnd := s.ends.narrow(queue.id, nil, nil); string(gotStart) != start || string(gotEnd) != end {
			t.Errorf("the next pop looks from %q to %q, want %q to %q", gotStart, gotEnd, start, end)
		}
	}
	looks("", "")
	pop("0", queue.PopFirst)
	pop("1", queue.PopFirst)
	looks("1", "")
	pop("9", queue.PopLast)
	looks("1", "9\x00")
	put(t, queue, "5", "changes nothing")
	put(t, mustTree(t, s, "other"), "0", "of another tree")
	check(t, queue.Delete([]byte("0")))
	looks("1", "9\x00")
	put(t, queue, "00", "lower")
	put(t, queue, "99", "higher")
	looks("00", "99\x00")
	pop("00", queue.PopFirst)
	pop("99", queue.PopLast)
	put(t, queue, "99\x00", "next to the last")
	looks("00", "99\x00\x00")
	pop("99\x00", queue.PopLast)
	check(t, queue.Clear())
	looks("00", "99\x00\x00")
	check(t, s.DropTree("queue"))
	looks("", "")
}

// BenchmarkPopFirst pops from a queue of which much was popped before.
func BenchmarkPopFirst(b *testing.B) {
	s, err := Open("data", &Options{FS: NewMemFS()})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	push := 0
	for pops := 0; b.Loop(); pops++ {
		for ; push <= pops+100; push++ {
			if err := s.Set(fmt.Appendf(nil, "%012d", push), nil, NoSync); err != nil {
				b.Fatal(err)
			}
		}
		if _, ok, err := s.PopFirst(NoSync); !ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}
