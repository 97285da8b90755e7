package driver

import (
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// testRead is a read and its answer.
type testRead struct {
	ready chan error
	gone  bool
}

func newTestRead() *testRead { return &testRead{ready: make(chan error, 1)} }

func (r *testRead) Serve(err error) { r.ready <- err }
func (r *testRead) Gone() bool      { return r.gone }

// farLeader answers questions after a number of ticks, unless it is told to lose them.
type farLeader struct {
	r     reads
	delay int
	lose  bool
	sent  []flying
	index nexusraft.Index // of the newest answer
	most  int             // questions under way at once
	asked int
}

type flying struct {
	context []byte
	at      int
	index   nexusraft.Index
}

func newFarLeader(delay int) *farLeader {
	f := &farLeader{delay: delay, r: newReads(Config{ReadTicks: 24})}
	f.r.follow(leadership{1, 1})
	return f
}

// tick is a tick of the replica: answers that are due come in, and questions leave.
func (f *farLeader) tick() {
	f.r.tick()
	for len(f.sent) > 0 && f.r.now-f.sent[0].at >= f.delay {
		f.r.confirmed(zone.Read{Context: f.sent[0].context, Index: f.sent[0].index})
		f.sent = f.sent[1:]
	}
	for f.r.due() {
		context, _ := f.r.request()
		f.asked++
		if f.index++; !f.lose {
			f.sent = append(f.sent, flying{context, f.r.now, f.index})
		}
	}
	f.most = max(f.most, len(f.r.asked))
	f.r.serve(f.index)
}

// time is the replica's clock, a second for each tick.
func (f *farLeader) time() time.Time { return time.Unix(int64(f.r.now), 0) }

func (f *farLeader) read() *testRead {
	x := newTestRead()
	f.r.add(x, f.time())
	return x
}

// await returns after how many ticks a read has ended, and how.
func (f *farLeader) await(t *testing.T, x *testRead) (int, error) {
	t.Helper()
	for n := 1; n <= 1000; n++ {
		f.tick()
		select {
		case err := <-x.ready:
			return n, err
		default:
		}
	}
	t.Fatalf("no answer in 1000 ticks, %d questions, %d of them under way", f.asked, len(f.r.asked))
	return 0, nil
}

// TestReadsOfAFarLeader: 100, 200 and 300 ms are 2, 4 and 6 ticks. However long an answer takes,
// a read takes no longer than that and a tick, beside other reads as well as alone.
func TestReadsOfAFarLeader(t *testing.T) {
	for _, delay := range []int{0, 1, 2, 3, 4, 5, 6, 12, 40, 200} {
		for _, busy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d ticks, busy %v", delay, busy), func(t *testing.T) {
				f := newFarLeader(delay)
				for range 3 * delay {
					if busy {
						f.read()
					}
					f.tick()
				}
				got, err := f.await(t, f.read())
				want := max(delay, 1) + 1          // what is asked in one tick is answered in the next at the earliest
				if busy && delay >= maxQuestions { // all places are taken: it waits for one
					want = 3*delay + 1
				}
				if err != nil || got > want {
					t.Errorf("got %v after %d ticks, want an answer after at most %d", err, got, want)
				}
				if f.most > maxQuestions {
					t.Errorf("%d questions under way at once, want at most %d", f.most, maxQuestions)
				}
			})
		}
	}
}

// TestReadsAreAskedAgain: questions get lost. They are asked again at once of another leadership,
// and otherwise after a while.
func TestReadsAreAskedAgain(t *testing.T) {
	f := newFarLeader(6)
	f.lose = true
	x := f.read()
	for range 100 {
		f.read()
		f.tick()
	}
	if f.most > maxQuestions {
		t.Errorf("%d questions under way at once, want at most %d", f.most, maxQuestions)
	}
	f.lose = false
	f.r.follow(leadership{2, 2})
	if got, err := f.await(t, x); err != nil || got > 7 {
		t.Errorf("after another leader was elected: %v after %d ticks, want an answer after 7", err, got)
	}

	f = newFarLeader(6)
	f.lose = true
	x = f.read()
	f.tick()
	f.lose = false
	if got, err := f.await(t, x); err != nil || got > readRetryTicks+7 {
		t.Errorf("one question was lost: %v after %d ticks, want an answer after %d", err, got, readRetryTicks+7)
	}
}

// TestAnswerIsNotForLaterReads: an answer says nothing of reads that came after its question.
func TestAnswerIsNotForLaterReads(t *testing.T) {
	f := newFarLeader(6)
	early := f.read()
	f.tick()
	late := f.read()
	if got, _ := f.await(t, early); got > 6 {
		t.Fatalf("the early read took %d ticks", got)
	}
	select {
	case <-late.ready:
		t.Error("a read was served by an answer to a question from before it")
	default:
	}
	if _, err := f.await(t, late); err != nil {
		t.Error(err)
	}
}

// TestReadsWithoutALeader end after a while, each one's own time included.
func TestReadsWithoutALeader(t *testing.T) {
	f := newFarLeader(6)
	f.lose = true
	old := f.read()
	f.tick()
	f.r.follow(leadership{0, 2})
	if got, err := f.await(t, old); !errors.Is(err, nexusraft.ErrNoQuorum) || got != f.r.limit {
		t.Errorf("got %v after %d ticks, want ErrNoQuorum after %d", err, got, f.r.limit)
	}
	if err := f.r.leaderless(); !errors.Is(err, nexusraft.ErrNoQuorum) {
		t.Errorf("got %v, want ErrNoQuorum", err)
	}
	x := f.read()
	if got, err := f.await(t, x); !errors.Is(err, nexusraft.ErrNoQuorum) || got != f.r.limit {
		t.Errorf("a read that came later: %v after %d ticks, want ErrNoQuorum after %d", err, got, f.r.limit)
	}
	asked := f.asked
	if f.tick(); f.asked != asked {
		t.Error("a question was asked, and there is nobody to answer it")
	}
	f.lose = false
	x = f.read()
	f.tick()
	f.r.follow(leadership{1, 3})
	if _, err := f.await(t, x); err != nil {
		t.Errorf("a leader is back in time: %v", err)
	}
}

// TestFreshness: a state is as old as the question that confirmed it, not as its answer, and is not what
// the answer says before that is applied.
func TestFreshness(t *testing.T) {
	f := newFarLeader(6)
	within := func(ticks int) bool { return f.r.fresh.Within(time.Duration(ticks)*time.Second, f.time()) }
	if within(math.MaxInt32) {
		t.Error("the age of a state that nobody has confirmed is known")
	}
	f.tick()
	x := f.read()
	got, err := f.await(t, x)
	if err != nil || within(got) || !within(got+1) {
		t.Errorf("%v, answered after %d ticks: at most so old: %t, and one more: %t; want false, true", err, got, within(got),
			within(got+1))
	}
	f.tick()
	if within(got+1) || !within(got+2) {
		t.Error("a state does not grow older")
	}
	f.r.addAt(newTestRead(), f.index) // is applied, and says nothing of what others have acknowledged
	if within(got + 1) {
		t.Error("a state is newer because an index was read that it has")
	}

	f.read()
	f.tick()
	f.read() // the question does not wait for it
	f.r.confirmed(zone.Read{Context: f.r.asked[0].context, Index: f.index + 1})
	if f.r.serve(f.index); within(got + 2) {
		t.Error("a state is as new as the answer, which is not applied")
	}
	if f.r.serve(f.index + 1); !within(2) || within(1) {
		t.Errorf("the answer is applied now, of a question from a tick ago: so old: %t, and one more: %t; want false, true",
			within(1), within(2))
	}
	if within(0) || within(-1) {
		t.Error("a state is of this moment")
	}
}

// TestSuspendedMachine: where the monotonic clock stood still, the wall clock tells the time.
func TestSuspendedMachine(t *testing.T) {
	now := time.Now()
	var f Freshness
	f.served(now.Add(-time.Second).Round(0).Add(-time.Hour))
	if f.Within(time.Minute, now) {
		t.Error("the hour for which the machine was suspended does not count")
	}
	f.served(now.Add(-time.Second))
	if !f.Within(time.Minute, now) || f.Within(time.Second, now) {
		t.Error("a second is not a second")
	}
}

// TestReadAt: a read for an index waits until it is applied, or gone, or the group's end.
func TestReadAt(t *testing.T) {
	r := newReads(Config{Config: zone.Config{Applied: 7}})
	at := func(i nexusraft.Index) *testRead {
		x := newTestRead()
		r.addAt(x, i)
		return x
	}
	now, later, gone, last := at(7), at(9), at(9), at(10)
	if len(now.ready) != 1 || len(later.ready) != 0 || r.fresh.Has(8) || !r.fresh.Has(7) {
		t.Fatalf("applied is 7: %d, %d answers", len(now.ready), len(later.ready))
	}
	if r.serve(8); len(later.ready) != 0 {
		t.Fatal("index 9 was read when 8 was applied")
	}
	gone.gone = true
	if r.tick(); len(r.indexed) != 2 {
		t.Errorf("%d reads wait, want 2: one is gone", len(r.indexed))
	}
	if r.serve(9); len(later.ready) != 1 || len(last.ready) != 0 || !r.fresh.Has(9) {
		t.Errorf("applied is 9: %d, %d answers", len(later.ready), len(last.ready))
	}
	if r.fail(nexusraft.ErrClosed); !errors.Is(<-last.ready, nexusraft.ErrClosed) || <-later.ready != nil {
		t.Error("want ErrClosed for what still waits alone")
	}
}
