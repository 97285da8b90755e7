package events

import "sync"

// Notifier wakes everybody that waits for it. Notify never blocks, and costs a lock when nobody
// waits; several calls before a waiter looks are one to it. The zero value is ready for use.
type Notifier struct {
	mu     sync.Mutex
	waited chan struct{} // nil while nobody waits
}

// Wait returns a channel that is closed by the next Notify. A waiter calls it before it looks at
// what it waits for, so that nothing falls in between.
func (n *Notifier) Wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waited == nil {
		n.waited = make(chan struct{})
	}
	return n.waited
}

// Notify wakes all that wait now.
func (n *Notifier) Notify() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waited != nil {
		close(n.waited)
		n.waited = nil
	}
}
