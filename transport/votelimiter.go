package transport

import (
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// How many RequestVote calls are answered at once: of one node, which makes one at a time and
// may have given up others, and of all.
const (
	maxVoteCallsOfNode = 8
	maxVoteCalls       = 256
)

// voteLimiter counts RequestVote calls. The zero value is open. Its methods may be called from
// any goroutine.
type voteLimiter struct {
	mu    sync.Mutex
	total int
	of    map[nexusraft.NodeID]int // none is 0
}

// enter reports whether a call may be answered; then leave must follow.
func (l *voteLimiter) enter(node nexusraft.NodeID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxVoteCalls || l.of[node] >= maxVoteCallsOfNode {
		return false
	}
	if l.of == nil {
		l.of = make(map[nexusraft.NodeID]int)
	}
	l.total++
	l.of[node]++
	return true
}

func (l *voteLimiter) leave(node nexusraft.NodeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.of[node]--; l.of[node] == 0 {
		delete(l.of, node)
	}
}
