package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/machinetest"
)

// The program's play, in a new directory.
func TestLocks(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.TempDir(), &out); err != nil {
		t.Fatal(err)
	}
	want := `ann has the lock; she writes: <nil>
bob has to wait; ann falls silent for an hour
bob has the lock, with a higher token: true
bob writes: <nil>
ann believes that she has the lock, and writes: an older token than one that has written
bob has released the lock; the ledger has: by bob
`
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("want (-), got (+):\n%s", d)
	}
}

// maxCalls is how much of the state a command may read and write: calls, with the steps of scans. A
// grant reads the lock and drops the old grant, finds two that have ended and drops them, and is
// stored.
const maxCalls = 11

// apply is z.Apply, by a bounded number of calls.
func apply(t machinetest.TB, z *machinetest.Replicas, cmd nexusraft.Command) ([]byte, error) {
	t.Helper()
	answer, err := z.Apply(cmd)
	if z.Calls() > maxCalls {
		t.Fatalf("a command made %d calls, the limit is %d", z.Calls(), maxCalls)
	}
	return answer, err
}

// Random commands: a lock is held by the grant that has not ended, of which there is one; tokens
// ascend; and grants that have ended do not pile up.
func TestLocksAreAMapOfGrants(t *testing.T) {
	t.Parallel()
	names := rapid.SampledFrom([]string{"a", "b", "c", "d"})
	leases := rapid.SampledFrom([]time.Duration{
		0, minLease, 3 * time.Millisecond, 9 * time.Millisecond, maxLease, maxLease + 1, -1,
	})
	rapid.Check(t, func(t *rapid.T) {
		z := machinetest.New(t, service{})
		grants := make(map[string]Grant) // the newest of each lock that was not released
		tokens := []uint64{0}
		now, order := time.Unix(1, 0), uint64(nexusraft.MaxEntryCommands)
		for range rapid.IntRange(1, 80).Draw(t, "commands") {
			name, lease := names.Draw(t, "name"), leases.Draw(t, "lease")
			token := rapid.SampledFrom(tokens).Draw(t, "token")
			order += rapid.SampledFrom([]uint64{1, 1, nexusraft.MaxEntryCommands, 700}).Draw(t, "order")
			now = now.Add(rapid.SampledFrom([]time.Duration{0, 0, time.Millisecond, 2 * time.Millisecond}).Draw(t, "time"))

			old, ok := grants[name]
			lasts, valid := ok && now.Before(old.End), lease >= minLease && lease <= maxLease
			var command []byte
			var accepted bool
			var want Grant
			op := rapid.SampledFrom([]byte("aaannr")).Draw(t, "op")
			switch op {
			case opAcquire:
				command, accepted = Acquire(name, "owner", lease), valid && !lasts
				want = Grant{Token: order, End: now.Add(lease)}
			case opRenew:
				command, accepted = Renew(name, token, lease), valid && lasts && old.Token == token
				want = Grant{Token: token, End: now.Add(lease)}
			case opRelease:
				command, accepted = Release(name, token), true
				if ok && old.Token == token {
					delete(grants, name)
				}
			}
			before := z.Dump()
			cmd := commandAt(order)
			cmd.Time, cmd.Data = now.UnixNano(), command
			answer, err := apply(t, z, cmd)
			switch {
			case err != nil && !errors.Is(err, nexusraft.ErrRefused):
				t.Fatal(err)
			case (err == nil) != accepted:
				t.Fatalf("%q at %v: got %v, want accepted: %v (grant %v)", command, now, err, accepted, old)
			case err != nil && cmp.Diff(before, z.Dump()) != "":
				t.Fatalf("%q was refused, and changed the state", command)
			}
			if accepted && op != opRelease {
				got, err := ParseGrant(answer)
				if d := cmp.Diff(want, got); d != "" || err != nil {
					t.Fatalf("%v, want (-), got (+):\n%s", err, d)
				}
				grants[name], tokens = got, append(tokens, got.Token)
			}
			for name, g := range grants {
				owner, got, err := Holder(z.Reader(), name)
				forgotten := owner == "" && !now.Before(g.End)
				if err != nil || !forgotten && (owner != "owner" || got != g) {
					t.Fatalf("the holder of %s is %q, %v, %v, want %v", name, owner, got, err, g)
				}
			}
			if got, most := len(z.Dump()), 2*len(grants); got > most || got%2 != 0 {
				t.Fatalf("%d keys, want two for each of %d grants at most", got, len(grants))
			}
		}
	})
}

// Locks that nobody uses again are forgotten: a thousand that were held at once, by as many later
// grants.
func TestLocksAreForgotten(t *testing.T) {
	t.Parallel()
	z := machinetest.New(t, service{})
	for i := range 2_000 {
		now := time.Duration(max(0, i-999)) * time.Minute
		cmd := nexusraft.Command{
			Index: nexusraft.Index(i + 1), Time: int64(now), Data: Acquire(fmt.Sprint("job ", i), "owner", time.Second),
		}
		if _, err := apply(t, z, cmd); err != nil {
			t.Fatal(err)
		}
		if i == 999 {
			if got := len(z.Dump()); got != 2*1_000 {
				t.Fatalf("%d keys of 1,000 locks", got)
			}
		}
	}
	if got := len(z.Dump()); got > 2*2 {
		t.Errorf("%d keys are left, of which one lock is held", got)
	}
}

// What is refused says what to do, and leaves nothing behind.
func TestRefusals(t *testing.T) {
	t.Parallel()
	z := machinetest.New(t, service{})
	long := strings.Repeat("x", maxNameBytes+1)
	for i, command := range [][]byte{
		nil,
		{opAcquire},
		{opRenew, 1},
		{opRelease},
		{'?', 1},
		Acquire("a", "b", time.Second)[:13],
		Acquire("", "b", time.Second), Acquire("a", "", time.Second), Acquire(long, "b", time.Second),
		Acquire("a", long, time.Second), Acquire("a", "b", 0), Acquire("a", "b", maxLease+1),
		Renew("a", 1, time.Second), Renew("", 1, time.Second), Renew(long, 1, time.Second), Release("", 1), Release(long, 1),
	} {
		cmd := nexusraft.Command{Index: nexusraft.Index(i + 1), Time: 1, Data: command}
		if _, err := apply(t, z, cmd); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%.40q: got %v, want a refusal", command, err)
		}
	}
	if d := z.Dump(); len(d) != 0 {
		t.Errorf("refusals left %q", d)
	}
}

// commandAt returns a command without data: that of an order.
func commandAt(order uint64) nexusraft.Command {
	return nexusraft.Command{
		Index: nexusraft.Index(order / nexusraft.MaxEntryCommands), Place: int(order % nexusraft.MaxEntryCommands),
	}
}
