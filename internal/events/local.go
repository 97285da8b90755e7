package events

import (
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// Topics of a node's own events.
const (
	topicLeader   = "leader"
	topicSync     = "sync"
	topicPeer     = "peer"
	topicHealth   = "health"
	topicSnapshot = "snapshot"
)

// Bounds of the events of its own that a node keeps, in memory.
const (
	maxLocalEvents     = 4096
	maxLocalEventBytes = 1 << 20
	maxProblemBytes    = 1 << 10
)

// Local is the log of a node's own events: its view of its zones and peers. The newest ones are kept,
// in memory, and numbered from 1 on in each incarnation. Its methods may be called from many
// goroutines, and none of them blocks.
type Local struct {
	clock       func() time.Time
	incarnation nexusraft.Incarnation
	news        Notifier

	mu     sync.Mutex // guards what follows
	events []nexusraft.Event
	bytes  int
	next   uint64
	peers  map[nexusraft.NodeID]bool // whether each is connected, as the last event of it says
	ended  bool
}

// NewLocal returns the empty log of a node's incarnation. clock tells the time of its events.
func NewLocal(clock func() time.Time, incarnation nexusraft.Incarnation) *Local {
	return &Local{clock: clock, incarnation: incarnation, next: 1, peers: make(map[nexusraft.NodeID]bool)}
}

// End has every subscription to the log end with ErrClosed.
func (l *Local) End() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.news.Notify()
}

// Changed returns a channel that is closed by the next event, or by End.
func (l *Local) Changed() <-chan struct{} { return l.news.Wait() }

// add appends an event, and drops the oldest ones that are over the bounds.
func (l *Local) add(zone nexusraft.ZoneID, topic, kind string, payload proto.Message) {
	data, err := proto.Marshal(payload)
	if err != nil {
		data = nil // texts are made valid before, so this has no way to happen
	}
	l.mu.Lock()
	l.addLocked(nexusraft.Event{Topic: topic, Type: kind, Payload: data, Zone: zone})
	l.mu.Unlock()
	l.news.Notify()
}

func (l *Local) addLocked(e nexusraft.Event) {
	e.Sequence, e.Time, e.Incarnation = l.next, l.clock(), l.incarnation
	l.next++
	l.events = append(l.events, e)
	l.bytes += localSize(e)
	drop := 0
	for len(l.events)-drop > maxLocalEvents || l.bytes > maxLocalEventBytes {
		l.bytes -= localSize(l.events[drop])
		l.events[drop] = nexusraft.Event{}
		drop++
	}
	l.events = l.events[drop:]
}

func localSize(e nexusraft.Event) int { return len(e.Topic) + len(e.Type) + len(e.Payload) }

// Leader says which replica of a zone leads it, by this node's view; replica 0 is none.
func (l *Local) Leader(
	zone nexusraft.ZoneID, node nexusraft.NodeID, replica nexusraft.ReplicaID, term nexusraft.Term,
) {
	kind := "elected"
	if replica == 0 {
		kind = "lost"
	}
	l.add(zone, topicLeader, kind, &pb.LeaderEvent{Node: uint64(node), Replica: uint64(replica), Term: uint64(term)})
}

// Sync says that the zone's leader, this node, has found it in another sync state.
func (l *Local) Sync(
	zone nexusraft.ZoneID, state nexusraft.SyncState, term nexusraft.Term, index nexusraft.Index,
) {
	l.add(zone, topicSync, string(state), &pb.SyncEvent{Term: uint64(term), Index: uint64(index)})
}

// Health says why the node is not healthy, or with "" that it is again.
func (l *Local) Health(problem string) {
	kind := "healthy"
	if problem != "" {
		kind = "unhealthy"
	}
	l.add(0, topicHealth, kind, &pb.HealthEvent{Problem: clipText(problem)})
}

// ZoneStopped says why a zone has stopped on this node, for good.
func (l *Local) ZoneStopped(zone nexusraft.ZoneID, problem string) {
	l.add(zone, topicHealth, "zone-stopped", &pb.HealthEvent{Problem: clipText(problem)})
}

// Peer says that a peer was connected or lost, unless the last event of it said so.
func (l *Local) Peer(node nexusraft.NodeID, address string, connected bool) {
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
	l.addLocked(nexusraft.Event{Topic: topicPeer, Type: kind, Payload: data})
	l.news.Notify()
}

// Snapshot says how a snapshot ended: one that was sent to a node, or with node 0 one that
// was installed here.
func (l *Local) Snapshot(
	zone nexusraft.ZoneID, node nexusraft.NodeID, index nexusraft.Index, term nexusraft.Term, err error,
) {
	kind, problem := "sent", ""
	switch {
	case err != nil:
		kind, problem = "failed", clipText(err.Error())
	case node == 0:
		kind = "installed"
	}
	l.add(zone, topicSnapshot, kind, &pb.SnapshotEvent{
		Node: uint64(node), Index: uint64(index), Term: uint64(term),
		Problem: problem,
	})
}

// clipText bounds a text and makes it what a proto string must be.
func clipText(s string) string { return strings.ToValidUTF8(s[:min(len(s), maxProblemBytes)], "?") }

// begin returns where a subscription begins: where it says, at what happens from now on, or,
// if it is of another incarnation, at the oldest event, after a gap.
func (l *Local) begin(s nexusraft.Subscription) nexusraft.EventBatch {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := nexusraft.EventBatch{Next: s.From, Incarnation: l.incarnation}
	if s.Incarnation != 0 && s.Incarnation != l.incarnation {
		b.Events, b.Next = []nexusraft.Event{l.gap()}, l.oldest()
	} else if s.From == 0 {
		b.Next = l.next
	}
	return b
}

func (l *Local) oldest() uint64 { return l.next - uint64(len(l.events)) }

// read returns what is wanted from next on, or a gap if that is gone; more is whether
// there may be more of it.
func (l *Local) read(s nexusraft.Subscription, next uint64) (b nexusraft.EventBatch, more bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b = nexusraft.EventBatch{Next: next, Incarnation: l.incarnation}
	if l.ended {
		return b, false, nexusraft.ErrClosed
	}
	if next > l.next {
		return b, false, system.NotYetPublished(next, l.next-1)
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
func (l *Local) gap() nexusraft.Event {
	return nexusraft.Event{
		Sequence: l.oldest() - 1, Topic: system.TopicGap, Type: system.TopicGap,
		Time: l.clock(), Incarnation: l.incarnation,
	}
}
