package lessor

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
)

// play plays on a cluster of two nodes in fake time, of which the first one leads.
func play(t *testing.T, f func(t *testing.T, c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2)
		c.lead(c.nodes[0])
		synctest.Wait()
		f(t, c)
	})
}

// isThere reports whether the lease is in the state.
func (c *cluster) isThere(id int64) bool {
	_, ok := c.lease(id)
	return ok
}

// endsIn checks that a lease ends within these times from now.
func (c *cluster) endsIn(id int64, least, most time.Duration) {
	c.t.Helper()
	began := time.Now()
	for c.isThere(id) && time.Since(began) <= most+time.Second {
		time.Sleep(10 * time.Millisecond)
	}
	if took := time.Since(began); took < least || took > most {
		c.t.Errorf("lease %d ended after %v, want %v to %v", id, took, least, most)
	}
}

// late is by how much a lease may run out late.
const late = 2*time.Second + election

func TestLeaseEnds(t *testing.T) {
	play(t, func(_ *testing.T, c *cluster) {
		c.grant(1, 5)
		c.endsIn(1, 5*time.Second, 5*time.Second+late)
	})
}

// A renewal from any member gives the lease all of its time again, without a command.
func TestRenewFromAnyMember(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		c.grant(1, 5)
		for i := range 10 {
			time.Sleep(4 * time.Second)
			if got := c.renew(c.nodes[i%2], 1); got != 5 {
				t.Fatalf("got a TTL of %d, want 5", got)
			}
		}
		if len(c.told) > 0 {
			t.Errorf("renewals have proposed %q", c.told)
		}
		c.endsIn(1, 4900*time.Millisecond, 5*time.Second+late)
		if got := c.renew(c.nodes[1], 1); got != 0 {
			t.Errorf("gone: got a TTL of %d, want 0", got)
		}
		if got := c.renew(c.nodes[1], 99); got != 0 {
			t.Errorf("never there: got a TTL of %d, want 0", got)
		}
	})
}

// Renewals that come together are one question, and one confirmation.
func TestRenewalsAreBatched(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		for id := int64(1); id <= 100; id++ {
			c.grant(id, 60)
		}
		began := time.Now()
		var all []*RenewCall
		for i := range int64(5000) {
			all = append(all, c.nodes[1].lessor.Begin(1, i%100+1))
		}
		for _, r := range all {
			if ttl, err := r.Wait(t.Context()); ttl != 60 || err != nil {
				t.Fatalf("got %d, %v", ttl, err)
			}
		}
		if took := time.Since(began); took > 20*time.Millisecond {
			t.Errorf("5000 renewals took %v", took)
		}
	})
}

// What is left is known at any member, in whole seconds.
func TestTimeToLive(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		c.grant(1, 60)
		if got, err := c.nodes[0].lessor.TimeToLive(t.Context(), 1, 1); err != nil || got != (Left{60, 59}) {
			t.Errorf("at first: got %+v, %v, want 59 of 60: clients expect less than was granted", got, err)
		}
		time.Sleep(10100 * time.Millisecond)
		for _, n := range c.nodes {
			if got, err := n.lessor.TimeToLive(t.Context(), 1, 1); err != nil || got != (Left{60, 49}) {
				t.Errorf("got %+v, %v, want 49 of 60", got, err)
			}
			if got, err := n.lessor.TimeToLive(t.Context(), 1, 2); err != nil || got != (Left{}) {
				t.Errorf("of none: got %+v, %v", got, err)
			}
		}
	})
}

// The TTL has a minimum, and an ID is chosen where none is given.
func TestGrant(t *testing.T) {
	for election, want := range map[time.Duration]int64{
		300 * time.Millisecond: 1, time.Second: 2, 4 * time.Second / 3: 2, 2 * time.Second: 3, 10 * time.Millisecond: 1,
	} {
		if got := MinTTL(election); got != want {
			t.Errorf("election timeout %v: got %d, want %d", election, got, want)
		}
	}
	play(t, func(t *testing.T, c *cluster) {
		l := c.nodes[1].lessor
		if got, err := l.Grant(t.Context(), 1, 0, -5); err != nil || got.ID <= 0 || got.TTL != 1 {
			t.Errorf("got %v, %v", got, err)
		}
		c.grant(7, 60)
		if _, err := l.Grant(t.Context(), 1, 7, 60); !errors.Is(err, kv.ErrLeaseExists) {
			t.Errorf("in use: got %v", err)
		}
		if _, err := l.Grant(t.Context(), 1, 8, kv.MaxLeaseTTL+1); !errors.Is(err, kv.ErrLeaseTTLTooLarge) {
			t.Errorf("too long: got %v", err)
		}
		if _, err := l.Grant(t.Context(), 1, 9, kv.MaxLeaseTTL); err != nil {
			t.Errorf("longest: %v", err)
		}
		if _, err := l.Grant(t.Context(), 1, -1, 60); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("negative: got %v", err)
		}
		if _, err := l.Revoke(t.Context(), 1, 7); err != nil || c.isThere(7) {
			t.Errorf("revoke: %v", err)
		}
		if _, err := l.Revoke(t.Context(), 1, 7); !errors.Is(err, kv.ErrLeaseNotFound) {
			t.Errorf("revoke again: %v", err)
		}
	})
}

// A lease of the same ID that is granted after a revoke has all of its time.
func TestGrantedAnew(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		c.grant(1, 5)
		time.Sleep(4 * time.Second)
		if _, err := c.nodes[0].lessor.Revoke(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		c.grant(1, 10)
		c.endsIn(1, 10*time.Second, 10*time.Second+late)
	})
}

// One of a shorter TTL does not last as long as the one before.
func TestGrantedAnewForLess(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		c.grant(1, 3600)
		time.Sleep(time.Second)
		if _, err := c.nodes[0].lessor.Revoke(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		c.grant(1, 5)
		if got, err := c.nodes[1].lessor.TimeToLive(t.Context(), 1, 1); err != nil || got != (Left{5, 4}) {
			t.Errorf("got %+v, %v, want 4 of 5", got, err)
		}
		time.Sleep(time.Second)
		if got, err := c.nodes[1].lessor.TimeToLive(t.Context(), 1, 1); err != nil || got.Seconds > 3 {
			t.Errorf("after 1 s: got %+v, %v, want 3 of 5 at most", got, err)
		}
		c.endsIn(1, 3*time.Second, 4*time.Second+late)
	})
}

// A renewal that arrived before the lease was granted, or granted anew, counts from when that is known.
func TestRenewalOlderThanTheGrant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{})
		l.clock.most, l.clock.step = time.Hour, time.Hour
		x := &led{leases: newDeadlines()}
		x.leases.add(kv.Lease{ID: 1, TTL: 3600, Generation: 1}, time.Hour, 0)
		x.leases.add(kv.Lease{ID: 2, TTL: 10, Generation: 2}, 10*time.Second, 0)
		x.leases.add(kv.Lease{ID: 3, TTL: 10, Generation: 3}, 10*time.Second, 0)
		time.Sleep(4 * time.Second)
		found := map[int64]kv.Lease{
			1: {ID: 1, TTL: 5, Generation: 4},
			2: {ID: 2, TTL: 10, Generation: 5},
			3: {ID: 3, TTL: 10, Generation: 3},
			4: {ID: 4, TTL: 10, Generation: 6},
		}
		ids, arrived := []int64{1, 2, 3, 4}, time.Second
		if again, _, err := l.extend(x, ids, found, renewal{arrived: arrived}, make(map[int64]int64)); err != nil ||
			len(again) > 0 {
			t.Fatalf("got %v, %v", again, err)
		}
		for i, want := range []time.Duration{9, 14, 11, 14} {
			if got := x.leases.byID[ids[i]].deadline; got != want*time.Second {
				t.Errorf("lease %d: ends at %v, want %d s", ids[i], got, want)
			}
		}
	})
}

// One that is granted anew while the expiry of the one before is under way is not revoked by that.
func TestGrantedAnewDuringAnExpiry(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		held := make(chan int)
		c.hold = func([]byte) chan int { return held }
		c.grant(1, 5)
		time.Sleep(5500 * time.Millisecond)
		if _, err := c.nodes[0].lessor.Revoke(t.Context(), 1, 1); err != nil {
			t.Fatal(err)
		}
		c.grant(1, 10)
		close(held)
		c.endsIn(1, 10*time.Second, 10*time.Second+late)
	})
}

// Leases that are revoked by clients leave the memory.
func TestRevokedLeasesLeaveNothing(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		for id := int64(1); id <= 500; id++ {
			c.grant(id, 3600)
			if _, err := c.nodes[0].lessor.Revoke(t.Context(), 1, id); err != nil {
				t.Fatal(err)
			}
		}
		c.grant(1000, 3600)
		time.Sleep(time.Second)
		if n := c.nodes[0].lessor.known(1); n > 20 {
			t.Errorf("%d leases are known, and one is there", n)
		}
	})
}

// Many leases that run out at once do, in time; after a change of the leader not all of them in one second.
func TestManyAtOnce(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		for id := int64(1); id <= 2000; id++ {
			c.grant(id, 30)
		}
		c.lead(c.nodes[1])
		time.Sleep(30 * time.Second)
		left := 2000
		for range 4 {
			time.Sleep(time.Second)
			c.mu.Lock()
			now := len(c.ids())
			c.mu.Unlock()
			if left-now > mostASecond+100 {
				t.Errorf("%d leases ran out in a second", left-now)
			}
			left = now
		}
		time.Sleep(3 * time.Second)
		if n := c.nodes[1].lessor.known(1); c.isThere(1) || c.isThere(2000) || n > 0 {
			t.Errorf("%d leases are left in memory", n)
		}
	})
}

// A node that stands still lets nobody renew: that time does not count. Nor does the time of one that is stopped, of
// which its clock hears late.
func TestStandstillDoesNotCount(t *testing.T) {
	play(t, func(_ *testing.T, c *cluster) {
		c.grant(1, 5)
		time.Sleep(4 * time.Second)
		c.nodes[0].stall(true)
		time.Sleep(time.Minute)
		c.nodes[0].stall(false)
		c.endsIn(1, 900*time.Millisecond-election, time.Second+late)
	})
	at := time.Duration(0)
	k := clock{elapsed: func() time.Duration { return at }, most: 300 * time.Millisecond, step: 150 * time.Millisecond}
	for ; at < time.Second; at += 150 * time.Millisecond {
		k.tick()
	}
	at += time.Hour
	first := k.now()
	if k.tick(); k.now() != first || first > 2*time.Second {
		t.Errorf("it is %v before the tick after an hour, and %v after it", first, k.now())
	}
}

// The time without a leader does not count, and the new leader gives an election timeout more.
func TestLeaderless(t *testing.T) {
	play(t, func(_ *testing.T, c *cluster) {
		c.grant(1, 5)
		c.lead(nil)
		time.Sleep(time.Minute)
		if !c.isThere(1) {
			t.Fatal("it ran out without a leader")
		}
		c.lead(c.nodes[1])
		c.endsIn(1, 5*time.Second+election, 5*time.Second+2*election+late)
	})
}

// etcd 15247, 12528: a leader that was stopped revokes no lease that the next one has renewed.
func Test15247And12528(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		c.grant(1, 5)
		time.Sleep(4900 * time.Millisecond)
		old := c.nodes[0]
		old.stall(true)
		time.Sleep(time.Second)
		c.lead(c.nodes[1])
		time.Sleep(time.Second)
		if got := c.renew(c.nodes[1], 1); got != 5 {
			t.Fatalf("got a TTL of %d", got)
		}
		old.stall(false)
		c.endsIn(1, 4900*time.Millisecond, 5*time.Second+late)
		for _, command := range c.told {
			if strings.HasPrefix(command, "7 at 6") || strings.HasPrefix(command, "7 at 7") {
				t.Errorf("%q was proposed after the renewal", command)
			}
		}
	})
}

// etcd 14758: a renewal that comes while the lease's expiry is under way waits for it, and says what has come of it.
func Test14758(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		held := make(chan int)
		c.hold = func([]byte) chan int { return held }
		c.grant(1, 5)
		time.Sleep(5500 * time.Millisecond)
		r := c.nodes[1].lessor.Begin(1, 1)
		time.Sleep(time.Second)
		select {
		case <-r.done:
			t.Fatalf("the renewal is answered with %d, %v while the revoke is under way", r.ttl, r.err)
		default:
		}
		close(held)
		if ttl, err := r.Wait(t.Context()); ttl != 0 || err != nil || c.isThere(1) {
			t.Errorf("got %d, %v, want 0 for a lease that is gone", ttl, err)
		}
	})
}

// The same, where the lease is read before its expiry begins, and the answer is made after its end.
func Test14758Late(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		c.grant(1, 5)
		time.Sleep(4800 * time.Millisecond)
		slow := true
		c.mu.Lock()
		c.takes = func() time.Duration {
			if slow { // what the renewal waits for from here on: its question, its read, and then to go on
				return 300 * time.Millisecond
			}
			return time.Millisecond
		}
		c.mu.Unlock()
		r := c.nodes[0].lessor.Begin(1, 1)
		time.Sleep(610 * time.Millisecond) // it has read
		c.mu.Lock()
		slow = false
		c.mu.Unlock()
		if ttl, err := r.Wait(t.Context()); err != nil || ttl != 0 && !c.isThere(1) {
			t.Errorf("got %d, %v, of a lease that is there: %t", ttl, err, c.isThere(1))
		}
	})
}

// etcd 9888: what was left of a lease that is not renewed is kept when the leader changes.
func Test9888(t *testing.T) {
	play(t, func(_ *testing.T, c *cluster) {
		c.grant(1, 600)
		time.Sleep(300 * time.Second)
		c.lead(c.nodes[1])
		c.endsIn(1, 299*time.Second, 300*time.Second+time.Minute+2*time.Second+late)
	})
}

// etcd 17132: and when it changes again and again.
func Test17132(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		c.grant(1, 600)
		for i := range 5 {
			time.Sleep(100 * time.Second)
			c.lead(c.nodes[(i+1)%2])
		}
		time.Sleep(time.Second)
		if l, ok := c.lease(1); !ok || l.Remaining == 0 {
			t.Fatalf("got %+v, %t, want a checkpoint", l, ok)
		}
		c.endsIn(1, 98*time.Second, 400*time.Second)
	})
}

// A lease with a checkpoint has all of its time again when it is renewed, for the next leader, too.
func TestRenewAfterCheckpoint(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		c.grant(1, 600)
		time.Sleep(500 * time.Second)
		if got := c.renew(c.nodes[1], 1); got != 600 {
			t.Fatalf("got a TTL of %d", got)
		}
		if l, _ := c.lease(1); l.Remaining != 0 {
			t.Errorf("renewed: %+v", l)
		}
		c.lead(c.nodes[1])
		c.endsIn(1, 600*time.Second, 600*time.Second+late+2*election)
	})
}

// A renewal that comes while a checkpoint of the lease is under way counts for the next leader, too.
func TestRenewalDuringACheckpoint(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		held, checkpoints := make(chan int), 0
		c.hold = func(command []byte) chan int {
			if command[0] == kv.EncodeCheckpoint(nil)[0] {
				checkpoints++
				return held
			}
			return nil
		}
		c.grant(1, 200)
		time.Sleep(122 * time.Second)
		r := c.nodes[1].lessor.Begin(1, 1)
		time.Sleep(time.Second)
		if checkpoints != 1 {
			t.Fatalf("%d checkpoints are under way, want one", checkpoints)
		}
		close(held)
		if ttl, err := r.Wait(t.Context()); ttl != 200 || err != nil {
			t.Fatalf("got %d, %v", ttl, err)
		}
		time.Sleep(100 * time.Millisecond)
		c.lead(c.nodes[1])
		c.endsIn(1, 199*time.Second, 200*time.Second+late+2*election)
	})
}

// Leases that are renewed cost no checkpoint.
func TestNoCheckpointOfRenewedLeases(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		c.grant(1, 600)
		for range 60 {
			time.Sleep(30 * time.Second)
			c.renew(c.nodes[0], 1)
		}
		if len(c.told) > 0 {
			t.Errorf("got %q", c.told)
		}
	})
}

// etcd 21671: a renewal at a former leader, or without any leader, fails with an error that says that nobody leads.
func Test21671(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		c.grant(1, 60)
		c.lead(c.nodes[1])
		question := encodeQuestion(askRenew, []int64{1})
		if _, err := c.nodes[0].lessor.Answer(t.Context(), 1, question); !errors.Is(err, nexusraft.ErrNotLeader) {
			t.Errorf("at the former leader: got %v", err)
		}
		if got := c.renew(c.nodes[0], 1); got != 60 {
			t.Errorf("through it: got %d", got)
		}
		c.lead(nil)
		began := time.Now()
		_, err := c.nodes[0].lessor.Renew(t.Context(), 1, 1)
		if took := time.Since(began); !errors.Is(err, nexusraft.ErrNotLeader) || took > renewTime+time.Second {
			t.Errorf("without a leader: got %v after %v", err, took)
		}
	})
}

// A revoke whose outcome is unknown is proposed until it is known; meanwhile the lease is not renewed.
func TestUncertainRevoke(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		lost := 0
		c.lose = func(command []byte) error {
			if command[0] == kv.EncodeRevoke(1, 1)[0] && lost < 3 {
				lost++
				return nexusraft.ErrUncertain
			}
			return nil
		}
		c.grant(1, 5)
		time.Sleep(5100 * time.Millisecond)
		if ttl := c.renew(c.nodes[1], 1); ttl != 0 && !c.isThere(1) {
			t.Errorf("got a TTL of %d of a lease that is gone", ttl)
		}
		time.Sleep(10 * time.Second)
		if n := c.nodes[0].lessor.known(1); c.isThere(1) || n > 0 {
			t.Errorf("%d leases are left", n)
		}
	})
}

// A transfer of the leadership that fails, while which proposals are refused, costs no lease, and none its end.
func TestFailedTransfer(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		c.grant(1, 5)
		c.grant(2, 8)
		time.Sleep(5 * time.Second)
		c.transfer(true)
		time.Sleep(2 * time.Second)
		c.transfer(false)
		if got := c.renew(c.nodes[1], 2); got != 8 {
			t.Fatalf("got a TTL of %d, want 8", got)
		}
		c.endsIn(1, 0, time.Second)
		c.endsIn(2, 7*time.Second, 8*time.Second+late)
	})
}

// scripted is a host that answers proposals with these results.
type scripted struct {
	host
	results [][]byte
}

func (h *scripted) ProposeAt(context.Context, nexusraft.ZoneID, []byte) (nexusraft.Result, error) {
	data := h.results[0]
	h.results = h.results[1:]
	return nexusraft.Result{Data: data}, nil
}

// A lease with very many keys that the leader's lessor has removed in the end is revoked.
func TestRevokeThatAnotherEnds(t *testing.T) {
	const keysLeft, notFound = 17, 6
	l := New(Options{})
	l.host = &scripted{results: [][]byte{{keysLeft}, {notFound}, {notFound}}}
	if resp, err := l.Revoke(t.Context(), 1, 1); err != nil || resp == nil {
		t.Errorf("got %v, %v", resp, err)
	}
	if _, err := l.Revoke(t.Context(), 1, 1); !errors.Is(err, kv.ErrLeaseNotFound) {
		t.Errorf("again: got %v", err)
	}
}

// The lessor ends with those who wait.
func TestEnd(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		l := New(Options{})
		if _, err := l.Renew(t.Context(), 1, 1); !errors.Is(err, nexusraft.ErrOverloaded) {
			t.Errorf("before Run: got %v", err)
		}
		changed := make(chan []zone)
		done := make(chan struct{})
		go func() {
			defer close(done)
			l.run(t.Context(), c.nodes[1], changed)
		}()
		synctest.Wait()
		c.lead(nil)
		r := l.Begin(1, 1)
		time.Sleep(time.Second)
		late := l.Begin(1, 1)
		close(changed)
		<-done
		for _, r := range []*RenewCall{r, late, l.Begin(1, 1)} {
			if _, err := r.Wait(t.Context()); err == nil {
				t.Error("a renewal went on after the end")
			}
		}
		if _, err := l.Answer(t.Context(), 1, encodeQuestion(askLeft, nil)); !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("an answer after the end: %v", err)
		}
	})
}

// Too many renewals that wait are refused, and what other programs ask is checked.
func TestTooMany(t *testing.T) {
	play(t, func(t *testing.T, c *cluster) {
		c.lead(nil)
		l := c.nodes[0].lessor
		refused := 0
		for id := range int64(2 * maxWaiting) {
			select {
			case <-l.Begin(1, id+1).done:
				refused++
			default:
			}
		}
		if waiting := 2*maxWaiting - refused; waiting > maxWaiting || waiting < maxAsked {
			t.Errorf("%d renewals wait", waiting)
		}
		for _, question := range [][]byte{nil, {0}, {9, 1}, {askRenew, 0x80}, slices.Repeat([]byte{1}, maxAsked+2)} {
			if _, err := l.Answer(t.Context(), 1, question); !errors.Is(err, nexusraft.ErrRefused) {
				t.Errorf("question %.4x: got %v", question, err)
			}
		}
		time.Sleep(10 * time.Second)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.waiting != 0 {
			t.Errorf("%d renewals wait for ever", l.waiting)
		}
	})
}
