package node

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Bounds of what waits for the worker.
const (
	maxInboxMessages      = 16 << 10 // beyond it Raft messages are dropped and counted: Raft resends
	maxInboxMessageBytes  = 64 << 20
	maxInboxProposals     = 16 << 10 // beyond it proposals get ErrOverloaded, before they are appended
	maxInboxProposalBytes = 64 << 20
	maxInboxCalls         = 16 << 10 // beyond it reads and questions get ErrOverloaded
)

// inbox is the only way to a worker. Putting never blocks.
type inbox struct {
	wake chan struct{} // has room for one: something was put

	mu            sync.Mutex // guards what follows
	closed        bool
	messages      []inbound
	messageBytes  int
	dropped       uint64
	proposals     []*proposal
	proposalBytes int
	calls         []func(error)
}

// inbound is a Raft message on its way in.
type inbound struct {
	zone    nexusraft.ZoneID
	from    nexusraft.NodeID
	message *raftpb.Message
	size    int
	vote    *voteSlot // where the answer to a vote request goes; nil for all others
	staged  *staged   // the state that a MsgSnap announces; nil for all others
}

// waiting is everything that was in an inbox at one moment.
type waiting struct {
	messages  []inbound
	proposals []*proposal
	calls     []func(error)
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

// putMessages reports how many of ms, in order, were taken.
func (b *inbox) putMessages(ms []inbound) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, m := range ms {
		if b.closed || len(b.messages) >= maxInboxMessages || b.messageBytes+m.size > maxInboxMessageBytes {
			b.dropped += uint64(len(ms) - i)
			return i
		}
		b.messages = append(b.messages, m)
		b.messageBytes += m.size
	}
	b.signal()
	return len(ms)
}

func (b *inbox) isClosed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closed
}

func (b *inbox) putProposal(p *proposal) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nexusraft.ErrClosed
	}
	if len(b.proposals) >= maxInboxProposals || b.proposalBytes+len(p.command) > maxInboxProposalBytes {
		return nexusraft.ErrOverloaded
	}
	b.proposals = append(b.proposals, p)
	b.proposalBytes += len(p.command)
	b.signal()
	return nil
}

// putCall has the worker run f with nil, or with the error that the worker ended with.
func (b *inbox) putCall(f func(error)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nexusraft.ErrClosed
	}
	if len(b.calls) >= maxInboxCalls {
		return nexusraft.ErrOverloaded
	}
	b.calls = append(b.calls, f)
	b.signal()
	return nil
}

// putEvent is putCall for what must not get lost, such as the end of a snapshot; there
// are few of them, each bounded where it is started.
func (b *inbox) putEvent(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.calls = append(b.calls, func(err error) {
		if err == nil {
			f()
		}
	})
	b.signal()
}

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// take empties the inbox.
func (b *inbox) take() waiting {
	b.mu.Lock()
	defer b.mu.Unlock()
	w := waiting{b.messages, b.proposals, b.calls}
	b.messages, b.proposals, b.calls = nil, nil, nil
	b.messageBytes, b.proposalBytes = 0, 0
	return w
}

// close refuses everything from now on and returns what was still waiting.
func (b *inbox) close() waiting {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	return b.take()
}
