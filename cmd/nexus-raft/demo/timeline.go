package demo

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/schollz/progressbar/v3"
)

// Event is one line of the timeline.
type Event struct {
	AtMS  int64  `json:"at_ms"` // since the demo began
	Event string `json:"event"`
	Text  string `json:"text,omitempty"`
}

// timeline prints what happens, as it happens, and keeps it. While writers run it also
// shows how far they are: as a bar on a terminal, otherwise as a line per second. It is
// for one goroutine.
type timeline struct {
	out    io.Writer
	bar    *progressbar.ProgressBar // nil without a terminal
	began  time.Time
	events []Event

	lastLine time.Time // when progress was last printed, without a bar
	lastSum  int       // and how much had been acknowledged
}

// newTimeline prints to out; with a bar over so much time if bar is set.
func newTimeline(out io.Writer, bar bool, span time.Duration) *timeline {
	t := &timeline{out: out, began: time.Now()}
	t.lastLine = t.began
	if bar {
		t.bar = progressbar.NewOptions64(max(span.Milliseconds(), 1),
			progressbar.OptionSetWriter(out),
			progressbar.OptionSetWidth(30),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionShowDescriptionAtLineEnd(),
		)
	}
	return t
}

// add notes what happened now.
func (t *timeline) add(event, format string, args ...any) {
	t.addAt(time.Now(), event, format, args...)
}

func (t *timeline) addAt(at time.Time, event, format string, args ...any) {
	e := Event{AtMS: at.Sub(t.began).Milliseconds(), Event: event, Text: fmt.Sprintf(format, args...)}
	t.events = append(t.events, e)
	t.clear()
	fmt.Fprintf(t.out, "%8.3f s  %-22s %s\n", float64(e.AtMS)/1000, e.Event, e.Text)
}

// progress shows how far the writers are, since their time began.
func (t *timeline) progress(passed time.Duration, sum counts, rounds int64) {
	if t.bar != nil {
		t.bar.Describe(fmt.Sprintf("%d acknowledged, %d files, round %d", sum.acknowledged, sum.records, rounds+1))
		t.bar.Set64(min(passed.Milliseconds(), t.bar.GetMax64()-1)) // it would end at its maximum
		return
	}
	now := time.Now()
	since := now.Sub(t.lastLine)
	if since < time.Second {
		return
	}
	fmt.Fprintf(t.out, "%8.3f s  %-22s %d acknowledged (%.0f per second), %d files, round %d\n",
		now.Sub(t.began).Seconds(), "writing",
		sum.acknowledged, float64(sum.acknowledged-t.lastSum)/since.Seconds(), sum.records, rounds+1)
	t.lastLine, t.lastSum = now, sum.acknowledged
}

// sorted returns all events in the order in which they happened: some are noticed late.
func (t *timeline) sorted() []Event {
	slices.SortStableFunc(t.events, func(a, b Event) int { return cmp.Compare(a.AtMS, b.AtMS) })
	return t.events
}

// clear removes the bar, until the next progress.
func (t *timeline) clear() {
	if t.bar != nil {
		t.bar.Clear()
	}
}
