package numbering

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// ascending registers sessions 1, 2 and so on.
func ascending() func(context.Context) (uint64, error) {
	last := uint64(0)
	return func(context.Context) (uint64, error) { // one at a time, or the race detector tells
		last++
		return last, nil
	}
}

func TestNumbersAreInAWindow(t *testing.T) {
	n := New(ascending())
	if got := n.Session(); got != 0 {
		t.Errorf("session %d before one is registered", got)
	}
	first, err := n.begin(t.Context())
	if err != nil || first.RequestID != (nexusraft.RequestID{Session: 1, Sequence: 1}) {
		t.Fatalf("got %v, %v", first.RequestID, err)
	}
	for i := uint64(2); i <= Window; i++ {
		x, err := n.begin(t.Context())
		if err != nil || x.Sequence != i {
			t.Fatalf("got %v, %v, want number %d", x.RequestID, err, i)
		}
		n.end(x)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.begin(ctx); !errors.Is(err, context.Canceled) { // all but the first have ended
		t.Errorf("a number out of the window: %v", err)
	}
	began := make(chan number)
	go func() {
		x, err := n.begin(t.Context())
		if err != nil {
			t.Error(err)
		}
		began <- x
	}()
	n.end(first)
	if x := <-began; x.Sequence != Window+1 {
		t.Errorf("got number %d, want %d", x.Sequence, Window+1)
	}
}

// However many find that a session is forgotten, one other is registered for all of them.
func TestSessionIsReplacedOnce(t *testing.T) {
	n := New(ascending())
	var callers, forgot sync.WaitGroup
	forgot.Add(Window)
	var mu sync.Mutex
	var second []uint64
	for range Window {
		callers.Go(func() {
			err := n.Propose(t.Context(), func(id nexusraft.RequestID) (bool, error) {
				if id.Session == 1 {
					forgot.Done()
					forgot.Wait()
					return true, nexusraft.ErrUnknownSession
				}
				mu.Lock()
				defer mu.Unlock()
				second = append(second, id.Sequence)
				return false, nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	slices.Sort(second)
	if got := len(slices.Compact(second)); got != Window || n.Session() != 2 {
		t.Errorf("%d numbers of session %d, want %d of session 2", got, n.Session(), Window)
	}
}

func TestErrorsOfPropose(t *testing.T) {
	n := New(ascending())
	calls := 0
	err := n.Propose(t.Context(), func(nexusraft.RequestID) (bool, error) {
		calls++
		return true, nexusraft.ErrUnknownSession
	})
	if !errors.Is(err, nexusraft.ErrUnknownSession) || calls != renewals {
		t.Errorf("forgotten again and again: got %v after %d calls", err, calls)
	}

	failed := errors.New("no")
	n = New(func(context.Context) (uint64, error) { return 0, failed })
	never := func(nexusraft.RequestID) (bool, error) {
		t.Error("a command was proposed without a session")
		return false, nil
	}
	if err := n.Propose(t.Context(), never); !errors.Is(err, failed) {
		t.Errorf("not registered: got %v", err)
	}

	registering, done := make(chan struct{}), make(chan struct{})
	n = New(func(context.Context) (uint64, error) {
		close(registering)
		<-done
		return 1, nil
	})
	ended := make(chan error)
	go func() { ended <- n.Register(t.Context()) }()
	<-registering
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := n.Propose(ctx, never); !errors.Is(err, context.Canceled) { // another one registers, and takes its time
		t.Errorf("while another one registers: got %v", err)
	}
	close(done)
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
