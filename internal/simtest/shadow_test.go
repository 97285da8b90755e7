package simtest

import (
	"fmt"

	"go.etcd.io/raft/v3"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// shadow is the oracle's own idea of what a node has stored, made from its Work alone. It
// is compared with the real log at each restart.
type shadow struct {
	staged  stored // with the round that is being written
	written stored // what a round has written, synced or not
	durable stored // what a crash leaves
	torn    bool   // the last crash came in a write: staged may be what it left
}

// stored is hard state and log, the latter never compacted but by a snapshot.
type stored struct {
	term      nexusraft.Term
	vote      nexusraft.ReplicaID
	commit    nexusraft.Index
	applied   nexusraft.Index
	compacted nexusraft.Index
	first     nexusraft.Term   // of compacted
	terms     []nexusraft.Term // of the entries above compacted
}

func (v stored) last() nexusraft.Index { return v.compacted + nexusraft.Index(len(v.terms)) }

// holds reports whether the entry is there, in the log or below it.
func (v stored) holds(index nexusraft.Index, term nexusraft.Term) bool {
	return index <= v.last() && (index < v.compacted || v.at(index) == term)
}

// at returns the term of an entry of [compacted, last].
func (v stored) at(index nexusraft.Index) nexusraft.Term {
	if index == v.compacted {
		return v.first
	}
	return v.terms[index-v.compacted-1]
}

// matches returns the last index up to which the log is the same as another one.
func (v stored) matches(other stored) nexusraft.Index {
	i := min(v.last(), other.last())
	for i > v.compacted && i > other.compacted && v.at(i) != other.at(i) {
		i--
	}
	return i
}

func (h *shadow) begin(o origin) {
	h.durable = stored{term: o.term, commit: o.index, applied: o.index, compacted: o.index, first: o.term}
	h.written, h.staged = h.durable, h.durable
}

// stage takes over a round's work, but for what it applies.
func (h *shadow) stage(w *zone.Work) {
	v := &h.staged
	if s := w.Snapshot.GetMetadata(); w.Snapshot != nil {
		v.compacted, v.first, v.terms = nexusraft.Index(s.GetIndex()), nexusraft.Term(s.GetTerm()), nil
		v.applied = v.compacted
	}
	for _, e := range w.Append {
		// Clipped, because written and durable share the array.
		if keep := int(nexusraft.Index(e.GetIndex()) - v.compacted - 1); keep < len(v.terms) {
			v.terms = v.terms[:keep:keep]
		}
		v.terms = append(v.terms, nexusraft.Term(e.GetTerm()))
	}
	if hs := w.HardState; hs != nil {
		v.term, v.vote, v.commit = nexusraft.Term(hs.GetTerm()), nexusraft.ReplicaID(hs.GetVote()),
			nexusraft.Index(hs.GetCommit())
	}
}

// apply takes over what a part of the round has applied.
func (h *shadow) apply(committed []zone.Committed) {
	if k := len(committed); k > 0 {
		h.staged.applied = committed[k-1].Index
	}
}

func (h *shadow) commit(sync bool) {
	h.written = h.staged
	if sync {
		h.sync()
	}
}

func (h *shadow) sync() { h.durable = h.written }

// crash forgets what is not synced. A write under way that a member has kept is known to
// be there; of a witness's, only the disk can say.
func (h *shadow) crash(n *node, kept bool) {
	h.torn = kept && n.witness
	if kept && !n.witness {
		h.durable = h.staged
	}
	h.written = h.durable
	if !h.torn {
		h.staged = h.durable
	}
}

// reopen compares with the log that a restart has found.
func (h *shadow) reopen(log raft.Storage) error {
	err := h.durable.compare(log)
	if err != nil && h.torn && h.staged.compare(log) == nil {
		h.durable, err = h.staged, nil
	}
	h.torn, h.staged, h.written = false, h.durable, h.durable
	return err
}

// compare returns how a log differs.
func (v stored) compare(log raft.Storage) error {
	hs, _, err := log.InitialState()
	if err != nil {
		return err
	}
	if hs.GetTerm() != uint64(v.term) || hs.GetVote() != uint64(v.vote) || hs.GetCommit() != uint64(v.commit) {
		return fmt.Errorf("hard state %v, want term %d, vote %x, commit %d", hs, v.term, uint64(v.vote), v.commit)
	}
	first, err := log.FirstIndex()
	if err != nil {
		return err
	}
	last, err := log.LastIndex()
	if err != nil {
		return err
	}
	if last != uint64(v.last()) || first > last+1 {
		return fmt.Errorf("log [%d, %d], want an end at %d", first, last, v.last())
	}
	for i := max(first-1, uint64(v.compacted)); i <= last; i++ {
		term, err := log.Term(i)
		if err != nil || term != uint64(v.at(nexusraft.Index(i))) {
			return fmt.Errorf("entry %d has term %d (%v), want %d", i, term, err, v.at(nexusraft.Index(i)))
		}
	}
	return nil
}
