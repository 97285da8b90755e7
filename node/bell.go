package node

import "sync"

// bell wakes everybody who waits for it. Ringing never blocks, and costs a lock when nobody
// waits; that it rang several times is not told.
type bell struct {
	mu     sync.Mutex
	waited chan struct{} // nil while nobody waits
}

// wait returns a channel that is closed at the next ring.
func (b *bell) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waited == nil {
		b.waited = make(chan struct{})
	}
	return b.waited
}

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waited != nil {
		close(b.waited)
		b.waited = nil
	}
}
