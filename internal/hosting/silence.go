package hosting

import (
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// silence is for how long nodes have been silent, counted in looks of one leadership of the root zone. Times that
// nobody has looked at don't count: after a leader was stopped, or elected, all others may seem to have been silent for
// long, as it has not heard of them itself. The registry's Tend alone uses it.
type silence struct {
	term nexusraft.Term // of the leadership
	at   time.Time      // of its last look
	seen map[nexusraft.NodeID]time.Duration
}

const (
	// lookCounts is what a look counts for at most: so a node is lost after three of them at the least, as SpareAfter
	// is silentAfter or more.
	lookCounts = 2 * housekeeping

	// maxPause is beyond what lies between two looks of a node that was not stopped: their calls have deadlines.
	maxPause = 30 * time.Second
)

// look takes over for how long nodes are silent now. A node that was heard of since the last look begins anew, and so
// do all of them in another leadership and after a pause.
func (s *silence) look(term nexusraft.Term, silent map[nexusraft.NodeID]time.Duration) {
	gap := time.Since(s.at)
	if term != s.term || gap > maxPause {
		gap, s.seen = 0, nil
	}
	seen := make(map[nexusraft.NodeID]time.Duration)
	for node, d := range silent {
		if d >= gap {
			seen[node] = s.seen[node] + min(gap, lookCounts)
		}
	}
	s.term, s.at, s.seen = term, time.Now(), seen
}

// lost returns the nodes that have been silent for so long.
func (s *silence) lost(least time.Duration) map[nexusraft.NodeID]bool {
	lost := make(map[nexusraft.NodeID]bool)
	for node, d := range s.seen {
		if d >= least {
			lost[node] = true
		}
	}
	return lost
}
