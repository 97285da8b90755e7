package node

import (
	"sync"
	"time"
)

// forwards are the calls that this node has passed on to a leader and that have not come
// back. A node that stops waits for them, or their outcome would be unknown to the callers.
type forwards struct {
	mu      sync.Mutex // guards what follows
	running int
	idle    chan struct{} // nil until drain; closed by the last call
}

// start reports whether a call may be passed on: not once drain has begun. end must follow.
func (f *forwards) start() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.idle != nil {
		return false
	}
	f.running++
	return true
}

func (f *forwards) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running--; f.running == 0 && f.idle != nil {
		close(f.idle)
	}
}

// drain lets no call begin any more and waits for the running ones, up to limit. It is
// called once.
func (f *forwards) drain(limit time.Duration) {
	f.mu.Lock()
	idle := make(chan struct{})
	f.idle = idle
	if f.running == 0 {
		close(idle)
	}
	f.mu.Unlock()
	select {
	case <-idle:
	case <-time.After(limit):
	}
}
