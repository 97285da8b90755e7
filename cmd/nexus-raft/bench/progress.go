package bench

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress tells what is going on: as a bar on a terminal, otherwise as a line per second.
// It is for one goroutine.
type progress struct {
	out  io.Writer
	op   Op
	span time.Duration
	bar  *progressbar.ProgressBar // nil without a terminal

	rate    float64       // of the last second
	lastAt  time.Duration // when that was taken
	lastSum int64
}

func newProgress(c Config) *progress {
	p := &progress{out: c.Progress, op: c.Op, span: c.Duration}
	if c.Bar {
		p.bar = progressbar.NewOptions64(max(c.Duration.Milliseconds(), 1),
			progressbar.OptionSetWriter(c.Progress),
			progressbar.OptionSetWidth(30),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionThrottle(100*time.Millisecond),
			progressbar.OptionShowDescriptionAtLineEnd(),
		)
	}
	return p
}

func (p *progress) say(format string, args ...any) {
	fmt.Fprintf(p.out, format+"\n", args...)
}

// until shows how far a measurement is, until it has ended.
func (p *progress) until(ended <-chan struct{}, r *recorder) {
	every := time.Second
	if p.bar != nil {
		every = 100 * time.Millisecond
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.show(r.passed(), r.counts())
		case <-ended:
			if p.bar != nil {
				p.bar.Clear()
			}
			return
		}
	}
}

func (p *progress) show(at time.Duration, sum counts) {
	if since := at - p.lastAt; since >= time.Second/2 {
		p.rate, p.lastAt, p.lastSum = float64(sum.ok-p.lastSum)/since.Seconds(), at, sum.ok
	}
	if p.bar != nil {
		p.bar.Describe(fmt.Sprintf("%d %ss, %.0f per second, %d errors", sum.ok, p.op, p.rate, sum.failed))
		p.bar.Set64(min(at.Milliseconds(), p.bar.GetMax64()-1)) // it would end at its maximum
		return
	}
	p.say("%6.1f s of %v  %d %ss, %.0f per second, %d errors", at.Seconds(), p.span, sum.ok, p.op, p.rate, sum.failed)
}
