package transport

import (
	"fmt"
	"net"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// Life is one opening of a data directory, the latest that was heard of a node. The zero
// value is none. A boot of 0 is unknown: it was not kept in earlier releases.
type Life struct {
	Incarnation nexusraft.Incarnation `json:"incarnation"`
	Boot        nexusraft.Boot        `json:"boot,omitempty"`
}

// maxEarlier is how many boots a node remembers. With a peer that has not met it for more
// openings than that, it is as a copy that was opened so often.
const maxEarlier = 256

// NewBoot returns boots, those of a data directory with the latest first, with a new one in
// front and as many as an Identity may name: what is to be stored when it is opened.
func NewBoot(boots []nexusraft.Boot) []nexusraft.Boot {
	all := append([]nexusraft.Boot{nexusraft.Boot(nexusraft.MintID())}, boots...)
	return all[:min(len(all), 1+maxEarlier)]
}

// LifeOf returns the life that a node speaks in.
func LifeOf(id Identity) Life { return Life{Incarnation: id.Incarnation, Boot: id.Boot} }

// Check returns ErrFenced unless peer speaks in the life l or in a later one (invariant
// I5): a lower incarnation has forgotten what it has acknowledged since, two openings
// with one number have happened to two copies, and so have two lives of which the later one
// does not remember the former.
func (l Life) Check(peer Identity) error {
	switch {
	case peer.Incarnation < l.Incarnation:
		return fmt.Errorf("%w: node %v comes as incarnation %d and has been seen as incarnation %d: its data directory was copied or rolled back",
			nexusraft.ErrFenced, peer.Node, peer.Incarnation, l.Incarnation)
	case peer.Incarnation == l.Incarnation && l.Boot != 0 && peer.Boot != l.Boot:
		return fmt.Errorf("%w: node %v comes as incarnation %d, and another opening of its data directory had that number before: it was copied or rolled back",
			nexusraft.ErrFenced, peer.Node, peer.Incarnation)
	case !l.before(peer):
		return fmt.Errorf("%w: node %v comes as incarnation %d and knows nothing of its incarnation %d that has been seen: its data directory was copied or rolled back",
			nexusraft.ErrFenced, peer.Node, peer.Incarnation, l.Incarnation)
	}
	return nil
}

// before reports whether peer, of a later incarnation, comes from the life l, as far as it
// remembers.
func (l Life) before(peer Identity) bool {
	ago := uint64(peer.Incarnation - l.Incarnation)
	switch {
	case ago == 0 || l.Boot == 0:
		return true
	case ago > uint64(len(peer.Earlier)): // it began to remember later, unless it has forgotten
		return len(peer.Earlier) < maxEarlier
	}
	return peer.Earlier[ago-1] == l.Boot
}

// lives remembers the latest life of each peer, and which of them are going on.
type lives struct {
	mu   sync.Mutex
	seen map[nexusraft.NodeID]*sighting
}

type sighting struct {
	Life
	address string
	streams map[pb.Lane]*inbound // of this life, those that are open
}

// check refuses a peer that was seen in a later life, and one that comes in a later life
// while an earlier one still speaks from elsewhere. The second passes by itself, when that
// one's stream has broken. A peer that asks to join is nobody's later life.
func (n *lives) check(peer Identity) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.seen[peer.Node]
	if s == nil {
		return nil
	}
	if err := s.Check(peer); err != nil {
		return err
	}
	if peer.Cluster != 0 && peer.Incarnation > s.Incarnation && len(s.streams) > 0 && peer.Address != s.address {
		return refuse("node %v runs at %s as incarnation %d; a copy of its data directory must not run", peer.Node, s.address, s.Incarnation)
	}
	return nil
}

// record remembers a peer that was accepted.
func (n *lives) record(peer Identity) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.seen[peer.Node]
	switch {
	case n.seen == nil:
		n.seen = make(map[nexusraft.NodeID]*sighting)
		fallthrough
	case s == nil || s.Incarnation < peer.Incarnation:
		n.seen[peer.Node] = &sighting{Life: LifeOf(peer), address: peer.Address, streams: make(map[pb.Lane]*inbound)}
	case s.Incarnation == peer.Incarnation:
		s.address = peer.Address
	}
}

// speaks notes an open Exchange stream of a peer that was recorded, and greets it there, before
// greetAgain can. Before is the stream whose place it takes, nil if none; end ends it.
func (n *lives) speaks(in *inbound, greet func() error) (before *inbound, end func(), err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := greet(); err != nil {
		return nil, nil, err
	}
	s := n.seen[in.peer.Node]
	before = s.streams[in.lane]
	if before != nil {
		close(before.replaced)
	}
	s.streams[in.lane] = in
	return before, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if s.streams[in.lane] == in {
			delete(s.streams, in.lane)
		}
	}, nil
}

// greetAgain has a node shake hands anew on its open streams.
func (n *lives) greetAgain(node nexusraft.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.seen[node]; s != nil {
		for _, in := range s.streams {
			signal(in.again)
		}
	}
}

// SameAddress reports whether two endpoints lead to the same socket, as far as their
// spelling tells.
func SameAddress(a, b string) bool {
	a, _, errA := parseEndpoint(a)
	b, _, errB := parseEndpoint(b)
	if errA != nil || errB != nil {
		return false
	}
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	return portA == portB && (hostA == hostB || isLocal(hostA) && isLocal(hostB))
}

// isLocal reports whether a host can only be this machine.
func isLocal(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || host == "" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
}
