package simtest

import (
	"fmt"
	"hash"
	"hash/fnv"
	"strings"
)

// trace is all that happened in a run, as a hash, and the last lines of it as text.
type trace struct {
	hash hash.Hash64
	last []string
	n    int
}

func (tr *trace) init() {
	tr.hash, tr.last = fnv.New64a(), make([]string, traceTail)
}

// eventf records one event.
func (s *world) eventf(format string, args ...any) {
	line := fmt.Sprintf("%d.%d ", s.now/tickSteps, s.now%tickSteps) + fmt.Sprintf(format, args...)
	s.trace.hash.Write([]byte(line))
	s.trace.last[s.trace.n%traceTail] = line
	s.trace.n++
	if *traceFlag {
		s.t.Log(line)
	}
}

// tail returns the newest lines, oldest first.
func (tr *trace) tail() string {
	var b strings.Builder
	for i := max(0, tr.n-traceTail); i < tr.n; i++ {
		fmt.Fprintln(&b, "  ", tr.last[i%traceTail])
	}
	return b.String()
}
