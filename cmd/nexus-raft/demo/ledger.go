package demo

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// history is what the writers know of one key. Each key has one writer, which begins a
// write only when the one before it has ended.
type history struct {
	acknowledged int                // acknowledged writes
	value        string             // the last of them
	revision     nexusraft.Revision // and its revision
	uncertain    []string           // values whose writing may have happened, or may happen yet
}

// An outcome is the result of a check.
type outcome int

const (
	sound      outcome = iota
	lost               // something that was acknowledged is not there
	unexpected         // the value can't have been written
)

// check compares what a member holds at the key, once nothing is written any more, and
// says what is wrong.
//
// No two values are equal, nothing is ever deleted, and versions count the writes of a
// key. So an acknowledged write that was lost shows, even if a later one has covered it:
// as a version that is too low, as an older value, or as a value at an older revision.
// An uncertain write may come late; then its revision is above the acknowledged one.
func (h history) check(kv client.KeyValue, found bool) (outcome, string) {
	value, most := string(kv.Value), int64(h.acknowledged+len(h.uncertain))
	switch {
	case !found && h.acknowledged > 0:
		return lost, fmt.Sprintf("is absent, though acknowledged at revision %d", h.revision)
	case !found:
		return sound, ""
	case kv.Version < int64(h.acknowledged):
		return lost, fmt.Sprintf("was written %d times, though %d writes were acknowledged", kv.Version, h.acknowledged)
	case h.acknowledged > 0 && value == h.value && kv.ModRevision == h.revision && kv.Version <= most:
		return sound, ""
	case slices.Contains(h.uncertain, value) && kv.ModRevision > h.revision && kv.Version <= most:
		return sound, ""
	case kv.Version > most:
		return unexpected, fmt.Sprintf("was written %d times, though at most %d writes were sent", kv.Version, most)
	case h.acknowledged == 0:
		return unexpected, fmt.Sprintf("holds %q, which was never written", value)
	}
	return lost, fmt.Sprintf("holds %q of revision %d, though %q was acknowledged at revision %d",
		value, kv.ModRevision, h.value, h.revision)
}

// counts is what the ledger adds up.
type counts struct {
	acknowledged, uncertain, refused int
	twoCopies, oneCopy               int
	longestGap                       time.Duration // between two acknowledgements
	records                          int           // keys with an acknowledged write
}

// ledger is what the writers know. It may be used by any goroutine.
type ledger struct {
	mu        sync.Mutex
	histories map[string]*history
	sum       counts
	last      time.Time // the last acknowledgement
	waiting   []waiting
}

// waiting is a caller that waits for the first acknowledgement of a write begun
// after a moment.
type waiting struct {
	after time.Time
	ack   chan time.Time
}

func newLedger() *ledger { return &ledger{histories: make(map[string]*history)} }

// acknowledge notes that the write of value, begun at that time, was acknowledged now.
func (l *ledger) acknowledge(key string, value []byte, begun time.Time, r client.PutResult) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.history(key)
	if h.acknowledged == 0 {
		l.sum.records++
	}
	h.acknowledged++
	h.value, h.revision = string(value), r.Revision
	l.sum.acknowledged++
	if r.Copies >= 2 {
		l.sum.twoCopies++
	} else {
		l.sum.oneCopy++
	}
	if !l.last.IsZero() {
		l.sum.longestGap = max(l.sum.longestGap, now.Sub(l.last))
	}
	l.last = now
	l.waiting = slices.DeleteFunc(l.waiting, func(w waiting) bool {
		if !begun.After(w.after) {
			return false
		}
		w.ack <- now
		return true
	})
}

// doubt notes that the write of value may or may not have happened.
func (l *ledger) doubt(key string, value []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.history(key)
	h.uncertain = append(h.uncertain, string(value))
	l.sum.uncertain++
}

// refuse notes that a write certainly did not happen.
func (l *ledger) refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sum.refused++
}

// firstAfter returns a channel that gets the time of the first acknowledgement from now on
// of a write begun after t.
func (l *ledger) firstAfter(t time.Time) <-chan time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := waiting{after: t, ack: make(chan time.Time, 1)}
	l.waiting = append(l.waiting, w)
	return w.ack
}

func (l *ledger) counts() counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sum
}

// lastAcknowledgement returns when it was; the zero time before the first.
func (l *ledger) lastAcknowledgement() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// history returns the key's, l.mu being held.
func (l *ledger) history(key string) *history {
	h, ok := l.histories[key]
	if !ok {
		h = new(history)
		l.histories[key] = h
	}
	return h
}

// A finding is a key that does not hold what it must.
type finding struct {
	key     string
	outcome outcome
	text    string
}

func (f finding) String() string { return fmt.Sprintf("%q %s", f.key, f.text) }

// compare checks a listing of everything that a member holds, once nothing is written
// any more. It returns what is wrong, ascending by key.
func (l *ledger) compare(found map[string]client.KeyValue) []finding {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []finding
	for key, h := range l.histories {
		kv, ok := found[key]
		if v, text := h.check(kv, ok); v != sound {
			out = append(out, finding{key, v, text})
		}
	}
	for key := range found {
		if l.histories[key] == nil {
			out = append(out, finding{key, unexpected, "is there, though it was never written"})
		}
	}
	slices.SortFunc(out, func(a, b finding) int { return strings.Compare(a.key, b.key) })
	return out
}
