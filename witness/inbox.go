package witness

import (
	"sync"

	pb "go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Bounds of what waits for the worker.
const (
	maxInboxMessages = 16 << 10 // beyond it messages are dropped: Raft sends again
	maxInboxBytes    = 32 << 20
	maxInboxCalls    = 1 << 10 // beyond it calls are refused
)

// inbound is a Raft message on its way to the worker.
type inbound struct {
	zone    nexusraft.ZoneID
	from    nexusraft.NodeID
	message *pb.Message
	size    int       // bytes
	vote    *voteSlot // of a vote request; nil otherwise
}

// inbox is the only way to the worker. Putting never blocks; it may be done from many
// goroutines.
type inbox struct {
	wake chan struct{} // has room for one: something was put

	mu       sync.Mutex // guards what follows
	messages []inbound
	bytes    int
	calls    []func()
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

// put takes messages in order and returns how many found room.
func (b *inbox) put(in []inbound) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, m := range in {
		if len(b.messages) >= maxInboxMessages || b.bytes+m.size > maxInboxBytes {
			return i
		}
		b.messages = append(b.messages, m)
		b.bytes += m.size
		b.ring()
	}
	return len(in)
}

// call has the worker run f; it returns false if there is no room.
func (b *inbox) call(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.calls) >= maxInboxCalls {
		return false
	}
	b.calls = append(b.calls, f)
	b.ring()
	return true
}

func (b *inbox) ring() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox.
func (b *inbox) take() (messages []inbound, calls []func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	messages, calls = b.messages, b.calls
	b.messages, b.calls, b.bytes = nil, nil, 0
	return messages, calls
}
