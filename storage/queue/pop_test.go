package queue

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// popped is what a Pop in the background returned.
type popped struct {
	caller int
	m      Message
	err    error
}

// popAll starts callers of Pop one after the other.
func popAll(ctx context.Context, q *Queue, callers int) <-chan popped {
	got := make(chan popped, callers)
	for caller := range callers {
		go func() {
			m, err := q.Pop(ctx)
			got <- popped{caller, m, err}
		}()
		synctest.Wait() // until it waits
	}
	return got
}

// inBubble runs a test on a queue in memory on fake time.
func inBubble(t *testing.T, test func(t *testing.T, q *Queue)) {
	synctest.Test(t, func(t *testing.T) { test(t, newQueue(t)) })
}

// TestServedInTurn shows that those who wait are served in their order, by all that makes
// a message deliverable.
func TestServedInTurn(t *testing.T) {
	inBubble(t, func(t *testing.T, q *Queue) {
		push(t, q, "leased")
		push(t, q, "returned")
		mustPop(t, q, "leased", 1)
		returned := mustPop(t, q, "returned", 1)
		got := popAll(t.Context(), q, 3)
		var order []string
		note := func() {
			synctest.Wait()
			for range len(got) {
				p := <-got
				check(t, p.err)
				order = append(order, fmt.Sprint(p.caller, " ", string(p.m.Value), p.m.Deliveries))
			}
		}
		time.Sleep(time.Second)
		check(t, q.Nack(returned))
		note()
		push(t, q, "new")
		note()
		time.Sleep(defaultRedeliver - time.Second - 1)
		note()
		order = append(order, "lease ends")
		time.Sleep(1 * time.Nanosecond)
		note()
		want := []string{"0 returned2", "1 new1", "lease ends", "2 leased2"}
		if diff := cmp.Diff(want, order); diff != "" {
			t.Errorf("order (-want +got):\n%s", diff)
		}
	})
}

// TestTryPopDoesNotPushIn lets leases of two messages end while somebody waits who is first.
func TestTryPopDoesNotPushIn(t *testing.T) {
	inBubble(t, func(t *testing.T, q *Queue) {
		push(t, q, "a")
		push(t, q, "b")
		a, b := mustPop(t, q, "a", 1), mustPop(t, q, "b", 1)
		got := popAll(t.Context(), q, 1)
		q.mu.Lock()
		q.timer.Stop() // as if it were late
		q.mu.Unlock()
		time.Sleep(defaultRedeliver)
		b = mustPop(t, q, "b", b.Deliveries+1)
		first := <-got
		if first.err != nil || first.m.ID != a.ID {
			t.Errorf("who waited got %+v, want message %d", first, a.ID)
		}
		check(t, errors.Join(q.Ack(first.m), q.Ack(b)))
	})
}

// TestExtendedLeaseWakes shortens a lease while somebody waits.
func TestExtendedLeaseWakes(t *testing.T) {
	inBubble(t, func(t *testing.T, q *Queue) {
		push(t, q, "a")
		a := mustPop(t, q, "a", 1)
		got := popAll(t.Context(), q, 1)
		begin := time.Now()
		check(t, q.Extend(a, time.Second))
		if p := <-got; p.err != nil || time.Since(begin) != time.Second {
			t.Errorf("after %v: got %+v, want it after a second", time.Since(begin), p)
		}
	})
}

// TestNoTimerWithoutNeed shows that nothing is armed while nobody waits, or for nothing.
func TestNoTimerWithoutNeed(t *testing.T) {
	inBubble(t, func(t *testing.T, q *Queue) {
		push(t, q, "a")
		a := mustPop(t, q, "a", 1)
		mustBeEmpty(t, q)
		if q.timer != nil {
			t.Error("nobody waits, but there is a timer")
		}
		ctx, cancel := context.WithCancel(t.Context())
		got := popAll(ctx, q, 1)
		if q.timer == nil {
			t.Fatal("somebody waits, but there is no timer")
		}
		check(t, q.Ack(a))
		if q.timer.Stop() {
			t.Error("no lease will end, but the timer is armed")
		}
		cancel()
		<-got
	})
}

func TestPopEnds(t *testing.T) {
	own := errors.New("own")
	for _, c := range []struct {
		name string
		end  func(t *testing.T, q *Queue, cancel context.CancelCauseFunc)
		want error
	}{
		{"context", func(_ *testing.T, _ *Queue, cancel context.CancelCauseFunc) { cancel(own) }, own},
		{"queue", func(_ *testing.T, q *Queue, _ context.CancelCauseFunc) { q.Close() }, nexusraft.ErrClosed},
		{"store", func(t *testing.T, q *Queue, _ context.CancelCauseFunc) { check(t, q.s.Close()) }, nexusraft.ErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, q *Queue) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				got := popAll(ctx, q, 3)
				c.end(t, q, cancel)
				for range 3 {
					want(t, (<-got).err, c.want)
				}
				_, err := q.Pop(ctx)
				want(t, err, c.want)
				if n := q.waiters.Len(); n != 0 {
					t.Errorf("%d callers are still waiting", n)
				}
			})
		})
	}
}

// TestPopEndsWithTheStore has the disk fail while somebody waits.
func TestPopEndsWithTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := &slowFS{FS: storage.NewMemFS()}
		s := mustStore(t, fs)
		q := mustOpen(t, s)
		got := popAll(t.Context(), q, 1)
		broken := errors.New("broken disk")
		go func(hold chan error) { hold <- broken; close(hold) }(fs.stop())
		_, err := q.Push([]byte("a"), storage.Sync)
		want(t, err, nexusraft.ErrClosed)
		p := <-got
		want(t, p.err, nexusraft.ErrClosed)
		want(t, p.err, broken)
		q.Close()
		want(t, s.Close(), broken)
	})
}

// TestDeliveredWhenSynced holds up the disk.
func TestDeliveredWhenSynced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := &slowFS{FS: storage.NewMemFS()}
		s := mustStore(t, fs)
		defer func() { check(t, s.Close()) }()
		q := mustOpen(t, s)
		defer q.Close()
		push(t, q, "before")
		hold := fs.stop()
		done := make(chan error)
		go func() {
			_, err := q.Push([]byte("synced"), storage.Sync)
			done <- err
		}()
		synctest.Wait()
		push(t, q, "after") // not to be delivered before the one that waits
		mustLen(t, q, 3)
		check(t, q.Ack(mustPop(t, q, "before", 1), storage.NoSync))
		mustBeEmpty(t, q)
		got := popAll(t.Context(), q, 1)
		if len(got) > 0 {
			t.Errorf("got %+v before it is on the disk", <-got)
		}
		close(hold)
		check(t, <-done)
		p := <-got
		if p.err != nil || string(p.m.Value) != "synced" {
			t.Errorf("got %+v", p)
		}
		mustPop(t, q, "after", 1)
	})
}

// TestHandedOverWhileItEnds ends a call just before a message is handed to it: it returns it.
func TestHandedOverWhileItEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, q *Queue) {
		ctx, cancel := context.WithCancel(t.Context())
		got := popAll(ctx, q, 1)
		check(t, q.tree.Set(key(1), []byte("a")))
		q.mu.Lock()
		cancel() // it knows now, and waits for the lock
		q.book.pushed(1, false)
		q.dispatch()
		q.mu.Unlock()
		p := <-got
		if p.err != nil || string(p.m.Value) != "a" {
			t.Fatalf("got %+v, want the message", p)
		}
		check(t, q.Ack(p.m))
	})
}

// TestEndsWhileItIsHandedOver cancels callers while messages are pushed: none is lost.
func TestEndsWhileItIsHandedOver(t *testing.T) {
	q := newQueue(t)
	for n := range 500 {
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan popped, 1)
		go func() {
			m, err := q.Pop(ctx)
			got <- popped{0, m, err}
		}()
		go cancel()
		push(t, q, fmt.Sprint(n))
		p := <-got
		if p.err != nil {
			want(t, p.err, context.Canceled)
			p.m = mustPop(t, q, fmt.Sprint(n), 1)
		}
		if string(p.m.Value) != fmt.Sprint(n) {
			t.Fatalf("got %q, want %d", p.m.Value, n)
		}
		check(t, q.Ack(p.m, storage.NoSync))
	}
	checkForgotten(t, q)
}

// TestCloseWaitsForWrites looks at the lock that Close takes while calls wait for the disk.
func TestCloseWaitsForWrites(t *testing.T) {
	for name, write := range map[string]func(*Queue, Message) error{
		"push": func(q *Queue, _ Message) error { _, err := q.Push(nil, storage.Sync); return err },
		"ack":  func(q *Queue, m Message) error { return q.Ack(m, storage.Sync) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fs := &slowFS{FS: storage.NewMemFS()}
				s := mustStore(t, fs)
				defer func() { check(t, s.Close()) }()
				q := mustOpen(t, s)
				push(t, q, "a")
				m := mustPop(t, q, "a", 1)
				hold := fs.stop()
				done := make(chan error)
				go func() { done <- write(q, m) }()
				synctest.Wait()
				if q.writing.TryLock() {
					t.Error("a call writes, but Close would not wait for it")
				}
				close(hold)
				check(t, <-done)
				q.Close()
			})
		})
	}
}
