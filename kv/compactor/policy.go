package compactor

import (
	"slices"
	"time"
)

// policy is what of a zone's history is kept.
type policy struct {
	period    time.Duration // so long; 0: for ever
	revisions int64         // if not 0: so many of the newest revisions, and the period does not count
}

const (
	leastSample   = time.Second     // between two samples of a zone
	revisionPause = 5 * time.Minute // between two compactions that keep a number of revisions, as in etcd
)

// history is what is known of how a zone's revisions have grown, by this process's clock. It stays true whoever
// leads the zone meanwhile; a process that knows nothing of the past begins with the present.
type history struct {
	samples []sample  // oldest first, those only that a compaction is still to reach; at most some 11
	next    time.Time // of a policy that keeps revisions: no compaction before; zero: none is due
}

// sample says that a revision was the newest one at a time.
type sample struct {
	at  time.Time
	rev int64
}

// look is a look at a zone. It returns the revision that is to be compacted now, 0 for none, and when the next look
// is due, if nothing happens before; the zero time: none.
func (p policy) look(h *history, now time.Time, newest, compacted int64) (target int64, next time.Time) {
	if newest <= max(compacted, 1) {
		*h = history{}
		return 0, next // there is nothing but the newest state
	}
	switch {
	case p.revisions > 0:
		return p.byNumber(h, now, newest, compacted)
	case p.period > 0:
		return p.byAge(h, now, newest, compacted)
	}
	return 0, next
}

// byAge compacts what was the newest revision a period ago. Samples are a tenth of the period apart, so that history
// is kept for up to a tenth longer.
func (p policy) byAge(h *history, now time.Time, newest, compacted int64) (target int64, next time.Time) {
	h.samples = slices.DeleteFunc(h.samples, func(s sample) bool { return s.rev <= compacted })
	every := max(p.period/10, leastSample)
	if last := len(h.samples) - 1; last < 0 || h.samples[last].rev < newest {
		if last < 0 || !now.Before(h.samples[last].at.Add(every)) {
			h.samples = append(h.samples, sample{now, newest})
		} else {
			next = h.samples[last].at.Add(every)
		}
	}
	for _, s := range h.samples {
		if now.Before(s.at.Add(p.period)) {
			next = earlier(next, s.at.Add(p.period))
			break
		}
		target = s.rev
	}
	return target, next
}

// byNumber compacts all but the newest revisions, now and then.
func (p policy) byNumber(h *history, now time.Time, newest, compacted int64) (target int64, next time.Time) {
	target = newest - p.revisions
	switch {
	case target <= max(compacted, 1):
		h.next = time.Time{}
		return 0, next
	case h.next.IsZero():
		h.next = now.Add(revisionPause)
	case !now.Before(h.next):
		h.next = now.Add(revisionPause)
		return target, h.next
	}
	return 0, h.next
}
