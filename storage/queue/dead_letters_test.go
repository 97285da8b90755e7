package queue

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// counting opens a queue that delivers each message twice, and its dead letters.
func counting(t *testing.T, s *storage.Store) (q, dead *Queue) {
	t.Helper()
	dead, err := Open(s, "dead", nil)
	check(t, err)
	t.Cleanup(dead.Close)
	q, err = Open(s, "q", &Options{MaxDeliveries: 2, DeadLetters: dead})
	check(t, err)
	t.Cleanup(q.Close)
	return q, dead
}

// TestPoison: a message that ends its consumer each time goes to the dead letters, and the next one
// comes.
func TestPoison(t *testing.T) {
	fs := storage.NewMemFS()
	for n := 1; n <= 3; n++ {
		s := mustStore(t, fs)
		q, dead := counting(t, s)
		if n == 1 {
			push(t, q, "poison")
			push(t, q, "good")
		}
		if n <= 2 {
			mustPop(t, q, "poison", n) // and then the process dies, which loses no write
		} else {
			check(t, q.Ack(mustPop(t, q, "good", 1)))
			mustBeEmpty(t, q)
			check(t, dead.Ack(mustPop(t, dead, "poison", 1)))
			if left, err := q.dead.counts.Len(); left != 0 || err != nil {
				t.Errorf("%d counts are left, %v", left, err)
			}
		}
		q.Close()
		dead.Close()
		check(t, s.Close())
	}
}

// TestDeliveriesCountHowTheyEnd: given back, or not acknowledged in time, a delivery counts; and
// what waits gets the message behind the one that is moved.
func TestDeliveriesCountHowTheyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := mustStore(t, storage.NewMemFS())
		q, dead := counting(t, s)
		push(t, q, "bad")
		check(t, q.Nack(mustPop(t, q, "bad", 1)))
		mustPop(t, q, "bad", 2)
		got := popAll(t.Context(), q, 1)
		time.Sleep(defaultRedeliver)
		synctest.Wait()
		mustLen(t, q, 0)
		check(t, dead.Ack(mustPop(t, dead, "bad", 1)))
		push(t, q, "good")
		if p := <-got; p.err != nil || string(p.m.Value) != "good" {
			t.Errorf("got %q, %v, want the next message", p.m.Value, p.err)
		}
		q.Close()
		dead.Close()
		check(t, s.Close())
	})
}

// TestDeadLettersOnAFullDisk: messages that can't be moved, as the disk is full or they are too
// large for what is left of it, hold up no other one, whose removal makes room; and they are moved
// once there is some.
func TestDeadLettersOnAFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := storage.NewMemFS()
		o := quiet(fs)
		o.DiskReserve = 1 << 20
		s, err := storage.Open("data", o)
		check(t, err)
		defer func() { check(t, s.Close()) }()
		q, dead := counting(t, s)
		defer dead.Close()
		defer q.Close()
		large := strings.Repeat("x", int(o.DiskReserve))
		for _, value := range []string{"bad", large, "good"} {
			push(t, q, value)
		}
		for n := 1; n <= 2; n++ {
			bad, big := mustPop(t, q, "bad", n), mustPop(t, q, large, n)
			check(t, q.Nack(bad))
			check(t, q.Nack(big))
		}
		free := func(bytes int64) {
			fs.SetDiskFree(bytes)
			time.Sleep(defaultRedeliver) // until leases end, and the store looks at the disk again
		}
		free(0)
		want(t, s.Room(), nexusraft.ErrDiskFull)
		check(t, q.Nack(mustPop(t, q, "good", 1)))
		mustLen(t, q, 3)

		free(2 * o.DiskReserve)
		check(t, q.Ack(mustPop(t, q, "good", 2)))
		mustLen(t, q, 1)
		check(t, dead.Ack(mustPop(t, dead, "bad", 1)))

		free(1 << 40)
		mustBeEmpty(t, q)
		mustLen(t, q, 0)
		check(t, dead.Ack(mustPop(t, dead, large, 1)))
	})
}

func TestDeadLettersAreRefused(t *testing.T) {
	s, other := mustStore(t, storage.NewMemFS()), mustStore(t, storage.NewMemFS())
	elsewhere, err := Open(other, "dead", nil)
	check(t, err)
	_, err = Open(s, "q", &Options{MaxDeliveries: 1, DeadLetters: elsewhere})
	want(t, err, nexusraft.ErrRefused)
	for _, o := range []*Options{
		{MaxDeliveries: 1},
		{MaxDeliveries: -1, DeadLetters: elsewhere},
		{DeadLetters: elsewhere},
	} {
		if q, err := Open(s, "q", o); err == nil {
			q.Close()
			t.Errorf("opened with %+v", o)
		}
	}
	elsewhere.Close()
	check(t, other.Close())
	check(t, s.Close())
}
