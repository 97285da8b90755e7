package propose

import (
	"context"
	"errors"
	"maps"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// call returns one of a zone whose command has so many bytes.
func call(z nexusraft.ZoneID, bytes int) *Call {
	p := New(z)
	p.Command = make([]byte, bytes)
	return p
}

// A call counts from Put to its end, however it ends, and once: or the queue would be full for good, or
// take too many.
func TestCallsCountUntilTheirEnd(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, end := range map[string]func(*Queue, *Call){
		"answered": func(q *Queue, p *Call) {
			p.Take()
			p.Answer(nexusraft.Result{}, nil)
		},
		"refused": func(q *Queue, p *Call) { Refuse([]*Call{p}, nexusraft.ErrClosed) },
		"given up before it was taken": func(q *Queue, p *Call) {
			_, _ = p.Wait(ended)
			p.Take()
		},
		"left, and then answered": func(q *Queue, p *Call) {
			p.Take()
			_, _ = p.Wait(ended)
			p.Answer(nexusraft.Result{}, nil)
		},
		"refused once more after it was taken": func(q *Queue, p *Call) {
			p.Take()
			Refuse([]*Call{p}, nexusraft.ErrClosed)
			p.Answer(nexusraft.Result{}, nil)
		},
	} {
		var q Queue
		for range 3 {
			p := call(7, maxBytes/4+1)
			if err := q.Put(p); err != nil {
				t.Fatalf("%s: an empty queue refuses a call: %v", name, err)
			}
			if got, more := q.Take(); len(got) != 1 || got[0] != p || more {
				t.Fatalf("%s: took %v", name, got)
			}
			if err := q.Put(call(7, maxBytes/4+1)); !errors.Is(err, nexusraft.ErrOverloaded) {
				t.Fatalf("%s: beside one that was taken: got %v, want ErrOverloaded", name, err)
			}
			end(&q, p)
		}
		if calls, bytes := q.all.calls, q.all.bytes; calls != 0 || bytes != 0 || len(q.zones) != 0 {
			t.Errorf("%s: %d calls of %d bytes and %v are left", name, calls, bytes, q.zones)
		}
	}
}

// A flood of one zone leaves room for others; all together have a bound.
func TestBoundsOfAZoneAndOfAll(t *testing.T) {
	for _, x := range []struct {
		what    string
		bytes   int
		of, all int // how many calls find room, of one zone and of all
	}{
		{"many", 0, maxCalls / 2, maxCalls},
		{"large", maxBytes / 8, 4, 8},
	} {
		var q Queue
		fill := func(z nexusraft.ZoneID) (taken int) {
			for q.Put(call(z, x.bytes)) == nil {
				taken++
			}
			return taken
		}
		if first, second, third := fill(1), fill(2), fill(3); first != x.of || second != x.all-x.of || third != 0 {
			t.Errorf("%s: took %d, %d and %d", x.what, first, second, third)
		}
	}
}

// turns is a queue whose calls bear the order in which they came.
type turns struct {
	Queue
	puts int
	last map[nexusraft.ZoneID]nexusraft.Term
}

// put puts calls of a zone in, each with a command of some bytes.
func (q *turns) put(t *testing.T, zone nexusraft.ZoneID, calls, bytes int) {
	t.Helper()
	for range calls {
		q.puts++
		p := New(zone)
		p.Command, p.Term = make([]byte, bytes), nexusraft.Term(q.puts)
		if err := q.Put(p); err != nil {
			t.Fatal(err)
		}
	}
}

// take takes once, and returns how many calls of each zone that has given. They end at once.
func (q *turns) take(t *testing.T) (calls map[nexusraft.ZoneID]int, more bool) {
	t.Helper()
	if q.last == nil {
		q.last = make(map[nexusraft.ZoneID]nexusraft.Term)
	}
	taken, more := q.Take()
	calls = make(map[nexusraft.ZoneID]int)
	for _, p := range taken {
		if p.Term <= q.last[p.Zone] {
			t.Errorf("call %d of zone %v is taken after call %d", p.Term, p.Zone, q.last[p.Zone])
		}
		q.last[p.Zone] = p.Term
		calls[p.Zone]++
		p.Take()
		p.Answer(nexusraft.Result{}, nil)
	}
	return calls, more
}

// TestZonesShareATurn: what one zone waits for does not wait for all that another one has. A zone that is alone
// is not bounded.
func TestZonesShareATurn(t *testing.T) {
	t.Parallel()
	var q turns
	q.put(t, 1, 1000, 1)
	if got, more := q.take(t); got[1] != 1000 || more {
		t.Errorf("alone: got %v, more %t", got, more)
	}
	q.put(t, 1, 1000, 1)
	q.put(t, 2, 3, 1)
	for i, want := range []map[nexusraft.ZoneID]int{{1: turnCalls, 2: 3}, {1: turnCalls}} {
		if got, more := q.take(t); !maps.Equal(got, want) || !more {
			t.Errorf("take %d: got %v, more %t, want %v", i, got, more, want)
		}
	}
	left := 1000 - 2*turnCalls
	for more := true; more; {
		var got map[nexusraft.ZoneID]int
		got, more = q.take(t)
		left -= got[1]
	}
	if calls := q.all.calls; left != 0 || calls != 0 || len(q.zones) != 0 {
		t.Errorf("%d calls were not taken, %d are on their way", left, calls)
	}
	for range sharedTakes { // the other zone is not forgotten at once
		q.put(t, 1, turnCalls+1, 1)
		q.take(t)
		q.take(t)
	}
	q.put(t, 1, 1000, 1)
	if got, more := q.take(t); got[1] != 1000 || more {
		t.Errorf("alone again: got %v, more %t", got, more)
	}
}

// TestTurnsAreBoundedByBytes: large commands are taken one by one, and no later one overtakes.
func TestTurnsAreBoundedByBytes(t *testing.T) {
	t.Parallel()
	var q turns
	q.put(t, 1, 1, turnBytes/2)
	q.put(t, 1, 1, 2*turnBytes)
	q.put(t, 1, 1, 1)
	q.put(t, 2, 2, 1)
	for i, want := range []map[nexusraft.ZoneID]int{{1: 1, 2: 2}, {1: 1}, {1: 1}} {
		if got, more := q.take(t); !maps.Equal(got, want) || more != (i < 2) {
			t.Errorf("take %d: got %v, more %t, want %v", i, got, more, want)
		}
	}
}

// TestTurnsPassOverWhatIsGivenUp: calls whose caller has gone take nobody's place.
func TestTurnsPassOverWhatIsGivenUp(t *testing.T) {
	t.Parallel()
	var q turns
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for range 3 * turnCalls {
		p := New(1)
		if err := q.Put(p); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Wait(gone); err == nil {
			t.Fatal("a call that was not taken has succeeded")
		}
	}
	q.put(t, 1, turnCalls+1, 1)
	q.put(t, 2, 1, 1)
	taken, more := q.Take()
	live := 0
	for _, p := range taken {
		if p.Zone == 1 && p.Take() {
			live++
		}
	}
	if live != turnCalls || !more {
		t.Errorf("%d calls that somebody waits for were taken, want %d; more: %t", live, turnCalls, more)
	}
}

func TestClosedQueue(t *testing.T) {
	var q Queue
	if err := q.Put(call(1, 1)); err != nil {
		t.Fatal(err)
	}
	if got := q.Close(); len(got) != 1 {
		t.Errorf("closing took %v", got)
	}
	if err := q.Put(call(1, 1)); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// The queues of a node's workers have their bounds together: what one of them gives back, the other has.
func TestBoundsOfSeveralQueues(t *testing.T) {
	var of Allowance
	a, b := Queue{Of: &of}, Queue{Of: &of}
	var first *Call
	for zone := range nexusraft.ZoneID(4) {
		p := call(zone, maxBytes/4)
		if first == nil {
			first = p
		}
		if err := []*Queue{&a, &b}[zone%2].Put(p); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range []*Queue{&a, &b} {
		if err := q.Put(call(9, 1)); !errors.Is(err, nexusraft.ErrOverloaded) {
			t.Errorf("beyond the bound of both: got %v, want ErrOverloaded", err)
		}
	}
	a.Take()
	first.Take()
	first.Answer(nexusraft.Result{}, nil)
	if err := b.Put(call(9, maxBytes/4)); err != nil {
		t.Errorf("in the room that a call of the other queue has left: %v", err)
	}
	if err := a.Put(call(8, 1)); !errors.Is(err, nexusraft.ErrOverloaded) {
		t.Errorf("beyond the bound of both again: got %v, want ErrOverloaded", err)
	}
	for _, p := range a.Close() {
		p.Take()
		p.Answer(nexusraft.Result{}, nil)
	}
	if err := b.Put(call(9, 1)); !errors.Is(err, nexusraft.ErrOverloaded) {
		t.Errorf("beyond what one queue may have: got %v, want ErrOverloaded", err)
	}
}
