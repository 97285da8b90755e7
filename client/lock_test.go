package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

const lockTTL = time.Minute // no test lives so long

// claims returns the keys below a name.
func (z *fakeZone) claims(name string) (keys []string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for key := range z.pairs {
		if strings.HasPrefix(key, name+"/") {
			keys = append(keys, key)
		}
	}
	return keys
}

// awaitClaims waits until there are so many keys below a name.
func (z *fakeZone) awaitClaims(t *testing.T, name string, n int) {
	t.Helper()
	for ctx := within(t); len(z.claims(name)) != n; {
		if !sleep(ctx, time.Millisecond) {
			t.Fatalf("%d claims to %s: %v", n, name, z.claims(name))
		}
	}
}

func lockNow(t *testing.T, c *Client, name string) *Lock {
	t.Helper()
	l, err := c.Lock(within(t), []byte(name), lockTTL)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestLock(t *testing.T) {
	z := newFakeZone()
	c := connect(t, Options{Endpoints: []string{z.serves(t, nil).address}})
	l := lockNow(t, c, "job")
	want := fmt.Sprintf("job/%x", int64(l.lease.ID())) // as etcd's clients have it
	if string(l.Key()) != want || l.Token() != 2 || l.Context().Err() != nil {
		t.Errorf("got %s, token %d, %v; want %s, and token 2", l.Key(), l.Token(), l.Context().Err(), want)
	}
	if _, err := c.TryLock(within(t), []byte("job"), lockTTL); !errors.Is(err, ErrLocked) {
		t.Errorf("try: got %v", err)
	}
	z.awaitClaims(t, "job", 1) // nothing is left of the try
	fenced := Txn{If: []Compare{l.Held()}, Then: []Operation{Put{Key: []byte("k")}}}
	if r, err := c.Txn(within(t), fenced); err != nil || !r.Succeeded {
		t.Errorf("a write under the lock: %+v, %v", r, err)
	}
	if err := l.Unlock(within(t)); err != nil || context.Cause(l.Context()) != nexusraft.ErrClosed {
		t.Errorf("unlock: %v, %v", err, context.Cause(l.Context()))
	}
	if r, err := c.Txn(within(t), fenced); err != nil || r.Succeeded {
		t.Errorf("a write after the lock: %+v, %v", r, err)
	}
	again, err := c.TryLock(within(t), []byte("job"), lockTTL)
	if err != nil || again.Token() <= l.Token() {
		t.Fatalf("again: %+v, %v", again, err)
	}
	if err := again.Unlock(within(t)); err != nil {
		t.Error(err)
	}
	if _, err := c.Lock(within(t), nil, lockTTL); err == nil || !strings.Contains(err.Error(), "the name is empty") {
		t.Errorf("no name: %v", err)
	}
}

// Those who wait get the lock in the order in which they came, one at a time, with growing tokens.
func TestLockGoesRound(t *testing.T) {
	z := newFakeZone()
	o := Options{Endpoints: []string{z.serves(t, nil).address, z.serves(t, nil).address}}
	holder := lockNow(t, connect(t, o), "job")
	const waiters = 4
	got := make(chan int, waiters)
	held := make(chan nexusraft.Revision, waiters)
	var all sync.WaitGroup
	defer all.Wait()
	for i := range waiters {
		c := connect(t, o)
		all.Go(func() {
			l, err := c.Lock(within(t), []byte("job"), lockTTL)
			if err != nil {
				t.Error(err)
				held <- 0
				return
			}
			got <- i
			held <- l.Token()
			if err := l.Unlock(within(t)); err != nil {
				t.Error(err)
			}
		})
		z.awaitClaims(t, "job", i+2)
	}
	last := holder.Token()
	if err := holder.Unlock(within(t)); err != nil {
		t.Fatal(err)
	}
	for i := range waiters {
		token := <-held
		if token <= last || <-got != i {
			t.Errorf("waiter %d: token %d after %d, or out of turn", i, token, last)
		}
		last = token
	}
}

// An older claim of another client's, such as etcd's, is waited for, and a waiter in the middle that goes wakes nobody
// too early.
func TestLockWaitsForAllOlderClaims(t *testing.T) {
	z := newFakeZone()
	z.put("job/1", "")
	z.put("job/2", "")
	c := connect(t, Options{Endpoints: []string{z.serves(t, nil).address}})
	done := make(chan error, 1)
	go func() {
		l, err := c.Lock(within(t), []byte("job"), lockTTL)
		if err == nil {
			err = l.Unlock(within(t))
		}
		done <- err
	}()
	z.awaitClaims(t, "job", 3)
	z.delete("job/2")
	select {
	case err := <-done:
		t.Fatalf("it has the lock while job/1 is there: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	z.delete("job/1")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A wait that is given up leaves nothing behind.
func TestLockGivenUp(t *testing.T) {
	z := newFakeZone()
	z.put("job/1", "")
	c := connect(t, Options{Endpoints: []string{z.serves(t, nil).address}})
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	go func() {
		z.awaitClaims(t, "job", 2)
		cancel()
	}()
	if _, err := c.Lock(ctx, []byte("job"), lockTTL); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	z.awaitClaims(t, "job", 1)
	if left := z.expireAll(); left != 0 {
		t.Errorf("%d leases are left", left)
	}
}

// The answer to the transaction that enters may be lost: there is one claim, with its token.
func TestLockWhoseAnswersAreLost(t *testing.T) {
	z := newFakeZone()
	lost := map[string]bool{"txn": true, "grant": true, "revoke": true}
	c := connect(t, Options{Endpoints: []string{z.serves(t, func(n *zoneNode) {
		n.after = func(call string) error {
			if lost[call] {
				delete(lost, call)
				return cut()
			}
			return nil
		}
	}).address}})
	l := lockNow(t, c, "job")
	if l.Token() != 2 || len(z.claims("job")) != 1 {
		t.Errorf("token %d, claims %v; want one of revision 2", l.Token(), z.claims("job"))
	}
	if err := l.Unlock(within(t)); err != nil || len(z.claims("job")) != 0 || len(lost) != 0 {
		t.Errorf("unlock: %v, claims %v, not lost %v", err, z.claims("job"), lost)
	}
}

// A lock whose key somebody deletes is lost, and Unlock says so.
func TestLockIsLost(t *testing.T) {
	for name, lose := range map[string]func(*fakeZone, *Lock){
		"key deleted":   func(z *fakeZone, l *Lock) { z.delete(string(l.Key())) },
		"lease revoked": func(z *fakeZone, l *Lock) { z.expire(l.lease.ID()) },
	} {
		z := newFakeZone()
		c := connect(t, Options{Endpoints: []string{z.serves(t, nil).address}})
		l := lockNow(t, c, "job")
		z.put("job/other", "")
		lose(z, l)
		select {
		case <-l.Context().Done():
		case <-within(t).Done():
			t.Fatalf("%s: the holder does not hear of it", name)
		}
		if cause := context.Cause(l.Context()); !errors.Is(cause, ErrLost) {
			t.Errorf("%s: got %v", name, cause)
		}
		if err := l.Unlock(within(t)); !errors.Is(err, ErrLost) {
			t.Errorf("%s: unlock: %v", name, err)
		}
	}
}

// Who waits and loses his lease meanwhile does not get the lock.
func TestLockLostWhileItWaits(t *testing.T) {
	z := newFakeZone()
	z.put("job/1", "")
	c := connect(t, Options{Endpoints: []string{z.serves(t, nil).address}})
	go func() {
		z.awaitClaims(t, "job", 2)
		z.expireAll()
		z.delete("job/1")
	}()
	if _, err := c.Lock(within(t), []byte("job"), lockTTL); !errors.Is(err, ErrLost) {
		t.Errorf("got %v, want that it is lost", err)
	}
}
