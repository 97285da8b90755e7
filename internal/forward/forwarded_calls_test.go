package forward

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Calls
		_, end, ok := f.Start(t.Context(), 1, 2)
		_, endLate, okLate := f.Start(t.Context(), 1, 2)
		if !ok || !okLate {
			t.Fatal("a call may not be passed on before drain")
		}
		end()
		time.AfterFunc(time.Second, endLate)
		time.AfterFunc(time.Millisecond, func() {
			if _, _, ok := f.Start(t.Context(), 1, 2); ok {
				t.Error("a call is passed on while drain waits")
			}
		})
		begun := time.Now()
		f.Drain(time.Minute)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("drain took %v, want until the last call's end", took)
		}
	})
}

func TestDrainGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Calls
		_, end, _ := f.Start(t.Context(), 1, 2)
		begun := time.Now()
		f.Drain(time.Minute)
		if took := time.Since(begun); took != time.Minute {
			t.Errorf("drain took %v, want its limit", took)
		}
		end() // late, and no harm
	})
}

func TestDrainWithoutCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Calls
		begun := time.Now()
		f.Drain(time.Minute)
		if took := time.Since(begun); took != 0 {
			t.Errorf("drain took %v, want no wait", took)
		}
	})
}

// TestForwardEndsWithItsLeader: a call that a lost leader does not answer ends an election timeout
// after another one leads, or nobody does; not in an election that the leader wins again.
func TestForwardEndsWithItsLeader(t *testing.T) {
	const ticks, leader = 6, 2
	var f Calls
	ctx, end, _ := f.Start(t.Context(), 1, leader)
	defer end()
	other, endOther, _ := f.Start(t.Context(), 7, leader)
	defer endOther()
	for range ticks - 1 {
		f.Tick(1, 0, ticks)
	}
	f.Tick(1, leader, ticks)
	for range ticks - 1 {
		f.Tick(1, 3, ticks)
	}
	if ctx.Err() != nil {
		t.Fatalf("the call has ended too early: %v", context.Cause(ctx))
	}
	f.Tick(1, 3, ticks)
	if cause := context.Cause(ctx); !errors.Is(cause, ErrLeaderLost) {
		t.Errorf("the call ended with %v, want %v", cause, ErrLeaderLost)
	}
	if other.Err() != nil {
		t.Errorf("a call of another zone has ended: %v", context.Cause(other))
	}
}
