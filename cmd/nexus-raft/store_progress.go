package main

import (
	"fmt"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"

	"github.com/nexi-lab/nexus-raft/internal/program"
)

// storeProgress shows how far a command is: as a bar on a terminal, otherwise as a line a
// second, which a short one has none of. It is for one goroutine.
type storeProgress struct {
	out   io.Writer
	what  string                   // was done with so many bytes
	bar   *progressbar.ProgressBar // nil without a terminal
	every time.Duration
	last  time.Time // when it was last shown
	done  int64
}

func newStoreProgress(out io.Writer, what string) *storeProgress {
	p := &storeProgress{out: out, what: what, every: time.Second, last: time.Now()}
	if isTerminal(out) {
		p.every = 100 * time.Millisecond
		p.bar = progressbar.NewOptions64(-1,
			progressbar.OptionSetWriter(out),
			progressbar.OptionSetWidth(30),
			progressbar.OptionSetPredictTime(false),
			progressbar.OptionSetElapsedTime(false),
			progressbar.OptionShowDescriptionAtLineEnd(),
		)
	}
	return p
}

// add notes n more bytes, of total, which is 0 if it is not known.
func (p *storeProgress) add(n, total int64) { p.show(p.done+n, total) }

// show notes how many bytes are done, of total.
func (p *storeProgress) show(done, total int64) {
	p.done = done
	now := time.Now()
	if now.Sub(p.last) < p.every {
		return
	}
	p.last = now
	text := fmt.Sprintf("%s %s", p.what, program.Size(done))
	if total > 0 {
		text += fmt.Sprintf(" of %s (%d %%)", program.Size(total), min(done*100/total, 100))
	}
	if p.bar == nil {
		fmt.Fprintln(p.out, text)
		return
	}
	p.bar.Describe(text)
	if total > 0 && p.bar.GetMax64() != total+1 {
		p.bar.ChangeMax64(total + 1) // at its maximum it would end
	}
	p.bar.Set64(min(done, max(total, 0)))
}

// end removes the bar.
func (p *storeProgress) end() {
	if p.bar != nil {
		p.bar.Clear()
	}
}

// reader returns a reader of r that shows what was read, of total.
func (p *storeProgress) reader(r io.Reader, total int64) io.Reader {
	return &shownReader{r: r, total: total, progress: p}
}

type shownReader struct {
	r        io.Reader
	total    int64
	progress *storeProgress
}

func (s *shownReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.progress.add(int64(n), s.total)
	return n, err
}

// writer returns a writer to w that shows what was written.
func (p *storeProgress) writer(w io.Writer) io.Writer { return &shownWriter{w: w, progress: p} }

type shownWriter struct {
	w        io.Writer
	progress *storeProgress
}

func (s *shownWriter) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.progress.add(int64(n), 0)
	return n, err
}
