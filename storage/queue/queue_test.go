package queue

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

func TestOrder(t *testing.T) {
	q := newQueue(t)
	mustBeEmpty(t, q)
	var ids []uint64
	for i := range 3 * readAhead {
		ids = append(ids, push(t, q, fmt.Sprint(i)))
	}
	if !slices.IsSorted(ids) || len(slices.Compact(slices.Clone(ids))) != len(ids) {
		t.Errorf("IDs don't ascend: %v", ids)
	}
	mustLen(t, q, len(ids))
	for i, id := range ids {
		m := mustPop(t, q, fmt.Sprint(i), 1)
		if m.ID != id {
			t.Errorf("message %d: got ID %d, want %d", i, m.ID, id)
		}
		if n := q.book.ready.Len(); n >= readAhead {
			t.Fatalf("%d IDs are held besides the one that was popped", n)
		}
		mustLen(t, q, len(ids)-i)
		check(t, q.Ack(m))
		want(t, q.Ack(m), ErrNotLeased)
	}
	mustBeEmpty(t, q)
	mustLen(t, q, 0)
}

func TestRedelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(t)
		for _, v := range []string{"a", "b", "c"} {
			push(t, q, v)
		}
		a := mustPop(t, q, "a", 1)
		time.Sleep(time.Second)
		b := mustPop(t, q, "b", 1)
		time.Sleep(defaultRedeliver - time.Second - 1)
		mustLen(t, q, 3)
		check(t, q.Extend(b, 2*time.Second)) // shorter than what is left
		time.Sleep(1 * time.Nanosecond)
		want(t, q.Ack(a), ErrNotLeased)
		want(t, q.Nack(a), ErrNotLeased)
		want(t, q.Extend(a, time.Second), ErrNotLeased)
		a = mustPop(t, q, "a", 2) // before the younger c
		time.Sleep(2*time.Second - 2)
		check(t, q.Extend(b, time.Minute))
		time.Sleep(time.Minute - 1)
		want(t, q.Ack(a), ErrNotLeased)
		check(t, q.Ack(b))
		old := a
		a = mustPop(t, q, "a", 3)
		want(t, q.Ack(old), ErrNotLeased) // the lease is another one's
		check(t, q.Nack(a))
		want(t, q.Ack(a), ErrNotLeased)
		a = mustPop(t, q, "a", 4)
		c := mustPop(t, q, "c", 1)
		check(t, errors.Join(q.Ack(a), q.Ack(c)))
		mustBeEmpty(t, q)
		mustLen(t, q, 0)
		checkForgotten(t, q)
	})
}

// checkForgotten checks that nothing in memory is left of messages.
func checkForgotten(t *testing.T, q *Queue) {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	if n := q.book.ready.Len() + len(q.book.delivered) + q.book.leases.Len() + q.waiters.Len() + q.book.syncing; n != 0 {
		t.Errorf("left in memory: %d ready, %d delivered, %d leases, %d waiters, %d syncing",
			q.book.ready.Len(), len(q.book.delivered), q.book.leases.Len(), q.waiters.Len(), q.book.syncing)
	}
}

// TestAcknowledgedIsSkipped shows that what is acknowledged is never looked at again, however
// much of it there is.
func TestAcknowledgedIsSkipped(t *testing.T) {
	q := newQueue(t)
	const count = 2000
	for i := range count {
		id := push(t, q, fmt.Sprint(i))
		if i%3 == 2 {
			for j := i - 2; j <= i; j++ {
				check(t, q.Ack(mustPop(t, q, fmt.Sprint(j), 1), storage.NoSync))
			}
			if start, _, ok := q.book.unread(); ok || string(start) <= string(key(id)) {
				t.Fatalf("after %d: the next read begins at %x, %v", id, start, ok)
			}
			if low := q.book.lowest(); low <= id {
				t.Fatalf("after %d: Len would begin at %d", id, low)
			}
		}
	}
}

// TestBookOfSyncs shows up to which message is delivered while pushes wait for the disk.
func TestBookOfSyncs(t *testing.T) {
	k := newBook()
	for i, step := range []struct {
		do   func()
		want uint64
	}{
		{func() { k.pushed(1, false) }, 1},
		{func() { k.pushed(2, true) }, 1},
		{func() { k.pushed(3, true) }, 1},
		{func() { k.pushed(4, false) }, 1},
		{func() { k.synced(2, true) }, 2},
		{func() { k.pushed(5, true) }, 2},
		{func() { k.synced(5, true) }, 5}, // and so all before it
		{func() { k.pushed(6, false) }, 5},
		{func() { k.synced(3, true) }, 6}, // nobody waits
		{func() { k.pushed(7, true) }, 6},
		{func() { k.pushed(8, true) }, 6},
		{func() { k.synced(8, false) }, 6}, // it was not written
		{func() { k.synced(7, true) }, 8},
	} {
		if step.do(); k.limit != step.want {
			t.Errorf("after step %d: messages up to %d are delivered, want %d", i, k.limit, step.want)
		}
	}
}

// TestReopen gives back what was leased and counts from one; IDs go on.
func TestReopen(t *testing.T) {
	fs := storage.NewMemFS()
	s := mustStore(t, fs)
	q := mustOpen(t, s)
	push(t, q, "a")
	push(t, q, "b")
	last := push(t, q, "c")
	check(t, q.Ack(mustPop(t, q, "a", 1)))
	b := mustPop(t, q, "b", 1)
	c := mustPop(t, q, "c", 1)
	check(t, q.Nack(c))
	check(t, q.Ack(mustPop(t, q, "c", 2)))
	q.Close()
	q = mustOpen(t, s)
	want(t, q.Ack(b), ErrNotLeased)
	mustPop(t, q, "b", 1)
	mustBeEmpty(t, q)
	q.Close()
	check(t, s.Close())
	s = mustStore(t, fs)
	defer func() { check(t, s.Close()) }()
	q = mustOpen(t, s)
	defer q.Close()
	check(t, q.Ack(mustPop(t, q, "b", 1)))
	if id := push(t, q, "d"); id <= last {
		t.Errorf("after everything was acknowledged: got ID %d again, the last one was %d", id, last)
	}
	mustPop(t, q, "d", 1)
}

func TestOpenedTwice(t *testing.T) {
	s, other := mustStore(t, storage.NewMemFS()), mustStore(t, storage.NewMemFS())
	defer func() { check(t, errors.Join(s.Close(), other.Close())) }()
	q := mustOpen(t, s)
	_, err := Open(s, "q", nil)
	want(t, err, nexusraft.ErrRefused)
	mustOpen(t, other).Close()
	third, err := Open(s, "another", nil)
	check(t, err)
	third.Close()
	_, err = Open(s, "q", nil)
	want(t, err, nexusraft.ErrRefused)
	q.Close()
	q.Close()
	q = mustOpen(t, s)
	q.Close()
}

func TestOpenRefuses(t *testing.T) {
	s := mustStore(t, storage.NewMemFS())
	defer func() { check(t, s.Close()) }()
	for _, name := range []string{"", strings.Repeat("n", storage.MaxNameBytes+1), "\xff", "a\nb"} {
		for range 2 { // the first one has not left it open
			if _, err := Open(s, name, nil); err == nil || errors.Is(err, nexusraft.ErrRefused) {
				t.Errorf("name %q: got error %v", name, err)
			}
		}
	}
	if _, err := Open(s, "q", &Options{Redeliver: -1}); err == nil {
		t.Error("a negative Redeliver: got no error")
	}
	tree, err := s.Tree("q")
	check(t, err)
	check(t, tree.Set([]byte("what"), nil))
	_, err = Open(s, "q", nil)
	want(t, err, nexusraft.ErrCorrupt)
}

func TestClosed(t *testing.T) {
	q := newQueue(t)
	push(t, q, "a")
	m := mustPop(t, q, "a", 1)
	q.Close()
	q.Close()
	b := q.s.NewBatch()
	defer b.Close()
	check(t, b.Set(q.s.Default(), []byte("k"), nil))
	_, errPush := q.Push(nil)
	_, errWith := q.PushWith(b, nil)
	_, errPop := q.Pop(t.Context())
	_, _, errTry := q.TryPop()
	_, errLen := q.Len()
	for i, err := range []error{
		errPush, errWith, errPop, errTry, errLen, q.Ack(m), q.AckWith(b, m), q.Nack(m),
		q.Extend(m, time.Second),
	} {
		if !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("call %d: got error %v, want ErrClosed", i, err)
		}
	}
	if ok, err := q.s.Contains([]byte("k")); ok || err != nil {
		t.Errorf("a batch that was refused is written: %v, %v", ok, err)
	}
}

// TestTogether commits messages and acknowledgements with other writes.
func TestTogether(t *testing.T) {
	q := newQueue(t)
	b := q.s.NewBatch()
	defer b.Close()
	check(t, b.Set(q.s.Default(), []byte("order"), []byte("1")))
	_, err := q.PushWith(b, []byte("m"))
	check(t, err)
	if ok, err := q.s.Contains([]byte("order")); !ok || err != nil {
		t.Errorf("pushed with: got %v, %v", ok, err)
	}
	m := mustPop(t, q, "m", 1)
	check(t, q.Nack(m))
	b.Reset()
	check(t, b.Set(q.s.Default(), []byte("done"), []byte("1")))
	want(t, q.AckWith(b, m), ErrNotLeased)
	if ok, err := q.s.Contains([]byte("done")); ok || err != nil {
		t.Errorf("acknowledged without a lease: got %v, %v", ok, err)
	}
	check(t, q.AckWith(b, mustPop(t, q, "m", 2)))
	if ok, err := q.s.Contains([]byte("done")); !ok || err != nil {
		t.Errorf("acknowledged with: got %v, %v", ok, err)
	}
	mustLen(t, q, 0)
}

// TestRefusedWrites fails to push and to acknowledge: messages stay as they are.
func TestRefusedWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := storage.NewMemFS()
		o := quiet(fs)
		o.DiskReserve = 1 << 20
		s, err := storage.Open("data", o)
		check(t, err)
		defer func() { check(t, s.Close()) }()
		q := mustOpen(t, s)
		defer q.Close()
		push(t, q, "a")
		push(t, q, "b")
		a := mustPop(t, q, "a", 1)
		fs.SetDiskFree(0)
		time.Sleep(time.Second) // until the store looks at the disk again
		for _, d := range []storage.Durability{storage.Sync, storage.NoSync} {
			_, err := q.Push([]byte("c"), d)
			want(t, err, nexusraft.ErrDiskFull)
		}
		b := s.NewBatch()
		defer b.Close()
		check(t, b.Set(s.Default(), []byte("done"), nil))
		want(t, q.AckWith(b, a), nexusraft.ErrDiskFull)
		check(t, q.Ack(mustPop(t, q, "a", 2))) // it was given back; what removes makes room
		fs.SetDiskFree(1 << 40)
		time.Sleep(time.Second)
		push(t, q, "d")
		check(t, q.Ack(mustPop(t, q, "b", 1)))
		check(t, q.Ack(mustPop(t, q, "d", 1)))
		mustBeEmpty(t, q)
		checkForgotten(t, q)
	})
}

func TestMisuse(t *testing.T) {
	q := newQueue(t)
	if m, ok := tryPop(t, q); ok {
		t.Fatalf("got %v", m)
	}
	check(t, q.Ack(mustPopAny(t, q, nil)))
	check(t, q.Ack(mustPopAny(t, q, []byte{})))
	_, err := q.Push(make([]byte, storage.MaxValueBytes+1))
	want(t, err, nexusraft.ErrTooLarge)
	want(t, q.Ack(Message{}), ErrNotLeased)
	m := mustPopAny(t, q, []byte("v"))
	for _, d := range []time.Duration{0, -1} {
		if err := q.Extend(m, d); err == nil || errors.Is(err, ErrNotLeased) {
			t.Errorf("extend by %v: got error %v", d, err)
		}
	}
	closed := q.s.NewBatch()
	closed.Close()
	if _, err := q.PushWith(closed, nil); err == nil {
		t.Error("push with a batch that is closed: got no error")
	}
	if err := q.AckWith(closed, m); err == nil {
		t.Error("acknowledge with a batch that is closed: got no error")
	}
	check(t, q.Ack(mustPop(t, q, "v", 2)))
	checkForgotten(t, q)
}

// mustPopAny pushes a value, and pops it.
func mustPopAny(t *testing.T, q *Queue, value []byte) Message {
	t.Helper()
	_, err := q.Push(value)
	check(t, err)
	return mustPop(t, q, string(value), 1)
}

// TestTreeIsWrittenOtherwise shows what becomes of a queue whose tree somebody else writes.
func TestTreeIsWrittenOtherwise(t *testing.T) {
	q := newQueue(t)
	for _, v := range []string{"a", "b", "c"} {
		push(t, q, v)
	}
	mustPop(t, q, "a", 1)
	check(t, q.tree.Clear())
	mustBeEmpty(t, q)
	if n := len(q.book.delivered); n != 1 {
		t.Errorf("%d messages are known to be delivered, want the one that was", n)
	}
	push(t, q, "lost")
	check(t, q.tree.Clear())
	mustBeEmpty(t, q)
	if start, end, ok := q.book.unread(); ok {
		t.Errorf("all is read, and %x to %x is to be read again", start, end)
	}
	push(t, q, "d")
	check(t, q.Ack(mustPop(t, q, "d", 1)))
	id := push(t, q, "e")
	check(t, q.tree.Set(append(key(id), 0), nil))
	push(t, q, "f")
	if _, _, err := q.TryPop(); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Errorf("a key that is no ID: got error %v, want ErrCorrupt", err)
	}
	mustPop(t, q, "e", 1) // it is told, and holds up nobody
	mustPop(t, q, "f", 1)
}

// TestUnreadable pops a message whose value can't be read: it is leased.
func TestUnreadable(t *testing.T) {
	q := newQueue(t)
	push(t, q, "a")
	id := push(t, q, "b")
	mustPop(t, q, "a", 1)
	check(t, q.s.DropTree("q"))
	m, ok, err := q.TryPop()
	if err == nil || ok || m.ID != id || m.Deliveries != 1 || m.Value != nil {
		t.Errorf("got %+v, %v, %v, want the message without its value, and an error", m, ok, err)
	}
	check(t, q.Nack(m))
	if m, err := q.Pop(t.Context()); err == nil || m.ID != id || m.Deliveries != 2 {
		t.Errorf("got %+v, %v, want the message again, and an error", m, err)
	}
}
