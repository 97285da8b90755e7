package watchdog

import (
	"testing"
	"time"
)

// The watchdog counts the seconds that it sees pass, so a test makes them.
func TestWatchdog(t *testing.T) {
	var d Watchdog
	busy, w := d.NewWriter(), d.NewWriter() // of which the first one syncs all the time, and quickly
	second, stop := make(chan time.Time), make(chan struct{})
	reports, ended := make(chan string, 100), make(chan error, 1)
	go func() { ended <- d.Watch(stop, second, func(p string) { reports <- p }) }()
	pass := func(n time.Duration) {
		for range n / time.Second {
			busy.End()
			busy.Begin(true)
			second <- time.Time{}
		}
		second <- time.Time{} // taken once the one before has been looked at
	}

	for range 3 { // many quick syncs are no slow one
		w.Begin(true)
		pass(unhealthySync - time.Second)
		w.End()
	}
	if p := d.Problem(); p != "" || len(reports) > 0 {
		t.Fatalf("after quick syncs: problem %q, %d reports", p, len(reports))
	}
	w.Begin(true)
	pass(unhealthySync + 2*time.Second)
	if p := d.Problem(); p == "" {
		t.Error("a sync that lasts too long is no problem")
	}
	if p := <-reports; p == "" {
		t.Error("the report of a slow sync is empty")
	}
	w.End()
	pass(time.Second)
	if p := <-reports; p != "" || d.Problem() != "" {
		t.Errorf("after the slow sync has ended: report %q, problem %q", p, d.Problem())
	}
	w.Begin(true)
	for {
		select {
		case second <- time.Time{}:
			continue
		case err := <-ended:
			if err == nil {
				t.Error("a sync that never ends does not end the node")
			}
		}
		break
	}
}
