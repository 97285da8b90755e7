package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/nexi-lab/nexus-raft/storage"
)

// TestModel runs random operations on a queue and on a sorted list, on fake time.
func TestModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(noDeadline{t}, func(t *rapid.T) {
			m := &machine{fs: storage.NewMemFS()}
			m.open(t)
			defer m.close(t)
			t.Repeat(map[string]func(*rapid.T){
				"push":   m.push,
				"pop":    m.pop,
				"settle": m.settle,
				"stale":  m.stale,
				"time":   func(t *rapid.T) { time.Sleep(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second) },
				"reopen": m.reopen,
				"":       m.compare,
			})
		})
	})
}

// noDeadline hides the test's deadline, which must not be asked for on fake time.
type noDeadline struct{ rapid.TB }

// message is one that is not acknowledged.
type message struct {
	id         uint64
	value      string
	deliveries int
	until      time.Time // of its lease
}

func (m *message) leased() bool { return m.until.After(time.Now()) }

type machine struct {
	fs   *storage.MemFS
	s    *storage.Store
	q    *Queue
	want []*message // by ID
	last uint64     // the highest ID ever
	old  []Message  // what has no lease any more
}

func (m *machine) open(t *rapid.T) {
	m.s = mustStore(t, m.fs)
	m.q = mustOpen(t, m.s)
}

func (m *machine) close(t *rapid.T) {
	m.q.Close()
	check(t, m.s.Close())
}

func (m *machine) reopen(t *rapid.T) {
	m.q.Close()
	if rapid.Bool().Draw(t, "store") {
		check(t, m.s.Close())
		m.s = mustStore(t, m.fs)
	}
	m.q = mustOpen(t, m.s)
	for _, w := range m.want {
		w.deliveries, w.until = 0, time.Time{}
	}
	m.old = nil
}

func (m *machine) push(t *rapid.T) {
	for range rapid.SampledFrom([]int{1, 1, 1, readAhead + 3}).Draw(t, "messages") {
		value := fmt.Sprint("m", m.last)
		id, err := m.q.Push([]byte(value), storage.NoSync)
		check(t, err)
		if id <= m.last {
			t.Fatalf("got ID %d after %d", id, m.last)
		}
		m.last = id
		m.want = append(m.want, &message{id: id, value: value})
	}
}

func (m *machine) pop(t *rapid.T) {
	got, ok := tryPop(t, m.q)
	i := slices.IndexFunc(m.want, func(w *message) bool { return !w.leased() })
	if i < 0 {
		if ok {
			t.Fatalf("popped %+v, want nothing", got)
		}
		return
	}
	w := m.want[i]
	if w.deliveries > 0 {
		m.old = append(m.old, Message{ID: w.id, Deliveries: w.deliveries})
	}
	w.deliveries++
	w.until = time.Now().Add(defaultRedeliver)
	if !ok || got.ID != w.id || string(got.Value) != w.value || got.Deliveries != w.deliveries {
		t.Fatalf("popped %+v, %v, want %+v", got, ok, w)
	}
}

// settle does something with a message that was delivered.
func (m *machine) settle(t *rapid.T) {
	var all []int
	for i, w := range m.want {
		if w.deliveries > 0 {
			all = append(all, i)
		}
	}
	if len(all) == 0 {
		return
	}
	i := rapid.SampledFrom(all).Draw(t, "message")
	w := m.want[i]
	it := Message{ID: w.id, Deliveries: w.deliveries}
	wanted := ErrNotLeased
	if w.leased() {
		wanted = nil
	}
	switch rapid.SampledFrom([]string{"ack", "ack", "nack", "extend"}).Draw(t, "how") {
	case "ack":
		want(t, m.q.Ack(it, storage.NoSync), wanted)
		if wanted == nil {
			m.want = slices.Delete(m.want, i, i+1)
			m.old = append(m.old, it)
		}
	case "nack":
		want(t, m.q.Nack(it), wanted)
		w.until = time.Time{}
	case "extend":
		d := time.Duration(rapid.IntRange(1, 60).Draw(t, "lease")) * time.Second
		want(t, m.q.Extend(it, d), wanted)
		if wanted == nil {
			w.until = time.Now().Add(d)
		}
	}
}

// stale tries to settle what has no lease any more.
func (m *machine) stale(t *rapid.T) {
	if len(m.old) == 0 {
		return
	}
	it := rapid.SampledFrom(m.old).Draw(t, "message")
	want(t, m.q.Ack(it), ErrNotLeased)
	want(t, m.q.Nack(it), ErrNotLeased)
	want(t, m.q.Extend(it, time.Hour), ErrNotLeased)
}

func (m *machine) compare(t *rapid.T) { mustLen(t, m.q, len(m.want)) }

// TestManyProducersAndConsumers checks what many at once may rely on: each message is acknowledged
// once, and none is lost, though consumers give some back and are too slow for others.
func TestManyProducersAndConsumers(t *testing.T) {
	s := mustStore(t, storage.NewMemFS())
	defer func() { check(t, s.Close()) }()
	q, err := Open(s, "q", &Options{Redeliver: 2 * time.Millisecond})
	check(t, err)
	defer q.Close()
	const producers, each = 4, 200
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var mu sync.Mutex
	acked := make(map[string]int)
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for n := range each {
				_, err := q.Push(fmt.Appendf(nil, "%d.%d", p, n), storage.Durability(n%2))
				check(inBackground{t}, err)
			}
		})
	}
	for c := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(3, uint64(c)))
			for {
				m, err := q.Pop(ctx)
				if errors.Is(err, context.Canceled) {
					return
				}
				check(inBackground{t}, err)
				switch {
				case ctx.Err() != nil:
					return
				case rng.IntN(8) == 0:
					_ = q.Nack(m) // whether in time or not
					continue
				case rng.IntN(50) == 0:
					time.Sleep(3 * time.Millisecond) // too slow for the lease
				}
				err = q.Ack(m, storage.NoSync)
				if errors.Is(err, ErrNotLeased) {
					continue
				}
				check(inBackground{t}, err)
				mu.Lock()
				acked[string(m.Value)]++
				if len(acked) == producers*each {
					cancel()
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(acked) != producers*each {
		t.Errorf("%d messages were acknowledged, want %d", len(acked), producers*each)
	}
	for value, n := range acked {
		if n != 1 {
			t.Errorf("%s was acknowledged %d times", value, n)
		}
	}
	mustLen(t, q, 0)
	checkForgotten(t, q)
}

// TestOneConsumerSeesTheOrder has many push at once, messages of different sizes, so that a
// large one's ID could be chosen before, and it be visible after, a small one's.
func TestOneConsumerSeesTheOrder(t *testing.T) {
	q := newQueue(t)
	const producers, each = 4, 150
	var wg sync.WaitGroup
	for p := range producers {
		wg.Go(func() {
			for n := range each {
				_, err := q.Push(fmt.Appendf(nil, "%d %d%*s", p, n, p*50_000, ""), storage.Durability(n%2))
				check(inBackground{t}, err)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var last uint64
	next := make([]int, producers)
	for range producers * each {
		m, err := q.Pop(ctx)
		check(t, err)
		var p, n int
		_, err = fmt.Sscan(string(m.Value), &p, &n)
		check(t, err)
		if m.ID <= last || n != next[p] {
			t.Errorf("got message %d, %d of producer %d, after %d, %d", m.ID, n, p, last, next[p]-1)
		}
		last, next[p] = m.ID, n+1
		check(t, q.Ack(m, storage.NoSync))
	}
	wg.Wait()
	mustBeEmpty(t, q)
}

// TestCrash pushes, pops and acknowledges, and looks at what crashes would leave.
func TestCrash(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			crashRun(t, rand.New(rand.NewPCG(seed, 4)))
		})
	}
}

// fate is what is known of a message: what a crash must keep, and what it must not bring back.
type fate struct {
	value          string
	pushed, acked  bool // it was, synced or not
	durable, ended bool // its push, its acknowledgement is on the disk
}

type crashes struct {
	fs    *storage.MemFS
	q     *Queue
	fates map[uint64]*fate
	last  uint64
}

func crashRun(t *testing.T, rng *rand.Rand) {
	c := &crashes{fs: storage.NewMemFS(), fates: make(map[uint64]*fate)}
	s := mustStore(t, c.fs)
	defer func() { check(t, s.Close()) }()
	c.q = mustOpen(t, s)
	defer c.q.Close()
	for range 300 {
		d := storage.Durability(rng.IntN(2))
		if c.step(t, rng, d) && d == storage.Sync {
			for _, f := range c.fates {
				f.durable, f.ended = f.pushed, f.acked
			}
		}
		if rng.IntN(4) == 0 {
			c.verify(t, c.fs.CrashClone(rng, rng.IntN(101)))
		}
	}
}

// step pushes, or pops and perhaps acknowledges. It reports whether it has written.
func (c *crashes) step(t *testing.T, rng *rand.Rand, d storage.Durability) bool {
	t.Helper()
	if rng.IntN(2) == 0 {
		value := fmt.Sprintf("%0*d", rng.IntN(1500), rng.IntN(9))
		id, err := c.q.Push([]byte(value), d)
		check(t, err)
		c.fates[id] = &fate{value: value, pushed: true}
		c.last = id
		return true
	}
	m, ok := tryPop(t, c.q)
	if !ok || rng.IntN(4) == 0 {
		return false
	}
	check(t, c.q.Ack(m, d))
	c.fates[m.ID].acked = true
	return true
}

// verify opens what a crash has left, and pops all of it.
func (c *crashes) verify(t *testing.T, fs storage.FS) {
	t.Helper()
	s := mustStore(t, fs)
	defer func() { check(t, s.Close()) }()
	q := mustOpen(t, s)
	defer q.Close()
	found := make(map[uint64]bool)
	var last uint64
	for m, ok := tryPop(t, q); ok; m, ok = tryPop(t, q) {
		f := c.fates[m.ID]
		if f == nil || f.ended || string(m.Value) != f.value || m.ID <= last || m.Deliveries != 1 {
			t.Fatalf("popped %d %.9q, delivery %d, after %d; it was %+v", m.ID, m.Value, m.Deliveries, last, f)
		}
		found[m.ID], last = true, m.ID
	}
	for id, f := range c.fates {
		if f.durable && !f.acked && !found[id] {
			t.Fatalf("message %d is lost: %+v", id, f)
		}
	}
	if id := push(t, q, "next"); id <= c.last {
		t.Fatalf("got ID %d, and before the crash %d", id, c.last)
	}
}
