package mtls

import (
	"time"

	"github.com/nexi-lab/nexus-raft/internal/budget"
)

// For the tests of answers, which need the codec of package transport.

// SetAnswers has answers count in b, and gives each so long to leave, however large it is.
func (l *Limits) SetAnswers(b *budget.Bytes, sendTime time.Duration) {
	l.answers, l.sendTime, l.sendRate = b, sendTime, 1<<40
}

// Open returns how many connections are open.
func (l *Limits) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// AnswersLeft returns how many answers connections have not taken.
func (l *Limits) AnswersLeft() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.answersMu.Lock()
		n += len(c.answers)
		c.answersMu.Unlock()
	}
	return n
}

// OverBudget is what a caller is told whose answer has no place.
func OverBudget(err error) error { return overBudget(err) }

// SetRequestTime gives the requests of known callers so long to arrive.
func (l *Limits) SetRequestTime(d time.Duration) { l.requestTime = d }
