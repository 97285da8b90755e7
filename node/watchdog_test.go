package node

import (
	"testing"
	"time"
)

// The watchdog counts the seconds that it sees pass, so a test makes them.
func TestWatchdog(t *testing.T) {
	var d watchdog
	second, stop := make(chan time.Time), make(chan struct{})
	reports, ended := make(chan string, 100), make(chan error, 1)
	go func() { ended <- d.watch(stop, second, func(p string) { reports <- p }) }()
	pass := func(n time.Duration) {
		for range n / time.Second {
			second <- time.Time{}
		}
		second <- time.Time{} // taken once the one before has been looked at
	}

	for range 3 { // many quick syncs are no slow one
		d.begin(true)
		pass(unhealthySync - time.Second)
		d.end()
	}
	if p := d.problem(); p != "" || len(reports) > 0 {
		t.Fatalf("after quick syncs: problem %q, %d reports", p, len(reports))
	}
	d.begin(true)
	pass(unhealthySync + 2*time.Second)
	if p := d.problem(); p == "" {
		t.Error("a sync that lasts too long is no problem")
	}
	if p := <-reports; p == "" {
		t.Error("the report of a slow sync is empty")
	}
	d.end()
	pass(time.Second)
	if p := <-reports; p != "" || d.problem() != "" {
		t.Errorf("after the slow sync has ended: report %q, problem %q", p, d.problem())
	}
	d.begin(true)
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
