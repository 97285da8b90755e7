package gate

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// maxHeldEntries bounds one stripped append: some 12 bytes each on the wire.
const maxHeldEntries = 8192

// held is what raft has sent to one witness and the gate has not let go yet: one span of
// the log, as runs of equal term. Its size grows with terms and conf changes, not writes.
//
// raft sends to a replica either right behind what it sent before, or from a place where
// it believes the replica to be; in the second case the span begins anew, which raft sees
// as the loss of the earlier messages.
type held struct {
	from, to uint64 // replicas; term of the leader
	term     uint64

	prev     nexusraft.Index // the entry before the span, which the witness must have
	prevTerm uint64
	last     nexusraft.Index // the end of the span; last == prev: empty
	runs     []heldRun       // ascending; together they cover (prev, last]
	conf     []*raftpb.Entry // the conf changes in the span, whole
	probe    bool            // raft wants an answer even if there is nothing to send
}

// heldRun is a run of entries of one term that ends at last.
type heldRun struct {
	term uint64
	last nexusraft.Index
}

// valid returns what is wrong with the span, nil if nothing is.
func (h *held) valid() error {
	at := h.prev
	for _, r := range h.runs {
		if r.last <= at {
			return fmt.Errorf("a run ends at %d, the one before it at %d", r.last, at)
		}
		at = r.last
	}
	if at != h.last {
		return fmt.Errorf("the runs end at %d, the span at %d", at, h.last)
	}
	at = h.prev
	for _, e := range h.conf {
		if index := nexusraft.Index(e.GetIndex()); index <= at || index > h.last {
			return fmt.Errorf("a conf change at %d, behind %d, in a span that ends at %d", index, at, h.last)
		}
		at = nexusraft.Index(e.GetIndex())
	}
	return nil
}

// add takes over an append that raft has made. Nothing of it is kept but terms and conf
// changes: its entries share the memory of the leader's log.
func (h *held) add(m *raftpb.Message) {
	if index := nexusraft.Index(m.GetIndex()); h.term != m.GetTerm() || index != h.last {
		*h = held{prev: index, prevTerm: m.GetLogTerm(), last: index}
	}
	h.from, h.to, h.term = m.GetFrom(), m.GetTo(), m.GetTerm()
	if len(m.GetEntries()) == 0 {
		h.probe = true
	}
	for _, e := range m.GetEntries() {
		h.last = nexusraft.Index(e.GetIndex())
		if n := len(h.runs); n > 0 && h.runs[n-1].term == e.GetTerm() {
			h.runs[n-1].last = h.last
		} else {
			h.runs = append(h.runs, heldRun{e.GetTerm(), h.last})
		}
		if e.GetType() != raftpb.EntryNormal {
			h.conf = append(h.conf, proto.Clone(e).(*raftpb.Entry))
		}
	}
}

// take returns the next append up to limit, or nil if nothing may leave, and moves the
// span's beginning behind it.
func (h *held) take(limit, commit nexusraft.Index) *raftpb.Message {
	end := min(h.last, limit, h.prev+maxHeldEntries)
	if end < h.prev || end == h.prev && !h.probe {
		return nil
	}
	m := &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: new(h.from), To: new(h.to), Term: new(h.term),
		Index: new(uint64(h.prev)), LogTerm: new(h.prevTerm), Commit: new(uint64(commit)),
	}
	for h.prev < end {
		m.Entries = append(m.Entries, h.next())
	}
	h.probe = false
	return m
}

// heartbeat asks the witness for an answer, and shows it nothing of the log.
func (h *held) heartbeat() *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: new(h.from), To: new(h.to), Term: new(h.term),
		Commit: new(uint64(0)),
	}
}

// next takes the first entry off the span, stripped.
func (h *held) next() *raftpb.Entry {
	h.prev++
	h.prevTerm = h.runs[0].term
	if h.runs[0].last == h.prev {
		h.runs = h.runs[1:]
	}
	if len(h.conf) > 0 && nexusraft.Index(h.conf[0].GetIndex()) == h.prev {
		e := h.conf[0]
		h.conf = h.conf[1:]
		return e
	}
	return &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: new(h.prevTerm), Index: new(uint64(h.prev))}
}
