package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestLeaseIDText(t *testing.T) {
	if text := LeaseID(0x694d7b1).String(); text != "694d7b1" {
		t.Errorf("got %s", text)
	}
	good := map[string]LeaseID{"a": 10, "00000000000000ff": 255, "7fffffffffffffff": 1<<63 - 1, "Af": 175}
	for text, want := range good {
		var id LeaseID
		if err := id.UnmarshalText([]byte(text)); err != nil || id != want {
			t.Errorf("%s: got %v, %v", text, id, err)
		}
	}
	for _, bad := range []string{
		"", "0", "-1", "+1", "g", "0x1", "8000000000000000", "1 ", strings.Repeat("1", 99), "\x1b[2J",
	} {
		var id LeaseID
		err := id.UnmarshalText([]byte(bad))
		if err == nil || !strings.Contains(err.Error(), "is no lease's ID, which is hexadecimal") || len(err.Error()) > 150 ||
			strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: got %v, %v", bad, id, err)
		}
	}
}

func TestLeases(t *testing.T) {
	z := newFakeZone()
	c := connect(t, Options{Endpoints: []string{z.serves(t, nil).address}})
	ctx := within(t)
	one, err := c.GrantLease(ctx, 1500*time.Millisecond)
	if err != nil || one.TTL != 2*time.Second || one.Remaining != one.TTL || one.ID <= 0 {
		t.Fatalf("grant: %+v, %v", one, err)
	}
	two, err := c.GrantLease(ctx, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	ids := []LeaseID{one.ID, two.ID}
	slices.Sort(ids)
	if got, err := c.Leases(ctx); err != nil || cmp.Diff(ids, got) != "" {
		t.Errorf("leases: %v, %v; want %v", got, err, ids)
	}
	if r, err := c.PutLeased(ctx, []byte("k"), []byte("v"), one.ID); err != nil || r.Revision != 2 {
		t.Errorf("put: %+v, %v", r, err)
	}
	if kv, _, err := c.Get(ctx, []byte("k")); err != nil || kv.Lease != one.ID {
		t.Errorf("get: %+v, %v", kv, err)
	}
	if keys, err := c.LeaseKeys(ctx, one.ID); err != nil || cmp.Diff([][]byte{[]byte("k")}, keys) != "" {
		t.Errorf("keys: %q, %v", keys, err)
	}
	if ttl, err := c.RenewLease(ctx, two.ID); err != nil || ttl != time.Minute {
		t.Errorf("renew: %v, %v", ttl, err)
	}
	if l, err := c.Lease(ctx, two.ID); err != nil || l != (GrantedLease{two.ID, time.Minute, 59 * time.Second}) {
		t.Errorf("lease: %+v, %v", l, err)
	}
	if err := c.RevokeLease(ctx, one.ID); err != nil {
		t.Error(err)
	}
	if _, found, err := c.Get(ctx, []byte("k")); err != nil || found {
		t.Errorf("the key of a revoked lease: %v, %v", found, err)
	}
	if _, err := c.GrantLease(ctx, -time.Second); err == nil || !strings.Contains(err.Error(), "-1s is not above 0") {
		t.Errorf("a negative time: %v", err)
	}
}

func TestLeaseThatIsNotThere(t *testing.T) {
	c := connect(t, Options{Endpoints: []string{newFakeZone().serves(t, nil).address}})
	ctx := within(t)
	for what, err := range map[string]error{
		"revoke": c.RevokeLease(ctx, 5),
		"renew":  second(c.RenewLease(ctx, 5)),
		"lease":  second(c.Lease(ctx, 5)),
		"keys":   second(c.LeaseKeys(ctx, 5)),
		"keep":   second(c.KeepGranted(ctx, 5)),
		"put":    second(c.PutLeased(ctx, []byte("k"), nil, 5)),
		"txn":    second(c.Txn(ctx, Txn{Then: []Operation{Put{Key: []byte("k"), Lease: 5}}})),
	} {
		if !errors.Is(err, ErrLeaseNotFound) || errors.Is(err, nexusraft.ErrUncertain) {
			t.Errorf("%s: got %v", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// A grant or a revoke whose answer is lost is made again, and happens once.
func TestLostAnswersOfLeases(t *testing.T) {
	z := newFakeZone()
	lost := map[string]bool{"grant": true, "revoke": true}
	n := z.serves(t, func(n *zoneNode) {
		n.after = func(call string) error {
			if lost[call] {
				delete(lost, call)
				return cut()
			}
			return nil
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	l, err := c.GrantLease(within(t), 5*time.Second)
	if err != nil || l.TTL != 5*time.Second || len(z.leases) != 1 {
		t.Errorf("grant: %+v, %v, %d leases", l, err, len(z.leases))
	}
	if err := c.RevokeLease(within(t), l.ID); err != nil || len(z.leases) != 0 || len(lost) != 0 {
		t.Errorf("revoke: %v, %d leases, not lost %v", err, len(z.leases), lost)
	}
}

// A lease that took long to be granted has its whole time all the same: it counts from the attempt that made it, or
// from a renewal if that is not known.
func TestGrantedLeaseCountsFromItsAttempt(t *testing.T) {
	var last time.Time // when the last call arrived that was failed
	failing := func(call string) error {
		if call == "grant" && last.IsZero() {
			last = time.Now()
			return cut()
		}
		return nil
	}
	for name, setup := range map[string]func(*zoneNode){
		"not made": func(n *zoneNode) { n.before = failing }, "made": func(n *zoneNode) { n.after = failing },
	} {
		last = time.Time{}
		c := connect(t, Options{Endpoints: []string{newFakeZone().serves(t, setup).address}})
		l, sent, err := c.grant(within(t), time.Minute)
		if err != nil || l.TTL != time.Minute || l.Remaining != time.Minute || last.IsZero() || !sent.After(last) {
			t.Errorf("%s: got %+v, %v, sent %v after the attempt that failed", name, l, err, sent.Sub(last))
		}
	}
}

// heldLease is a lease of nine seconds whose renewals a test answers.
func heldLease(renew func(context.Context) (time.Time, error)) *KeptLease {
	l := &KeptLease{client: &Client{}, lease: GrantedLease{ID: 1, TTL: 9 * time.Second}, renew: renew}
	l.start(time.Now())
	return l
}

// A lease is renewed each third of its time, as long as that works.
func TestKeptLeaseIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var at []time.Duration
		l := heldLease(func(context.Context) (time.Time, error) {
			at = append(at, time.Since(begin))
			return time.Now(), nil
		})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if l.Context().Err() != nil || fmt.Sprint(at) != "[3s 6s 9s]" {
			t.Errorf("renewed at %v, %v", at, context.Cause(l.Context()))
		}
		l.Stop()
		time.Sleep(10 * time.Second)
		if len(at) != 3 || context.Cause(l.Context()) != nexusraft.ErrClosed {
			t.Errorf("after Stop: renewed at %v, %v", at, context.Cause(l.Context()))
		}
	})
}

// The lease counts from when the last renewal that was answered was sent, however late the answer came.
func TestKeptLeaseCountsFromTheSending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		renewals := 0
		l := heldLease(func(ctx context.Context) (time.Time, error) {
			sent := time.Now()
			if renewals++; renewals > 1 {
				<-ctx.Done()
				return sent, ctx.Err()
			}
			time.Sleep(2 * time.Second) // sent at 3 s, answered at 5 s
			return sent, nil
		})
		<-l.Context().Done()
		if after := time.Since(begin); after != 3*time.Second+9*time.Second*99/100 {
			t.Errorf("lost after %v, want 3 s and 0.99 of 9 s", after)
		}
		if cause := context.Cause(l.Context()); !errors.Is(cause, ErrLost) {
			t.Errorf("lost by %v", cause)
		}
		l.Stop()
	})
}

// An answer that comes after the lease's time is no renewal.
func TestKeptLeaseTakesNoLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := heldLease(func(context.Context) (time.Time, error) {
			time.Sleep(7 * time.Second) // sent at 3 s, answered at 10 s
			return time.Now(), nil
		})
		time.Sleep(time.Minute)
		if cause := context.Cause(l.Context()); !errors.Is(cause, ErrLost) {
			t.Errorf("got %v, want that it is lost", cause)
		}
		l.Stop()
	})
}

// An error that may pass is tried again until the lease's time is over; a lease that is gone is lost at once.
func TestKeptLeaseThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var renewals atomic.Int64
		l := heldLease(func(context.Context) (time.Time, error) {
			if renewals.Add(1) <= 3 {
				return time.Time{}, nexusraft.ErrDenied
			}
			return time.Now(), nil
		})
		time.Sleep(20 * time.Second)
		if l.Context().Err() != nil || renewals.Load() < 6 {
			t.Errorf("after %d renewals: %v", renewals.Load(), context.Cause(l.Context()))
		}
		l.Stop()

		begin := time.Now()
		gone := heldLease(func(context.Context) (time.Time, error) { return time.Time{}, ErrLeaseNotFound })
		<-gone.Context().Done()
		if cause := context.Cause(gone.Context()); !errors.Is(cause, ErrLost) || time.Since(begin) != 3*time.Second {
			t.Errorf("a lease that is gone: lost after %v by %v", time.Since(begin), cause)
		}
		gone.Stop()
	})
}

// Over the wire: a node that hangs does not cost the lease, and Close revokes it.
func TestKeepLeasePastASilentNode(t *testing.T) {
	z := newFakeZone()
	var renewals atomic.Int64
	n := z.serves(t, func(n *zoneNode) {
		n.before = func(call string) error {
			if call == "renew" {
				renewals.Add(1)
			}
			return nil
		}
	})
	c := connect(t, Options{Endpoints: []string{n.address, silentAddress(t)}, DialTimeout: 50 * time.Millisecond})
	l, err := c.KeepLease(within(t), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c.prefer(c.opts.Endpoints[1])
	for renewals.Load() < 2 {
		if !sleep(l.Context(), 10*time.Millisecond) {
			t.Fatalf("after %d renewals: %v", renewals.Load(), context.Cause(l.Context()))
		}
	}
	if err := l.Close(within(t)); err != nil || z.expire(l.ID()) {
		t.Errorf("close: %v; it must be gone", err)
	}
}

// A client that is closed renews nothing more: its leases are lost at once.
func TestKeptLeaseOfAClosedClient(t *testing.T) {
	c, err := New(Options{Endpoints: []string{newFakeZone().serves(t, nil).address}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := c.KeepLease(within(t), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	<-l.Context().Done()
	if cause := context.Cause(l.Context()); !errors.Is(cause, ErrLost) || !errors.Is(cause, nexusraft.ErrClosed) {
		t.Errorf("got %v", cause)
	}
	l.Stop()
}

// A zone that has no leases yet, as right after it was made, is asked again.
func TestLeaseOfAZoneThatHasNoneYet(t *testing.T) {
	var asked atomic.Int64
	c := connect(t, Options{Endpoints: []string{newFakeZone().serves(t, func(n *zoneNode) {
		n.before = func(string) error {
			if asked.Add(1) == 1 {
				return answer(errors.New("kv: no leases yet"), codes.Unavailable, "kv: no leases yet")
			}
			return nil
		}
	}).address}})
	if _, err := c.GrantLease(within(t), time.Second); err != nil || asked.Load() != 2 {
		t.Errorf("got %v after %d requests", err, asked.Load())
	}
}
