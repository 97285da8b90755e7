package simtest

import (
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// network carries messages as bytes, so that nodes share no memory. It delays, drops,
// doubles and reorders them, and blocks links, each direction for itself.
//
// A link is the way of a call, as in package transport: a node sends on streams that it has
// opened itself, and the answer to a vote request comes back on the call that asked for it. A
// blocked link a to b stops a's messages and the answers to a's vote requests, and nothing of b's.
type network struct {
	s       *sim
	packets map[int64][]packet // by the step at which they arrive
	blocked map[link]bool      // calls that can't be made

	minDelay    int // steps; 0 is 1
	maxDelay    int // steps; more than 1 reorders
	dropPercent int
	dupPercent  int
}

type link struct{ from, to *node }

type packet struct {
	link
	call    link          // the call that carries it
	message []byte        // nil: a signal
	signal  zone.Signal   // of the sender's node
	data    [][]byte      // the state that belongs to a snapshot for a full replica
	arrived func(ok bool) // for a snapshot: how its transfer ended; nil otherwise
}

func newNetwork(s *sim) *network {
	return &network{s: s, packets: make(map[int64][]packet), blocked: make(map[link]bool), maxDelay: 2}
}

// heal makes the network good. What is under way stays under way.
func (w *network) heal() {
	clear(w.blocked)
	w.minDelay, w.maxDelay, w.dropPercent, w.dupPercent = 0, 2, 0, 0
}

// callOf returns the call that carries a message: the sender's, unless it answers a vote request.
func callOf(l link, m *raftpb.Message) link {
	switch m.GetType() {
	case raftpb.MsgVoteResp, raftpb.MsgPreVoteResp:
		return link{l.to, l.from}
	}
	return l
}

// send takes a message. Its sender sometimes learns that it was lost, as it would from a
// broken stream.
func (w *network) send(l link, m *raftpb.Message) {
	raw, err := proto.Marshal(m)
	w.s.must(l.from, "marshal a message", err)
	p := packet{link: l, call: callOf(l, m), message: raw}
	if w.blocked[p.call] || w.s.percent(w.dropPercent) {
		if w.s.percent(30) {
			l.from.later(func(n *node) { n.r.ReportUnreachable(l.to.replica) })
		}
		return
	}
	w.put(p, w.s.between(max(1, w.minDelay), w.maxDelay))
	if w.s.percent(w.dupPercent) {
		w.put(p, w.s.between(max(1, w.minDelay), 10*w.maxDelay))
	}
}

// signal takes what a node says of itself. Its loss is not reported to anybody.
func (w *network) signal(l link, s zone.Signal) {
	if w.blocked[l] || w.s.percent(w.dropPercent) {
		return
	}
	p := packet{link: l, call: l, signal: s}
	w.put(p, w.s.between(max(1, w.minDelay), w.maxDelay))
	if w.s.percent(w.dupPercent) {
		w.put(p, w.s.between(max(1, w.minDelay), 10*w.maxDelay))
	}
}

// transfer takes a snapshot for a full replica: a message with data, slower than others,
// whose end is reported to its sender.
func (w *network) transfer(l link, m *raftpb.Message, data [][]byte, arrived func(ok bool)) {
	raw, err := proto.Marshal(m)
	w.s.must(l.from, "marshal a snapshot", err)
	w.put(packet{link: l, call: l, message: raw, data: data, arrived: arrived}, w.s.between(2, 4*tickSteps))
}

func (w *network) put(p packet, delay int) {
	at := w.s.now + int64(delay)
	w.packets[at] = append(w.packets[at], p)
}

// deliver hands over what arrives now.
func (w *network) deliver() {
	arriving := w.packets[w.s.now]
	delete(w.packets, w.s.now)
	for _, p := range arriving {
		ok := p.to.r != nil && !w.blocked[p.call]
		if p.arrived != nil {
			ok = ok && !w.s.percent(2*w.dropPercent)
			p.arrived(ok)
		}
		if ok {
			p.to.inbox = append(p.to.inbox, p)
		}
	}
}
