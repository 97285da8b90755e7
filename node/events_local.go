package node

import (
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Topics of a node's own events.
const (
	topicLeader   = "leader"
	topicSync     = "sync"
	topicPeer     = "peer"
	topicHealth   = "health"
	topicSnapshot = "snapshot"
	topicGap      = "gap" // and the type
)

// Bounds of the events of its own that a node keeps, in memory.
const (
	maxLocalEvents     = 4096
	maxLocalEventBytes = 1 << 20
	maxProblemBytes    = 1 << 10
)

// localEvents are a node's own events: its view of its zones and peers. They are kept in
// memory, the newest ones, and numbered from 1 on in each incarnation. Its methods may be
// called from many goroutines, and none of them blocks.
type localEvents struct {
	clock       func() time.Time
	incarnation nexusraft.Incarnation
	bell        bell

	mu     sync.Mutex // guards what follows
	events []transport.Event
	bytes  int
	next   uint64
	peers  map[nexusraft.NodeID]bool // who is connected, as was last told
	ended  bool
}

func newLocalEvents(clock func() time.Time, incarnation nexusraft.Incarnation) *localEvents {
	return &localEvents{clock: clock, incarnation: incarnation, next: 1, peers: make(map[nexusraft.NodeID]bool)}
}

// end lets every subscription end.
func (l *localEvents) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.bell.ring()
}

// add appends an event, and drops the oldest ones that are over the bounds.
func (l *localEvents) add(zone nexusraft.ZoneID, topic, kind string, payload proto.Message) {
	data, err := proto.Marshal(payload)
	if err != nil {
		data = nil // texts are made valid before, so this has no way to happen
	}
	l.mu.Lock()
	l.addLocked(transport.Event{Topic: topic, Type: kind, Payload: data, Zone: zone})
	l.mu.Unlock()
	l.bell.ring()
}

func (l *localEvents) addLocked(e transport.Event) {
	e.Sequence, e.Time, e.Incarnation = l.next, l.clock(), l.incarnation
	l.next++
	l.events = append(l.events, e)
	l.bytes += localSize(e)
	drop := 0
	for len(l.events)-drop > maxLocalEvents || l.bytes > maxLocalEventBytes {
		l.bytes -= localSize(l.events[drop])
		l.events[drop] = transport.Event{}
		drop++
	}
	l.events = l.events[drop:]
}

func localSize(e transport.Event) int { return len(e.Topic) + len(e.Type) + len(e.Payload) }

// leader tells whom a replica takes for its leader.
func (l *localEvents) leader(zone nexusraft.ZoneID, node nexusraft.NodeID, replica nexusraft.ReplicaID, term nexusraft.Term) {
	kind := "elected"
	if replica == 0 {
		kind = "lost"
	}
	l.add(zone, topicLeader, kind, &pb.LeaderEvent{Node: uint64(node), Replica: uint64(replica), Term: uint64(term)})
}

func (l *localEvents) sync(zone nexusraft.ZoneID, state nexusraft.SyncState, term nexusraft.Term, index nexusraft.Index) {
	l.add(zone, topicSync, string(state), &pb.SyncEvent{Term: uint64(term), Index: uint64(index)})
}

func (l *localEvents) health(problem string) {
	kind := "healthy"
	if problem != "" {
		kind = "unhealthy"
	}
	l.add(0, topicHealth, kind, &pb.HealthEvent{Problem: clipText(problem)})
}

// peer tells that a peer was connected or lost, if that is news.
func (l *localEvents) peer(node nexusraft.NodeID, address string, connected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before, known := l.peers[node]
	if known && before == connected || !known && !connected {
		return
	}
	l.peers[node] = connected
	kind := "lost"
	if connected {
		kind = "connected"
	}
	data, err := proto.Marshal(&pb.PeerEvent{Node: uint64(node), Address: clipText(address)})
	if err != nil {
		data = nil // as in add
	}
	l.addLocked(transport.Event{Topic: topicPeer, Type: kind, Payload: data})
	l.bell.ring()
}

// snapshot tells how a snapshot ended: one that was sent to a node, or with node 0 one that
// was installed here.
func (l *localEvents) snapshot(zone nexusraft.ZoneID, node nexusraft.NodeID, index nexusraft.Index, term nexusraft.Term, err error) {
	kind, problem := "sent", ""
	switch {
	case err != nil:
		kind, problem = "failed", clipText(err.Error())
	case node == 0:
		kind = "installed"
	}
	l.add(zone, topicSnapshot, kind, &pb.SnapshotEvent{Node: uint64(node), Index: uint64(index), Term: uint64(term), Problem: problem})
}

// clipText bounds a text and makes it what a proto string must be.
func clipText(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxProblemBytes)], "?") }

// begin returns where a subscription begins: where it says, at what happens from now on, or,
// if it is of another incarnation, at the oldest event, after a gap.
func (l *localEvents) begin(s transport.Subscription) transport.EventBatch {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := transport.EventBatch{Next: s.From, Incarnation: l.incarnation}
	if s.Incarnation != 0 && s.Incarnation != l.incarnation {
		b.Events, b.Next = []transport.Event{l.gap()}, l.oldest()
	} else if s.From == 0 {
		b.Next = l.next
	}
	return b
}

func (l *localEvents) oldest() uint64 { return l.next - uint64(len(l.events)) }

// read returns what is wanted from next on, or a gap if that is gone; more is whether
// there may be more of it.
func (l *localEvents) read(s transport.Subscription, next uint64) (b transport.EventBatch, more bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b = transport.EventBatch{Next: next, Incarnation: l.incarnation}
	if l.ended {
		return b, false, nexusraft.ErrClosed
	}
	if next > l.next {
		return b, false, notYetPublished(next, l.next-1)
	}
	if oldest := l.oldest(); next < oldest {
		b.Events = append(b.Events, l.gap())
		b.Next = oldest
	}
	for _, e := range l.events[b.Next-l.oldest():] {
		if len(b.Events) >= batchEvents {
			return b, true, nil
		}
		b.Next++
		if s.Wants(e.Topic, e.Type) {
			b.Events = append(b.Events, e)
		}
	}
	return b, false, nil
}

// gap stands for all events before the oldest one.
func (l *localEvents) gap() transport.Event {
	return transport.Event{
		Sequence: l.oldest() - 1, Topic: topicGap, Type: topicGap,
		Time: l.clock(), Incarnation: l.incarnation,
	}
}
