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
	w       *world
	packets map[int64][]packet // by the step at which they arrive
	blocked map[link]bool      // calls that can't be made

	minDelay    int // steps; 0 is 1
	maxDelay    int // steps; more than 1 reorders
	dropPercent int
	dupPercent  int
}

type link struct{ from, to *process }

func linkOf(from, to *node) link { return link{from.process, to.process} }

// packet is a message of a zone, a node's signal, or what a witness is told of the zones.
type packet struct {
	link
	call     link // the call that carries it
	src, dst *node
	message  []byte     // nil: it is none
	told     *toldZones // nil: it is none
	signal   zone.Signal
	data     [][]byte      // the state that belongs to a snapshot for a full replica
	arrived  func(ok bool) // for a snapshot: how its transfer ended; nil otherwise
}

func newNetwork(w *world) *network {
	return &network{w: w, packets: make(map[int64][]packet), blocked: make(map[link]bool), maxDelay: 2}
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
func (w *network) send(from, to *node, m *raftpb.Message) {
	raw, err := proto.Marshal(m)
	w.w.must(from, "marshal a message", err)
	l := linkOf(from, to)
	p := packet{link: l, call: callOf(l, m), src: from, dst: to, message: raw}
	if w.blocked[p.call] || w.w.percent(w.dropPercent) {
		if w.w.percent(30) {
			from.later(func(n *node) { n.r.ReportUnreachable(to.replica) })
		}
		return
	}
	w.soon(p)
}

// soon has a packet arrive, and sometimes once more.
func (w *network) soon(p packet) {
	w.put(p, w.w.between(max(1, w.minDelay), w.maxDelay))
	if w.w.percent(w.dupPercent) {
		w.put(p, w.w.between(max(1, w.minDelay), 10*w.maxDelay))
	}
}

// signal takes what a node says of itself. Its loss is not reported to anybody.
func (w *network) signal(l link, s zone.Signal) {
	if !w.blocked[l] && !w.w.percent(w.dropPercent) {
		w.soon(packet{link: l, call: l, signal: s})
	}
}

// tell takes what a member tells a witness of the zones.
func (w *network) tell(l link, t *toldZones) {
	if !w.blocked[l] && !w.w.percent(w.dropPercent) {
		w.soon(packet{link: l, call: l, told: t})
	}
}

// transfer takes a snapshot for a full replica: a message with data, slower than others,
// whose end is reported to its sender.
func (w *network) transfer(from, to *node, m *raftpb.Message, data [][]byte, arrived func(ok bool)) {
	raw, err := proto.Marshal(m)
	w.w.must(from, "marshal a snapshot", err)
	l := linkOf(from, to)
	p := packet{link: l, call: l, src: from, dst: to, message: raw, data: data, arrived: arrived}
	w.put(p, w.w.between(2, 4*tickSteps))
}

func (w *network) put(p packet, delay int) {
	at := w.w.now + int64(delay)
	w.packets[at] = append(w.packets[at], p)
}

// deliver hands over what arrives now.
func (w *network) deliver() {
	arriving := w.packets[w.w.now]
	delete(w.packets, w.w.now)
	for _, p := range arriving {
		ok := p.to.driver != nil && !w.blocked[p.call] && (p.dst == nil || p.dst.r != nil)
		if p.arrived != nil {
			ok = ok && !w.w.percent(2*w.dropPercent)
			p.arrived(ok)
		}
		if ok {
			p.to.inbox = append(p.to.inbox, p)
		}
	}
}
