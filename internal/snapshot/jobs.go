package snapshot

import (
	"context"
	"sync"
)

// Jobs counts the goroutines that send snapshots: how many may run, and when all have ended. Its methods
// may be called from many goroutines.
type Jobs struct {
	Context context.Context // ends when the node stops

	slots chan struct{}
	wg    sync.WaitGroup
}

// NewJobs returns Jobs of which so many may run at once.
func NewJobs(ctx context.Context, most int) *Jobs {
	return &Jobs{Context: ctx, slots: make(chan struct{}, most)}
}

// TryStart takes a place if one is free; End gives it back.
func (j *Jobs) TryStart() bool {
	select {
	case j.slots <- struct{}{}:
		j.wg.Add(1)
		return true
	default:
		return false
	}
}

// End says that a job has ended.
func (j *Jobs) End() {
	<-j.slots
	j.wg.Done()
}

// Wait returns when all have ended.
func (j *Jobs) Wait() { j.wg.Wait() }
