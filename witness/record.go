package witness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// Origin says whose log it is; it never changes.
type Origin struct {
	Cluster nexusraft.ClusterID `json:"cluster"`
	Node    nexusraft.NodeID    `json:"node"`
	Zone    nexusraft.ZoneID    `json:"zone"`
	Replica nexusraft.ReplicaID `json:"replica"`
}

// record is all that a witness keeps of a zone, and its stored form in slots, JSON; in the journal it is a
// pb.WitnessRecord.
//
// Its entries are those of (Applied, Last]. They have no payload, so a run of equal term
// takes as much space as one entry: Runs are ascending in both fields, each reaches to the
// next one, and together they cover the entries.
//
// A record is a value: what slices and pointers lead to is replaced, never changed.
type record struct {
	Origin

	Term   nexusraft.Term      `json:"term"`
	Vote   nexusraft.ReplicaID `json:"vote"`
	Commit nexusraft.Index     `json:"commit"` // Applied <= Commit <= Last (I2)

	Applied     nexusraft.Index `json:"applied"` // the log is compacted up to here
	AppliedTerm nexusraft.Term  `json:"applied_term"`
	Last        nexusraft.Index `json:"last"`
	Runs        []run           `json:"runs,omitempty"`
	ConfChanges []confEntry     `json:"conf_changes,omitempty"` // ascending by index

	// As of Applied.
	ConfState  confState            `json:"conf_state"`
	Membership nexusraft.Membership `json:"membership"`
}

// run says that from First on entries are of Term.
type run struct {
	Term  nexusraft.Term  `json:"term"`
	First nexusraft.Index `json:"first"`
}

// confEntry is a conf change that is not applied yet: what must be kept whole.
type confEntry struct {
	Index nexusraft.Index `json:"index"`
	Type  int32           `json:"type"`
	Data  []byte          `json:"data"`
}

// confState is Raft's, in a form of our own.
type confState struct {
	Voters         []nexusraft.ReplicaID `json:"voters"`
	Learners       []nexusraft.ReplicaID `json:"learners,omitempty"`
	VotersOutgoing []nexusraft.ReplicaID `json:"voters_outgoing,omitempty"`
	LearnersNext   []nexusraft.ReplicaID `json:"learners_next,omitempty"`
	AutoLeave      bool                  `json:"auto_leave,omitempty"`
}

// foundingRecord is what a voter that a zone begins with has.
func foundingRecord(o Origin, m nexusraft.Membership) record {
	hs, cs := zone.FoundingState(m)
	return record{
		Origin: o, Membership: m, ConfState: confStateOf(cs),
		Term: nexusraft.Term(hs.GetTerm()), Commit: nexusraft.Index(hs.GetCommit()),
		Applied: zone.FoundingIndex, AppliedTerm: zone.FoundingTerm, Last: zone.FoundingIndex,
	}
}

func (r record) encode() ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the record of zone %v: %w", r.Zone, err)
	}
	return b, nil
}

// decodeRecord reads what encode or compactForm wrote. It returns ErrCorrupt for anything else.
func decodeRecord(b []byte) (record, error) {
	var r record
	if len(b) > maxContentBytes {
		return r, fmt.Errorf("%w: record of %d bytes, limit %d", nexusraft.ErrCorrupt, len(b), maxContentBytes)
	}
	var err error
	if bytes.HasPrefix(b, []byte("{")) { // a field of a type that a pb.WitnessRecord has not
		err = json.Unmarshal(b, &r)
	} else {
		r, err = recordOf(b)
	}
	if err != nil {
		return record{}, fmt.Errorf("%w: record: %w", nexusraft.ErrCorrupt, err)
	}
	if err := r.valid(); err != nil {
		return record{}, fmt.Errorf("%w: record of zone %v: %w", nexusraft.ErrCorrupt, r.Zone, err)
	}
	return r, nil
}

// valid returns what does not fit together, all at once.
func (r record) valid() error {
	var errs []error
	if r.Cluster == 0 || r.Node == 0 || r.Zone == 0 || r.Replica == 0 {
		errs = append(errs, errors.New("cluster, node, zone and replica are not all known"))
	}
	if r.Applied > r.Commit || r.Commit > r.Last {
		errs = append(errs, fmt.Errorf("applied %d <= commit %d <= last %d does not hold", r.Applied, r.Commit, r.Last))
	}
	if (r.AppliedTerm == 0) != (r.Applied == 0) {
		errs = append(errs, fmt.Errorf("entry %d has term %d", r.Applied, r.AppliedTerm))
	}
	if last := r.lastTerm(); last > r.Term {
		errs = append(errs, fmt.Errorf("the last entry's term %d is above the current one, %d", last, r.Term))
	}
	errs = append(errs, r.validRuns(), r.validConfChanges(), r.Membership.Validate())
	return errors.Join(errs...)
}

func (r record) validRuns() error {
	if (len(r.Runs) == 0) != (r.Last == r.Applied) {
		return fmt.Errorf("%d runs for the entries in (%d, %d]", len(r.Runs), r.Applied, r.Last)
	}
	if len(r.Runs) == 0 {
		return nil
	}
	if first := r.Runs[0]; first.First != r.Applied+1 || first.Term < r.AppliedTerm || first.Term == 0 {
		return fmt.Errorf("the first run begins at %d with term %d, after entry %d of term %d", first.First, first.Term,
			r.Applied, r.AppliedTerm)
	}
	for i, x := range r.Runs[1:] {
		if prev := r.Runs[i]; x.First <= prev.First || x.Term <= prev.Term || x.First > r.Last {
			return fmt.Errorf("a run at %d of term %d follows one at %d of term %d", x.First, x.Term, prev.First, prev.Term)
		}
	}
	return nil
}

func (r record) validConfChanges() error {
	prev := r.Applied
	for _, c := range r.ConfChanges {
		if c.Index <= prev || c.Index > r.Last {
			return fmt.Errorf("a conf change at %d is not in (%d, %d]", c.Index, prev, r.Last)
		}
		if t := raftpb.EntryType(c.Type); t != raftpb.EntryConfChange && t != raftpb.EntryConfChangeV2 {
			return fmt.Errorf("the conf change at %d has type %d", c.Index, c.Type)
		}
		prev = c.Index
	}
	return nil
}

// term returns the term of the entry at index, which is in [Applied, Last].
func (r record) term(index nexusraft.Index) nexusraft.Term {
	if i := r.runAt(index); i >= 0 {
		return r.Runs[i].Term
	}
	return r.AppliedTerm
}

func (r record) lastTerm() nexusraft.Term { return r.term(r.Last) }

// runAt returns the position of the run that holds index, -1 for Applied.
func (r record) runAt(index nexusraft.Index) int {
	n, exact := slices.BinarySearchFunc(r.Runs, index, func(x run, index nexusraft.Index) int {
		switch {
		case x.First < index:
			return -1
		case x.First > index:
			return 1
		}
		return 0
	})
	if exact {
		return n
	}
	return n - 1
}

// append returns the record with entries in place of what is at their indexes and above
// (I7). They begin above Commit and at most at Last+1.
func (r record) append(entries []*raftpb.Entry) (record, error) {
	if len(entries) == 0 {
		return r, nil
	}
	first := nexusraft.Index(entries[0].GetIndex())
	if first <= r.Commit || first > r.Last+1 {
		return r, fmt.Errorf("append at %d, the log is committed up to %d and ends at %d", first, r.Commit, r.Last)
	}
	r = r.truncate(first)
	for _, e := range entries {
		index, term := nexusraft.Index(e.GetIndex()), nexusraft.Term(e.GetTerm())
		if index != r.Last+1 || term < r.lastTerm() || term == 0 {
			return r, fmt.Errorf("append of entry %d of term %d after entry %d of term %d", index, term, r.Last, r.lastTerm())
		}
		if len(r.Runs) == 0 || r.lastTerm() != term {
			r.Runs = append(r.Runs, run{term, index})
		}
		r.Last = index
		if e.GetType() != raftpb.EntryNormal {
			r.ConfChanges = append(r.ConfChanges, confEntry{index, int32(e.GetType()), slices.Clone(e.GetData())})
		}
	}
	return r, nil
}

// truncate returns the record without the entries from index on, in slices of its own.
func (r record) truncate(index nexusraft.Index) record {
	r.Runs = slices.DeleteFunc(slices.Clone(r.Runs), func(x run) bool { return x.First >= index })
	r.ConfChanges = slices.DeleteFunc(slices.Clone(r.ConfChanges), func(c confEntry) bool { return c.Index >= index })
	r.Last = index - 1
	return r
}

// compact returns the record without the entries up to index, which are applied.
func (r record) compact(index nexusraft.Index) (record, error) {
	if index < r.Applied || index > r.Commit {
		return r, fmt.Errorf("applied %d is not in [%d, %d]", index, r.Applied, r.Commit)
	}
	r.AppliedTerm = r.term(index)
	r.Runs = slices.Clone(r.Runs[max(0, r.runAt(index)):])
	r.ConfChanges = slices.DeleteFunc(slices.Clone(r.ConfChanges), func(c confEntry) bool { return c.Index <= index })
	if r.Applied = index; len(r.Runs) > 0 {
		r.Runs[0].First = index + 1
	}
	if len(r.Runs) > 1 && r.Runs[1].First == index+1 || r.Last == index {
		r.Runs = r.Runs[min(1, len(r.Runs)):]
	}
	return r, nil
}

// install returns the record as a snapshot leaves it: nothing of the log stays.
func (r record) install(s *raftpb.Snapshot) (record, error) {
	meta := s.GetMetadata()
	index := nexusraft.Index(meta.GetIndex())
	if index <= r.Commit {
		return r, fmt.Errorf("snapshot at %d, the log is committed up to %d", index, r.Commit)
	}
	members, err := nexusraft.DecodeMembership(s.GetData())
	if err != nil {
		return r, fmt.Errorf("snapshot at %d: %w", index, err)
	}
	r.Runs, r.ConfChanges = nil, nil
	r.Applied, r.AppliedTerm, r.Commit, r.Last = index, nexusraft.Term(meta.GetTerm()), index, index
	r.ConfState, r.Membership = confStateOf(meta.GetConfState()), members
	return r, nil
}

func confStateOf(cs *raftpb.ConfState) confState {
	return confState{
		Voters: convert[nexusraft.ReplicaID](cs.GetVoters()), Learners: convert[nexusraft.ReplicaID](cs.GetLearners()),
		VotersOutgoing: convert[nexusraft.ReplicaID](cs.GetVotersOutgoing()),
		LearnersNext:   convert[nexusraft.ReplicaID](cs.GetLearnersNext()),
		AutoLeave:      cs.GetAutoLeave(),
	}
}

func (c confState) raft() *raftpb.ConfState {
	return &raftpb.ConfState{
		Voters: convert[uint64](c.Voters), Learners: convert[uint64](c.Learners),
		VotersOutgoing: convert[uint64](c.VotersOutgoing), LearnersNext: convert[uint64](c.LearnersNext),
		AutoLeave: new(c.AutoLeave),
	}
}

func convert[To, From ~uint64](ids []From) []To {
	var out []To
	for _, id := range ids {
		out = append(out, To(id))
	}
	return out
}
