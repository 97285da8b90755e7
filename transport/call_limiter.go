package transport

import (
	"sync"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// How many RequestVote calls are answered at once: of one node, which makes one at a time and
// may have given up others, and of all.
const (
	maxVoteCallsOfNode = 8
	maxVoteCalls       = 256
)

// How many questions to a leader are answered at once, of one node and of all, and for how long one may go on.
const (
	maxQuestionsOfNode = 32
	maxQuestions       = 128
	questionTimeout    = 10 * time.Second
)

// callLimiter counts the calls of a method that are under way. Its methods may be called from any goroutine.
type callLimiter struct {
	most, mostOfNode int

	mu    sync.Mutex
	total int
	of    map[nexusraft.NodeID]int // none is 0
}

func newCallLimiter(most, mostOfNode int) *callLimiter {
	return &callLimiter{most: most, mostOfNode: mostOfNode, of: make(map[nexusraft.NodeID]int)}
}

// enter reports whether a call may be answered; then leave must follow.
func (l *callLimiter) enter(node nexusraft.NodeID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.most || l.of[node] >= l.mostOfNode {
		return false
	}
	l.total++
	l.of[node]++
	return true
}

func (l *callLimiter) leave(node nexusraft.NodeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total--
	if l.of[node]--; l.of[node] == 0 {
		delete(l.of, node)
	}
}
