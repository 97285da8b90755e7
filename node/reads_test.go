package node_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

// value returns a function that reads a key.
func value(key string, to *string) func(nexusraft.Reader) error {
	return func(r nexusraft.Reader) error {
		b, _, err := r.Get([]byte(key))
		*to = string(b)
		return err
	}
}

// A member reads what was written through another one, by the index of the write's result.
func TestReadAtAnyMember(t *testing.T) {
	t.Parallel()
	leader := found(t, testConfig(t, "n1"))
	follower := join(t, testConfig(t, "n2"), leader)
	last := nexusraft.Index(0)
	for i := range 50 {
		want := fmt.Sprint(i)
		result := leader.put("k", want)
		for _, m := range []*member{follower, leader} {
			var got string
			if err := m.zone().ReadAt(t.Context(), result.Index, value("k", &got)); err != nil || got != want {
				t.Fatalf("%s at index %d: got %q, %v, want %q", m.config.Name, result.Index, got, err, want)
			}
		}
		last = result.Index
	}

	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	none := func(nexusraft.Reader) error { t.Error("an index that is not there was read"); return nil }
	err := follower.zone().ReadAt(ctx, last+1000, none)
	if !errors.Is(err, nexusraft.ErrNoQuorum) || !errors.Is(err, context.DeadlineExceeded) ||
		!strings.Contains(err.Error(), fmt.Sprintf("zone 1 at index %d", last+1000)) {
		t.Errorf("at an index that is not there: got %v", err)
	}
	z := follower.zone()
	leader.close()
	follower.close()
	if err := z.ReadAt(t.Context(), last+1000, none); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("of a node that is closed: got %v", err)
	}
}

// What was confirmed once is good for a while without the other nodes, and for no longer.
func TestReadWithinAnAge(t *testing.T) {
	t.Parallel()
	leader := found(t, testConfig(t, "n1"))
	follower := join(t, testConfig(t, "n2"), leader)
	leader.put("k", "v")
	if got := follower.get("k"); got != "v" {
		t.Fatalf("got %q", got)
	}
	leader.close()
	var got string
	if err := follower.zone().ReadWithin(t.Context(), time.Hour, value("k", &got)); err != nil || got != "v" {
		t.Errorf("a state of the last hour, without the leader: got %q, %v", got, err)
	}
	for _, age := range []time.Duration{time.Nanosecond, 0, -time.Hour} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		if err := follower.zone().ReadWithin(ctx, age, value("k", &got)); !errors.Is(err, nexusraft.ErrNoQuorum) {
			t.Errorf("a state of the last %v, without the leader: got %v, want ErrNoQuorum", age, err)
		}
		cancel()
	}
	failed := errors.New("of fn")
	fail := func(nexusraft.Reader) error { return failed }
	if err := follower.zone().ReadWithin(t.Context(), time.Hour, fail); !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
}

// A leader reads alone once a quorum has answered it, if it was told how far clocks drift.
func TestReadLease(t *testing.T) {
	t.Parallel()
	config := func(name string, drift float64) node.Config {
		c := testConfig(t, name)
		c.MaxClockDrift = drift
		return c
	}
	leader := found(t, config("n1", 0.01))
	follower := join(t, config("n2", 0.01), leader)
	want := 0
	write := func() string {
		want++
		leader.put("k", fmt.Sprint(want))
		return fmt.Sprint(want)
	}
	alone := func(m *member) bool {
		t.Helper()
		want := write()
		var got string
		if err := m.zone().ReadLease(t.Context(), value("k", &got)); err != nil || got != want {
			t.Fatalf("%s: got %q, %v, want %q", m.config.Name, got, err, want)
		}
		held, err := m.zone().ReadAlone(t.Context(), value("k", &got))
		if err != nil || got != want {
			t.Fatalf("%s: got %q, %v, want %q", m.config.Name, got, err, want)
		}
		return held
	}
	for deadline := time.Now().Add(30 * time.Second); !alone(leader) && !alone(follower); { // either may lead
		if time.Now().After(deadline) {
			t.Fatal("no leader reads alone")
		}
	}

	failed := errors.New("of fn")
	fail := func(nexusraft.Reader) error { return failed }
	if err := leader.zone().ReadLease(t.Context(), fail); !errors.Is(err, failed) {
		t.Errorf("got %v, want %v", err, failed)
	}
	z := leader.zone()
	leader.close()
	if err := z.ReadLease(t.Context(), fail); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("of a node that is closed: got %v", err)
	}

	leader = found(t, config("n3", 0))
	for range 20 {
		if alone(leader) {
			t.Fatal("a leader reads alone, and nobody has told it how far clocks drift")
		}
	}
}
