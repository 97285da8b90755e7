package storage

import (
	"math"
	"sync"
	"sync/atomic"
)

// closeGuard counts the calls that are running and refuses new ones once it is closed.
// Unlike a read lock, a goroutine that has entered it can enter it again, and callers never wait
// for each other.
type closeGuard struct {
	users atomic.Int64 // with guardClosed added when it is closed
	empty sync.Once
	idle  chan struct{} // closed when it is closed and the last user has left
}

const guardClosed = math.MinInt64

func (g *closeGuard) enter() bool {
	if g.users.Add(1) > 0 {
		return true
	}
	g.exit()
	return false
}

func (g *closeGuard) exit() {
	if g.users.Add(-1) == guardClosed {
		g.empty.Do(func() { close(g.idle) })
	}
}

// close refuses new calls, and returns a channel that is closed once the last running call has
// left. It is called once.
func (g *closeGuard) close() (idle <-chan struct{}) {
	for {
		n := g.users.Load()
		if g.users.CompareAndSwap(n, n+1+guardClosed) { // it enters, so that it can be the last to leave
			g.exit()
			return g.idle
		}
	}
}
