package raftlog

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// history is what a Log was after each batch, shared between the goroutine that writes it and the
// one that takes the crashes.
type history struct {
	mu      sync.Mutex
	states  []dump // the last may be under way
	durable int    // the latest whose synced commit has returned
}

func (h *history) begin(d dump) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.states = append(h.states, d)
	return len(h.states) - 1
}

func (h *history) done(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.durable = n
}

func (h *history) bounds() (durable, last int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.durable, len(h.states) - 1
}

// find returns the state among from..to that d equals.
func (h *history) find(d dump, from, to int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.states[from : to+1] {
		if s.equal(d) {
			return true
		}
	}
	return false
}

// writer makes one batch after the other: appends, conflicting suffixes, commits, applied
// entries, compactions, snapshots.
type writer struct {
	t     *testing.T
	store *storage.Store
	log   *Log
	rng   *rand.Rand
	hist  *history
}

func (w *writer) run(stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		if err := w.step(); err != nil {
			w.t.Errorf("writer: %v", err)
			return
		}
	}
}

func (w *writer) step() error {
	b := w.store.NewBatch()
	defer b.Close()
	if err := w.stage(b); err != nil {
		return err
	}
	last, _ := w.log.LastIndex()
	all, err := w.log.Entries(uint64(w.log.Meta().Compacted)+1, last+1, ^uint64(0))
	if err != nil {
		return err
	}
	n := w.hist.begin(dump{w.log.Meta(), w.log.HardState(), w.log.Applied(), all, w.log.Bytes()})
	sync := w.rng.IntN(2) == 0
	if err := b.Commit(sync); err != nil {
		return err
	}
	if sync {
		w.hist.done(n)
	}
	return nil
}

func (w *writer) stage(b *storage.Batch) error {
	hs := w.log.HardState()
	last, _ := w.log.LastIndex()
	commit, term := hs.GetCommit(), hs.GetTerm()
	switch w.rng.IntN(10) {
	case 0: // a new leader's entries in place of ours
		from := commit + 1 + w.rng.Uint64N(last-commit+1)
		return errors.Join(w.log.Append(b, w.entries(from, term+1)), w.log.SetHardState(b, hardState(term+1, 0, commit)))
	case 1:
		index := commit + 1 + w.rng.Uint64N(10)
		hs = hardState(term+1, 0, index)
		return w.log.InstallSnapshot(b, nexusraft.Index(index), nexusraft.Term(term+1), confState(1), w.log.Meta().Membership,
			"staged", hs)
	case 2, 3:
		return w.log.Compact(b, w.log.Applied())
	}
	more := w.entries(last+1, term)
	to := commit + w.rng.Uint64N(last-commit+1)
	return errors.Join(w.log.Append(b, more), w.log.SetHardState(b, hardState(term, hs.GetVote(), to)),
		w.log.SetApplied(b, nexusraft.Index(to)))
}

func (w *writer) entries(from, term uint64) []*raftpb.Entry {
	return entries(int(from), 1+w.rng.IntN(5), term)
}

// Invariants I1, I2 and I7: a crash at any moment, in the middle of a batch or of its sync,
// leaves the state after some batch, no earlier than the last synced one, and never half.
func TestCrashAtAnyMoment(t *testing.T) {
	const crashes = 60
	fs := storage.NewMemFS()
	store, tree := openStore(t, fs)
	log := founded(t, store, tree)
	w := &writer{t: t, store: store, log: log, rng: rand.New(rand.NewPCG(1, 2)), hist: new(history)}
	w.hist.begin(dumpLog(t, log))

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { w.run(stop) })
	defer func() {
		close(stop)
		wg.Wait()
		must(t, store.Close())
	}()
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range crashes {
		from, _ := w.hist.bounds()
		clone := fs.CrashClone(rng, []int{0, 50, 100}[i%3])
		_, to := w.hist.bounds()
		if got := afterCrash(t, clone); !w.hist.find(got, from, to) {
			t.Errorf("crash %d left a state that is none of batches %d to %d:\n%+v", i, from, to, got)
			break
		}
	}
	if _, n := w.hist.bounds(); n < crashes {
		t.Errorf("only %d batches were written during %d crashes", n, crashes)
	}
}

// crashes takes a clone of a disk before each step that changes it: each write, sync,
// creation, rename and removal, Pebble's own in the background included.
type crashes struct {
	disk *storage.MemFS
	hist *history

	mu    sync.Mutex // guards what follows
	rng   *rand.Rand
	taken []crash
}

type crash struct {
	step     string
	disk     *storage.MemFS
	from, to int // the states that it may have left
}

func (c *crashes) String() string { return "crashes" }

func (c *crashes) MaybeError(op errorfs.Op) error {
	if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	from, _ := c.hist.bounds()
	clone := c.disk.CrashClone(c.rng, []int{0, 50, 100}[len(c.taken)%3])
	_, to := c.hist.bounds()
	c.taken = append(c.taken, crash{fmt.Sprintf("%d: %v of %s", len(c.taken), op.Kind, op.Path), clone, from, to})
	return nil
}

// Invariants I1, I2 and I7: a crash before any single step of any batch leaves the state
// after some batch, no earlier than the last synced one, and never half.
func TestCrashAtEveryWrite(t *testing.T) {
	const batches = 200
	disk := storage.NewMemFS()
	store, tree := openStore(t, disk)
	w := &writer{t: t, rng: rand.New(rand.NewPCG(5, 6)), hist: new(history)}
	w.hist.begin(dumpLog(t, founded(t, store, tree)))
	must(t, store.Close())

	c := &crashes{disk: disk, hist: w.hist, rng: rand.New(rand.NewPCG(7, 8))}
	w.store, tree = openStore(t, errorfs.Wrap(disk, c))
	w.log = reopen(t, tree, zone)
	for range batches {
		must(t, w.step())
	}
	must(t, w.store.Close())

	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.taken) < batches {
		t.Errorf("%d steps for %d batches: not every write was seen", len(c.taken), batches)
	}
	for _, x := range c.taken {
		if got := afterCrash(t, x.disk); !w.hist.find(got, x.from, x.to) {
			t.Fatalf("a crash before step %s left a state that is none of batches %d to %d:\n%+v", x.step, x.from, x.to, got)
		}
	}
}

func afterCrash(t *testing.T, fs *storage.MemFS) dump {
	t.Helper()
	store, tree := openStore(t, fs)
	defer func() { must(t, store.Close()) }()
	return dumpLog(t, reopen(t, tree, zone))
}

// Invariant I2: what was staged and never committed is nowhere.
func TestUncommittedBatchLeavesNothing(t *testing.T) {
	s, tree := newTree(t)
	l := founded(t, s, tree)
	want := dumpLog(t, l)
	b := s.NewBatch()
	must(t, errors.Join(l.Append(b, entries(11, 5, 2)), l.SetHardState(b, hardState(2, 1, 13)), l.SetApplied(b, 12),
		l.Compact(b, 11)))
	b.Close()
	if d := diff(dumpLog(t, reopen(t, tree, zone)), want); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
