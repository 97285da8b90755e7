package budget

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Bytes is a budget of bytes with a share for each principal. A request for more than is left waits
// in line; one of a principal beyond its share holds up no other principal's. A request for more than there is
// gets through alone: over the share once its principal holds nothing else, over the total once nobody does.
// Its methods may be called from any goroutine.
//
// 0 <= used <= total, or one request holds all of used; used is the sum of all of held, each of which is at most
// share, or of one request.
type Bytes struct {
	total, share int64
	wait         time.Duration
	ofAll, ofOne Cause
	counters     *Counters

	mu      sync.Mutex // guards what follows
	used    int64
	held    map[string]int64 // by principal; none is 0
	waiting []*waiter
}

type waiter struct {
	principal string
	bytes     int64
	granted   chan struct{} // closed once it holds its bytes
}

// NewAnswerBytes returns the budget of a node's answers, of some bytes, half of which are a principal's share; 0:
// AnswerBytesTotal. It counts refusals.
func NewAnswerBytes(total int64, c *Counters) *Bytes {
	total = cmp.Or(total, AnswerBytesTotal)
	return NewBytes(total, max(1, total/(AnswerBytesTotal/AnswerBytesShare)), AnswerWait, c)
}

// NewEffectBytes returns the budget of the writes that make much of little.
func NewEffectBytes(c *Counters) *Bytes {
	b := NewBytes(EffectBytesTotal, EffectBytesShare, AnswerWait, c)
	b.ofAll, b.ofOne = EffectBytes, EffectBytesOfPrincipal
	return b
}

// NewBytes returns a budget for answers with figures of its own.
func NewBytes(total, share int64, wait time.Duration, c *Counters) *Bytes {
	return &Bytes{
		total: total, share: share, wait: wait, counters: c, held: make(map[string]int64), ofAll: AnswerBytes,
		ofOne: AnswerBytesOfPrincipal,
	}
}

// Exceeded is the error of a caller that got no room in time.
type Exceeded struct {
	Cause Cause
	Limit int64
}

// Error implements error.
func (e *Exceeded) Error() string {
	switch mib := e.Limit >> 20; e.Cause {
	case AnswerBytesOfPrincipal:
		return fmt.Sprintf("the answers to this caller that are under way hold %d MiB, their share; read them, ask for "+
			"less at once, or for smaller ranges", mib)
	case AnswerBytes:
		return fmt.Sprintf("the answers of this node that are under way hold %d MiB, the limit; ask again later, or for "+
			"smaller ranges", mib)
	case EffectBytesOfPrincipal:
		return fmt.Sprintf("the writes of this caller that are under way may make %d MiB of what is there, their share; "+
			"have fewer of them at once", mib)
	default:
		return fmt.Sprintf("the writes of this node that are under way may make %d MiB of what is there, the limit; ask "+
			"again later", mib)
	}
}

// Take returns once it holds n bytes for a principal, which Give gives back. It returns an Exceeded if that
// takes until shortly before the context's deadline, early enough for the caller to hear why, or, without a deadline,
// too long; or the context's error.
func (b *Bytes) Take(ctx context.Context, principal string, n int64) error {
	if n <= 0 {
		return nil
	}
	w := &waiter{principal: principal, bytes: n, granted: make(chan struct{})}
	b.mu.Lock()
	b.waiting = append(b.waiting, w)
	b.grant()
	b.mu.Unlock()
	wait := b.wait
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		wait = left - min(left/10, AnswerDeadlineMargin)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-w.granted:
		return nil
	case <-t.C:
		return b.giveUp(w, nil)
	case <-ctx.Done():
		return b.giveUp(w, ctx.Err())
	}
}

// giveUp ends a wait, with cause or, if that is nil, an Exceeded; with nil if it was granted
// meanwhile.
func (b *Bytes) giveUp(w *waiter, cause error) error {
	b.mu.Lock()
	i := slices.Index(b.waiting, w)
	if i < 0 {
		b.mu.Unlock()
		return nil
	}
	b.waiting = slices.Delete(b.waiting, i, i+1)
	why := b.ofAll
	if !fits(b.held[w.principal], w.bytes, b.share) {
		why = b.ofOne
	}
	b.grant() // others may have waited behind it
	b.mu.Unlock()
	if cause != nil {
		return cause
	}
	return b.refuse(why)
}

func (b *Bytes) refuse(why Cause) error {
	b.counters.Refused(why)
	limit := b.total
	if why == b.ofOne {
		limit = b.share
	}
	return &Exceeded{Cause: why, Limit: limit}
}

// Give gives back n bytes of what a principal holds.
func (b *Bytes) Give(principal string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	if b.held[principal] -= n; b.held[principal] == 0 {
		delete(b.held, principal)
	}
	b.grant()
}

// fits reports whether n bytes may be added to what is held.
func fits(held, n, limit int64) bool { return held == 0 || held+n <= limit }

// grant serves the waiting requests that there is room for. The first one that only the total blocks
// blocks all behind it, and one that its share blocks all of its principal's: otherwise many small ones would leave no
// room for a large one.
func (b *Bytes) grant() {
	full, over := false, make(map[string]bool)
	b.waiting = slices.DeleteFunc(b.waiting, func(w *waiter) bool {
		if full || over[w.principal] {
			return false
		}
		if !fits(b.held[w.principal], w.bytes, b.share) {
			over[w.principal] = true
			return false
		}
		if full = !fits(b.used, w.bytes, b.total); full {
			return false
		}
		b.used += w.bytes
		b.held[w.principal] += w.bytes
		close(w.granted)
		return true
	})
}

// Used returns how many bytes are held.
func (b *Bytes) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
