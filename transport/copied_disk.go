package transport

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// Opening is one opening of a data directory, the latest that was heard of a node. The zero
// value is none. A boot of 0 is unknown: it was not kept in earlier releases.
type Opening struct {
	Incarnation nexusraft.Incarnation `json:"incarnation"`
	Boot        nexusraft.Boot        `json:"boot,omitempty"`
}

// MaxEarlier is how many boots a node remembers. With a peer that has not met it for more
// openings than that, it is as a copy that was opened so often. Earlier releases remember and take
// recentEarlier: a handshake names the others apart, and no more than MaxEarlier.
const (
	MaxEarlier    = 1024
	recentEarlier = 256
)

// Opening returns the opening that a node speaks in.
func (id Identity) Opening() Opening { return Opening{Incarnation: id.Incarnation, Boot: id.Boot} }

// Check returns ErrFenced unless peer speaks in the opening o or in a later one (invariant I5): a
// lower incarnation has forgotten what it has acknowledged since, two openings with one number have
// happened to two copies, and so have two openings of which the later one does not remember the
// former.
func (o Opening) Check(peer Identity) error {
	switch {
	case peer.Incarnation < o.Incarnation:
		return fmt.Errorf("%w: node %v comes as incarnation %d and has been seen as incarnation %d: its data directory was "+
			"copied or rolled back",
			nexusraft.ErrFenced, peer.Node, peer.Incarnation, o.Incarnation)
	case peer.Incarnation == o.Incarnation && o.Boot != 0 && peer.Boot != o.Boot:
		return fmt.Errorf("%w: node %v comes as incarnation %d, and another opening of its data directory had that number "+
			"before: it was copied or rolled back",
			nexusraft.ErrFenced, peer.Node, peer.Incarnation)
	case !o.before(peer):
		return fmt.Errorf("%w: node %v comes as incarnation %d and knows nothing of its incarnation %d that has been seen: "+
			"its data directory was copied or rolled back",
			nexusraft.ErrFenced, peer.Node, peer.Incarnation, o.Incarnation)
	}
	return nil
}

// before reports whether peer, of a later incarnation, comes from the opening o, as far as it
// remembers.
func (o Opening) before(peer Identity) bool {
	ago := uint64(peer.Incarnation - o.Incarnation)
	switch {
	case ago == 0 || o.Boot == 0:
		return true
	case ago > uint64(len(peer.Earlier)): // it began to remember later, unless it has forgotten
		return len(peer.Earlier) < recentEarlier // as it may have in an earlier release
	}
	return peer.Earlier[ago-1] == o.Boot
}

// openings remembers the latest opening of each peer, and which of them are going on.
type openings struct {
	mu    sync.Mutex
	seen  map[nexusraft.NodeID]*sighting
	ended map[nexusraft.NodeID]error // nodes that never speak here again, and why
}

type sighting struct {
	Opening
	address string
	streams map[pb.Lane]*inbound // of this opening, those that are open
	heard   atomic.Int64         // when it last said something, in nanoseconds since the Unix epoch
}

// check refuses a peer that was seen in a later opening, and one that comes in a later opening
// while an earlier one still speaks from elsewhere. The second passes by itself, when that one's
// stream has broken. A peer that asks to join is no node's later opening.
func (n *openings) check(peer Identity) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.checkLocked(peer)
}

func (n *openings) checkLocked(peer Identity) error {
	if err := n.ended[peer.Node]; err != nil {
		return err
	}
	s := n.seen[peer.Node]
	if s == nil {
		return nil
	}
	if err := s.Check(peer); err != nil {
		return err
	}
	if peer.Cluster != 0 && peer.Incarnation > s.Incarnation && len(s.streams) > 0 && peer.Address != s.address {
		return refuse("node %v runs at %s as incarnation %d; a copy of its data directory must not run", peer.Node, s.address,
			s.Incarnation)
	}
	return nil
}

// record remembers a peer that was accepted.
func (n *openings) record(peer Identity) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.seen[peer.Node]
	switch {
	case n.seen == nil:
		n.seen = make(map[nexusraft.NodeID]*sighting)
		fallthrough
	case s == nil || s.Incarnation < peer.Incarnation:
		n.seen[peer.Node] = &sighting{Opening: peer.Opening(), address: peer.Address, streams: make(map[pb.Lane]*inbound)}
	case s.Incarnation == peer.Incarnation:
		s.address = peer.Address
	}
	n.seen[peer.Node].hear()
}

func (s *sighting) hear() { s.heard.Store(time.Now().UnixNano()) }

// heardOf returns when a node last said something, the zero time if it has not, and whether it
// speaks: it has a stream open, and has used it lately.
func (n *openings) heardOf(node nexusraft.NodeID) (at time.Time, speaks bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.seen[node]
	if s == nil {
		return time.Time{}, false
	}
	at = time.Unix(0, s.heard.Load())
	for _, in := range s.streams {
		speaks = speaks || time.Since(at) <= hearing || in.hello.GetMinor() == 0 // the first version sends no pings
	}
	return at, speaks
}

// speaks notes an open Exchange stream of a peer that was recorded, and greets it there, unless end
// has come first. Before is the stream whose place it takes, nil if none; end ends it.
func (n *openings) speaks(in *inbound, greet func() error) (before *inbound, end func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.ended[in.peer.Node]; err != nil {
		return nil, nil, refusalStatus(in.s.id(), in.hello, err)
	}
	if err := greet(); err != nil {
		return nil, nil, err
	}
	s := n.seen[in.peer.Node]
	before = s.streams[in.lane]
	if before != nil {
		close(before.replaced)
	}
	s.streams[in.lane] = in
	in.sighting = s
	return before, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if s.streams[in.lane] == in {
			delete(s.streams, in.lane)
		}
	}, nil
}

// end ends a node's open streams, and refuses it from now on.
func (n *openings) end(node nexusraft.NodeID, why error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended == nil {
		n.ended = make(map[nexusraft.NodeID]error)
	}
	n.ended[node] = why
	if s := n.seen[node]; s != nil {
		for _, in := range s.streams {
			signal(in.ended)
		}
	}
}
