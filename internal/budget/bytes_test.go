package budget

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func take(t *testing.T, b *Bytes, principal string, n int64) {
	t.Helper()
	if err := b.Take(t.Context(), principal, n); err != nil {
		t.Fatalf("%s takes %d: %v", principal, n, err)
	}
}

func refused(t *testing.T, b *Bytes, principal string, n int64, want Cause) {
	t.Helper()
	begun := time.Now()
	err := b.Take(t.Context(), principal, n)
	if e, ok := errors.AsType[*Exceeded](err); !ok || e.Cause != want {
		t.Fatalf("%s takes %d: got %v, want refused for %v", principal, n, err, want)
	}
	if waited := time.Since(begun); waited != b.wait {
		t.Errorf("refused after %v", waited)
	}
}

func TestSharesOfAnswerBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Counters
		b := NewBytes(100, 60, time.Second, &c)
		take(t, b, "a", 60)
		refused(t, b, "a", 1, AnswerBytesOfPrincipal)
		take(t, b, "b", 40)
		refused(t, b, "b", 1, AnswerBytes)
		refused(t, b, "c", 61, AnswerBytes)
		b.Give("a", 10)
		take(t, b, "b", 10)
		b.Give("a", 50)
		b.Give("b", 50)
		take(t, b, "c", 60)
		if c.Count(AnswerBytes) != 2 || c.Count(AnswerBytesOfPrincipal) != 1 || len(b.held) != 1 || b.used != 60 {
			t.Errorf("counts %v, held %v, used %d", c.Snapshot(), b.held, b.used)
		}
	})
}

// A large one gets its place though small ones come all the time, and a principal beyond its share
// holds up nobody.
func TestOrderOfPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBytes(100, 60, time.Second, new(Counters))
		take(t, b, "a", 60)
		take(t, b, "b", 20)
		var order []string
		var mu sync.Mutex
		ask := func(name, principal string, n int64) {
			go func() {
				if err := b.Take(t.Context(), principal, n); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				mu.Lock()
				order = append(order, name)
				mu.Unlock()
			}()
			synctest.Wait()
		}
		ask("beyond its share", "a", 10)
		ask("large", "c", 50)
		ask("small", "d", 10) // there is room for it, and it waits behind the large one
		if len(order) != 0 {
			t.Errorf("granted: %q", order)
		}
		b.Give("b", 20)
		b.Give("a", 10) // 50 are held: the first one fits its share, and the large one does not fit beside it
		synctest.Wait()
		b.Give("a", 60)
		synctest.Wait()
		if got := fmt.Sprint(order); got != "[beyond its share large small]" && got != "[beyond its share small large]" {
			t.Errorf("order %s", got)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBytes(100, 100, time.Minute, new(Counters))
		take(t, b, "a", 100)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if _, ok := errors.AsType[*Exceeded](b.Take(ctx, "a", 1)); !ok || time.Since(begun) != 900*time.Millisecond {
			t.Errorf("with a deadline: not refused, or after %v", time.Since(begun))
		}
		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := b.Take(ctx, "a", 1); !errors.Is(err, context.Canceled) {
			t.Errorf("of a caller that goes: got %v", err)
		}
		if len(b.waiting) != 0 {
			t.Errorf("%d still wait", len(b.waiting))
		}
	})
}

// What is more than there is gets through alone, ahead of what comes later, and holds up only its own principal
// where it is over the share.
func TestLargerThanTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBytes(100, 60, time.Second, new(Counters))
		granted := func(principal string, n int64) *bool {
			done := new(bool)
			go func() { *done = b.Take(t.Context(), principal, n) == nil }()
			synctest.Wait()
			return done
		}
		take(t, b, "a", 10)
		large, small, other := granted("a", 70), granted("a", 1), granted("b", 10)
		if *large || *small || !*other {
			t.Errorf("over a share beside another of its own: %t, one behind it: %t, of another principal: %t",
				*large, *small, *other)
		}
		b.Give("a", 10)
		synctest.Wait()
		if !*large || *small {
			t.Errorf("over a share, alone: %t, beside it: %t", *large, *small)
		}
		huge, later := granted("c", 1000), granted("b", 1)
		if *huge || *later {
			t.Errorf("over all beside others: %t, one behind it: %t", *huge, *later)
		}
		b.Give("a", 70)
		b.Give("b", 10)
		synctest.Wait()
		b.Give("a", 1) // which was first in line
		synctest.Wait()
		if !*huge || *later {
			t.Errorf("over all, alone: %t, beside it: %t", *huge, *later)
		}
		b.Give("c", 1000)
		synctest.Wait()
		if !*later {
			t.Error("nothing follows it")
		}
	})
}

// Whatever callers do, nothing is lost and no limit is passed.
func TestBytesUnderLoad(t *testing.T) {
	b := NewBytes(100, 60, 10*time.Millisecond, new(Counters))
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, uint64(i)))
			principal := fmt.Sprint("p", i%3)
			for range 300 {
				a := b.NewAnswer(principal)
				ctx := WithAnswer(t.Context(), a)
				if Reserve(ctx, r.Int64N(130)) == nil {
					b.mu.Lock()
					if b.used > b.total && len(b.held) != 1 {
						t.Errorf("used %d of %d, by %v", b.used, b.total, b.held)
					}
					b.mu.Unlock()
					a.Shrink(r.Int64N(20))
				}
				a.End()
				a.End()
			}
		})
	}
	wg.Wait()
	if b.used != 0 || len(b.held) != 0 || len(b.waiting) != 0 {
		t.Errorf("left: used %d, held %v, %d wait", b.used, b.held, len(b.waiting))
	}
}

func TestAnswerEnds(t *testing.T) {
	b := NewBytes(100, 60, time.Second, new(Counters))
	a := b.NewAnswer("p")
	ctx := WithAnswer(t.Context(), a)
	if err := Reserve(ctx, 40); err != nil || Reserve(ctx, 60) != nil { // in place of the first
		t.Fatal(err)
	}
	ShrinkAnswer(ctx, 30)
	ended := 0
	a.OnEnd(func() { ended++ })
	if a.Held() != 30 || b.used != 30 {
		t.Errorf("holds %d of %d", a.Held(), b.used)
	}
	a.End()
	a.End()
	if ended != 1 || b.used != 0 {
		t.Errorf("ended %d times, used %d", ended, b.used)
	}
	if Reserve(t.Context(), 1<<40) != nil {
		t.Error("refused where nobody counts")
	}
}
