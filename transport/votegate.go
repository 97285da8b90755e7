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

// voteGate counts RequestVote calls. The zero value is open. Its methods may be called from
// any goroutine.
type voteGate struct {
	mu    sync.Mutex
	total int
	of    map[nexusraft.NodeID]int // none is 0
}

// enter reports whether a call may be answered; then leave must follow.
func (g *voteGate) enter(node nexusraft.NodeID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= maxVoteCalls || g.of[node] >= maxVoteCallsOfNode {
		return false
	}
	if g.of == nil {
		g.of = make(map[nexusraft.NodeID]int)
	}
	g.total++
	g.of[node]++
	return true
}

func (g *voteGate) leave(node nexusraft.NodeID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total--
	if g.of[node]--; g.of[node] == 0 {
		delete(g.of, node)
	}
}
