package etcd

import (
	"context"
	"iter"
	"runtime"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
)

// turns bound what scans take of a node, together. A few bytes ask for a walk over all keys, and
// hundreds of walks at once would leave hardly any time to the zones, and hold hundreds of blocks.
// Hence long scans compute one after the other, some pairs at a time, on half of the processors, at
// least one; a scan holds nothing of the store while it waits. Short scans need no turn, but a
// place among those that read.
type turns struct {
	long    chan struct{} // holds one for each turn taken
	reading chan struct{} // holds one for each place taken

	// Holds one for each read of a range at a revision, which keeps what has changed since in memory, some 25 MB,
	// while it waits for a turn, too.
	past chan struct{}
}

// pastReads is how many reads of ranges at revisions there are at once.
const pastReads = 4

func newTurns() turns {
	return turns{
		long: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)), reading: make(chan struct{}, budget.ScansAtOnce),
		past: make(chan struct{}, pastReads),
	}
}

// isPast reports whether a Range reads more than a key at a revision.
func isPast(req *etcdserverpb.RangeRequest) bool {
	return req.GetRevision() > 0 && len(req.GetRangeEnd()) > 0
}

// enterPast waits for a place among the reads of ranges at revisions; leave gives it back.
func (t turns) enterPast(ctx context.Context) (leave func(), err error) {
	select {
	case t.past <- struct{}{}:
		return func() { <-t.past }, nil
	case <-ctx.Done():
		return nil, rpc.OverBudget(context.Cause(ctx))
	}
}

// abortable is a Reader of a state that does not change, whose scans take turns, and end with the
// error of their context as soon as it has one: a scan of a large range must not go on for a caller
// that has gone. The consumer of a scan must not wait for another one.
type abortable struct {
	nexusraft.Reader

	ctx   context.Context
	turns turns
}

// Get implements nexusraft.Reader. A read of an old revision may be many of them.
func (r abortable) Get(key []byte) ([]byte, bool, error) {
	if err := r.ctx.Err(); err != nil {
		return nil, false, err
	}
	return r.Reader.Get(key)
}

// Scan implements nexusraft.Reader.
func (r abortable) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		r.inTurns(yield, func(s *turnScan) iter.Seq2[nexusraft.Pair, error] {
			if s.last != nil {
				return r.Reader.Scan(append(slices.Clone(s.last), 0), end)
			}
			return r.Reader.Scan(start, end)
		})
	}
}

// ScanReverse implements nexusraft.Reader.
func (r abortable) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		r.inTurns(yield, func(s *turnScan) iter.Seq2[nexusraft.Pair, error] {
			if s.last != nil {
				return r.Reader.ScanReverse(start, s.last)
			}
			return r.Reader.ScanReverse(start, end)
		})
	}
}

// turnScan is one scan, in parts.
type turnScan struct {
	last []byte // key of the last pair before the last wait, not nil even if empty; nil before a wait
	turn bool   // a turn is taken
}

// inTurns yields what rest yields, which is what follows s.last, and begins it anew after each wait.
func (r abortable) inTurns(
	yield func(nexusraft.Pair, error) bool, rest func(*turnScan) iter.Seq2[nexusraft.Pair, error],
) {
	var s turnScan
	defer func() {
		if s.turn {
			<-r.turns.long
		}
	}()
	for {
		if err := r.take(r.turns.reading); err != nil {
			yield(nexusraft.Pair{}, err)
			return
		}
		if r.part(&s, yield, rest(&s)) {
			return
		}
		if err := r.take(r.turns.long); err != nil {
			yield(nexusraft.Pair{}, err)
			return
		}
		s.turn = true
	}
}

// part yields pairs until they or the consumer end, or until it is another scan's turn: then the
// scan has not ended. It gives the place back.
func (r abortable) part(
	s *turnScan, yield func(nexusraft.Pair, error) bool, pairs iter.Seq2[nexusraft.Pair, error],
) (ended bool) {
	defer func() { <-r.turns.reading }()
	n, size := 0, 0
	for p, err := range pairs {
		n, size = n+1, size+len(p.Key)+len(p.Value)
		if !yield(p, err) {
			return true
		}
		if err != nil || n < budget.ScanPairs && size < budget.ScanBytes {
			continue
		}
		n, size = 0, 0
		if s.turn {
			<-r.turns.long
			s.turn = false
		}
		// A turn that is given back goes to a scan that waits, if there is one.
		if r.ctx.Err() == nil {
			select {
			case r.turns.long <- struct{}{}:
				s.turn = true
				continue
			default:
			}
		}
		s.last = append([]byte{}, p.Key...)
		return false
	}
	return true
}

// take waits for a turn or a place. It returns an error once the caller has gone.
func (r abortable) take(from chan struct{}) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	select {
	case <-r.ctx.Done():
		return r.ctx.Err()
	case from <- struct{}{}:
		return nil
	}
}
