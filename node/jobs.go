package node

import (
	"context"
	"sync"
)

// jobs counts goroutines of one kind: how many may run, and when all have ended.
type jobs struct {
	context context.Context // ends when the node stops
	slots   chan struct{}
	wg      sync.WaitGroup
}

func newJobs(ctx context.Context, most int) *jobs {
	return &jobs{context: ctx, slots: make(chan struct{}, most)}
}

// tryStart takes a slot if one is free; end gives it back.
func (j *jobs) tryStart() bool {
	select {
	case j.slots <- struct{}{}:
		j.wg.Add(1)
		return true
	default:
		return false
	}
}

func (j *jobs) end() {
	<-j.slots
	j.wg.Done()
}

func (j *jobs) wait() { j.wg.Wait() }
