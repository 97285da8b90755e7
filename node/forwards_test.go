package node

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestForwardsDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f forwards
		for range 2 {
			if !f.start() {
				t.Fatal("a call may not be passed on before drain")
			}
		}
		f.end()
		time.AfterFunc(time.Second, f.end)
		time.AfterFunc(time.Millisecond, func() {
			if f.start() {
				t.Error("a call is passed on while drain waits")
			}
		})
		begun := time.Now()
		f.drain(time.Minute)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("drain took %v, want until the last call's end", took)
		}
	})
}

func TestForwardsDrainGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f forwards
		f.start()
		begun := time.Now()
		f.drain(time.Minute)
		if took := time.Since(begun); took != time.Minute {
			t.Errorf("drain took %v, want its limit", took)
		}
		f.end() // late, and no harm
	})
}

func TestForwardsDrainWithoutCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f forwards
		begun := time.Now()
		f.drain(time.Minute)
		if took := time.Since(begun); took != 0 {
			t.Errorf("drain took %v, want no wait", took)
		}
	})
}
