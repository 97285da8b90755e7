package propose

import (
	"context"
	"errors"
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
			if got := q.Take(); len(got) != 1 || got[0] != p {
				t.Fatalf("%s: took %v", name, got)
			}
			if err := q.Put(call(7, maxBytes/4+1)); !errors.Is(err, nexusraft.ErrOverloaded) {
				t.Fatalf("%s: beside one that was taken: got %v, want ErrOverloaded", name, err)
			}
			end(&q, p)
		}
		if q.all != (load{}) || len(q.zones) != 0 {
			t.Errorf("%s: %+v and %v are left", name, q.all, q.zones)
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
