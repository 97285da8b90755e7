package storage

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCrashes has writers at work and takes what crashes at random moments would leave, with a
// random share of what was not synced. Each of them must hold a prefix of the commits,
// whole ones, and at least all that were synced before the crash.
//
// NEXUS_RAFT_CRASHES is how many crashes it looks at, if not 500, or 2000 of a thorough test.
func TestCrashes(t *testing.T) {
	const perRun = 52 // 210 commits, and after one of four a crash
	crashes := 500 / damageStride
	if thorough() {
		crashes *= 4
	}
	if n, err := strconv.Atoi(os.Getenv("NEXUS_RAFT_CRASHES")); err == nil {
		crashes = n
	}
	for seed := range uint64(max(2, crashes/perRun)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := &crashing{fs: NewMemFS()}
			r.s = mustOpen(t, r.fs)
			r.work(t, seed)
			check(t, r.s.Close())
			for _, c := range r.crashes {
				r.verify(t, c)
			}
		})
	}
}

// crashing is a store under writers. Each commit takes the next number under a lock and does what
// that number says: so what the store holds after any of them is known.
type crashing struct {
	fs *MemFS
	s  *Store

	synced atomic.Int64  // the largest number that was acknowledged with sync
	id     atomic.Uint64 // the largest ID that was given out

	order   sync.Mutex // held from taking a number until its commit is visible; guards what follows
	number  int        // of the last commit
	crashes []crash
}

// crash is what is left, and what must be in it.
type crash struct {
	fs           *MemFS
	synced, last int // numbers
	id           uint64
	again        bool // crash once more as soon as it is open
}

// work has three writers at it, who also take the crashes: some between the moment when a commit is
// visible and its sync.
func (r *crashing) work(t *testing.T, seed uint64) {
	var writers sync.WaitGroup
	for w := range uint64(3) {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, w))
			for range 70 {
				if err := r.commit(t, rng); err != nil {
					t.Errorf("commit: %v", err)
					return
				}
			}
		})
	}
	writers.Wait()
}

func (r *crashing) commit(t *testing.T, rng *rand.Rand) error {
	sync := rng.IntN(4) == 0
	r.order.Lock()
	n := r.number + 1
	wait, err := r.publish(t, n, sync)
	r.number = n
	r.order.Unlock()
	if err != nil {
		return err
	}
	if rng.IntN(8) == 0 {
		r.crash(rng)
	}
	if sync {
		if err := wait(); err != nil {
			return err
		}
		for old := r.synced.Load(); old < int64(n); old = r.synced.Load() {
			r.synced.CompareAndSwap(old, int64(n))
		}
	}
	if rng.IntN(8) == 0 {
		r.crash(rng)
	}
	return nil
}

// crash takes what a crash would leave. What must be there is looked at before it, and what
// may be there after it.
func (r *crashing) crash(rng *rand.Rand) {
	c := crash{synced: int(r.synced.Load()), id: r.id.Load(), again: rng.IntN(8) == 0}
	c.fs = r.fs.CrashClone(rng, rng.IntN(101))
	r.order.Lock()
	defer r.order.Unlock()
	c.last = r.number
	r.crashes = append(r.crashes, c)
}

// counted is the key that each commit sets to its number.
var counted = []byte("counter")

// crashingValue is what commit n writes: of any length, so that memory tables get full.
func crashingValue(n int) string { return fmt.Sprintf("%d %0*d", n, n*n*37%4000, 0) }

// publish makes commit n visible. The caller holds r.order.
func (r *crashing) publish(t *testing.T, n int, sync bool) (wait func() error, err error) {
	if n%7 == 0 {
		id, err := r.s.GenerateID()
		if err != nil {
			return nil, err
		}
		r.id.Store(id)
	}
	switch n % 12 {
	case 0, 4, 8:
		return r.publishSwap(n, sync)
	case 1, 6:
		return r.publishTx(t, n, sync)
	default:
		return r.publishBatch(t, n, sync)
	}
}

// publishSwap counts up by a compare-and-swap.
func (r *crashing) publishSwap(n int, sync bool) (wait func() error, err error) {
	_, swapped, err := r.s.CompareAndSwap(counted, fmt.Append(nil, n-1), fmt.Append(nil, n), NoSync)
	if err == nil && !swapped {
		err = fmt.Errorf("commit %d: the number before is not there", n)
	}
	if err != nil || !sync {
		return nil, err
	}
	return r.s.FlushAsync(), nil
}

// publishTx counts up and writes to another tree in a transaction.
func (r *crashing) publishTx(t *testing.T, n int, sync bool) (wait func() error, err error) {
	a, err := r.s.Tree("a")
	if err != nil {
		return nil, err
	}
	return r.s.transact(t.Context(), func(tx *Tx) error {
		in := tx.Tree(r.s.Default())
		_, found, err := in.Get(counted)
		if err == nil && found != (n > 1) {
			err = fmt.Errorf("commit %d: the number before is not there", n)
		}
		return errors.Join(err, in.Set(counted, fmt.Append(nil, n)), tx.Tree(a).Set(numberedKey(n), []byte(crashingValue(n))))
	}, sync)
}

// publishBatch counts up and writes to other trees; some drop one, or create it again.
func (r *crashing) publishBatch(t *testing.T, n int, sync bool) (wait func() error, err error) {
	trees := make(map[string]*Tree)
	for _, name := range []string{"a", "b", "dropped"} {
		if trees[name], err = r.s.Tree(name); err != nil {
			return nil, err
		}
	}
	b := r.s.NewBatch()
	check(t, b.Set(r.s.Default(), counted, fmt.Append(nil, n)))
	switch n % 12 {
	case 5:
		check(t, b.DropTree(trees["dropped"]))
	case 9:
		check(t, b.Set(trees["dropped"], numberedKey(n), []byte(crashingValue(n))))
	default:
		check(t, b.Set(trees["a"], numberedKey(n), []byte(crashingValue(n))))
		check(t, b.Set(trees["b"], numberedKey(n), []byte(crashingValue(n))))
		check(t, b.DeleteRange(trees["b"], nil, numberedKey(n-12)))
	}
	if sync {
		return b.CommitAsync(), nil
	}
	return nil, b.Commit(false)
}

// after is what the trees hold after commit last.
func (r *crashing) after(last int) map[string]model {
	trees := map[string]model{"": {}, "a": {}, "b": {}, "dropped": {}}
	for n := 1; n <= last; n++ {
		key, value := string(numberedKey(n)), crashingValue(n)
		trees[""][string(counted)] = fmt.Sprint(n)
		switch n % 12 {
		case 0, 4, 8:
		case 1, 6:
			trees["a"][key] = value
		case 5:
			trees["dropped"] = model{}
		case 9:
			trees["dropped"][key] = value
		default:
			trees["a"][key], trees["b"][key] = value, value
			maps.DeleteFunc(trees["b"], func(k, _ string) bool { return k < string(numberedKey(n-12)) })
		}
	}
	return trees
}

// verify opens what a crash has left.
func (r *crashing) verify(t *testing.T, c crash) {
	s := mustOpen(t, c.fs)
	defer func() { check(t, s.Close()) }()
	found := 0
	value, ok, err := s.Get(counted)
	check(t, err)
	if ok {
		found, err = strconv.Atoi(string(value))
		check(t, err)
	}
	if found < c.synced || found > c.last {
		t.Errorf("found %d commits, %d were synced and %d visible", found, c.synced, c.last)
	}
	if c.again {
		r.verify(t, crash{fs: c.fs.CrashClone(nil, 0), synced: found, last: found, id: c.id})
	}
	for name, want := range r.after(found) {
		tree, ok := s.Default(), true
		if name != "" {
			tree, ok, err = s.OpenTree(name)
			check(t, err)
		}
		var got []kv
		if ok {
			got = collect(t, tree.Scan(nil, nil))
		}
		if diff := cmp.Diff(want.scan(nil, nil, false), got); diff != "" {
			t.Errorf("tree %q after commit %d (-want +got):\n%.2000s", name, found, diff)
		}
	}
	if id, err := s.GenerateID(); id <= c.id || err != nil {
		t.Errorf("generated %d, %v, after %d had been given out", id, err, c.id)
	}
}
