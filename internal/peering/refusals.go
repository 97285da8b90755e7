package peering

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Refusals are the peers that refuse this node for good (ErrFenced). One of them alone may
// have met a copy of this node's disk, and so be wrong: its word is a problem, and not yet the
// end. The zero value is ready. Its methods may be called from any goroutine.
type Refusals struct {
	mu sync.Mutex // guards by
	by map[nexusraft.NodeID]error
}

// Add notes that a peer refuses this node with err, an ErrFenced. It returns what err says
// without what it is, and whether the refusal is news.
func (r *Refusals) Add(peer nexusraft.NodeID, err error) (why error, news bool) {
	why = err
	if _, after, found := strings.Cut(err.Error(), nexusraft.ErrFenced.Error()+": "); found {
		why = errors.New(after)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = make(map[nexusraft.NodeID]error)
	}
	_, known := r.by[peer]
	r.by[peer] = why
	return why, !known
}

// Remove notes that a peer accepts this node.
func (r *Refusals) Remove(peer nexusraft.NodeID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.by, peer)
}

// Final reports whether the voters that don't refuse this node, itself included if it is one,
// are too few for a quorum: whichever side is right, it can do nothing any more. Of a zone without
// voters, one that is not open yet, it can't be told.
func (r *Refusals) Final(m nexusraft.Membership) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	voters, left := 0, 0
	for _, x := range m.Members {
		if !x.Role.Voter() {
			continue
		}
		voters++
		if r.by[x.Node] == nil {
			left++
		}
	}
	return voters > 0 && left < voters/2+1
}

// ForgetLivesHint is the way out for a node that its peers refuse for good, and are wrong.
const ForgetLivesHint = "only if no directory was copied or put back, stop that peer and see nexus-raft member " +
	"forget-lives --help"

// Problem says which nodes refuse this one and what to do, "" if none does.
func (r *Refusals) Problem() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for peer, why := range r.by {
		return fmt.Sprintf("peer %v refuses this node for good, others don't: %v: two copies of its data directory may be "+
			"running: stop the stale one; or, %s",
			peer, why, ForgetLivesHint)
	}
	return ""
}
