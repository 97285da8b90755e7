package zone

import (
	"encoding/binary"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// ProposalID names one proposal for all time: the replica that made it, the incarnation
// it lived in, and a count within that. A counter alone would start over with each
// process, and a waiting call would be answered by another proposal's entry (invariant I8).
type ProposalID struct {
	Replica     nexusraft.ReplicaID
	Incarnation nexusraft.Incarnation
	Sequence    uint64
}

// plus returns the ID of the proposal that its replica made so many proposals later.
func (id ProposalID) plus(n int) ProposalID {
	id.Sequence += uint64(n)
	return id
}

// Envelope is a command and what goes with it in the log. A normal entry carries one, or several
// of them: see batch.go.
type Envelope struct {
	Proposal ProposalID
	Request  nexusraft.RequestID
	Time     int64 // the leader's clock, nanoseconds since the Unix epoch
	Own      bool  // the command is the nodes' own, not the state machine's
	Command  []byte

	Alone bool // its entry is to carry no other one; not stored

	Place int  // among those of its entry, from 0; as DecodeEntry has found it
	More  bool // its entry carries another one after it; the same
}

// The stored form of one envelope: a byte that says whose the command is, six big-endian 64-bit
// numbers, the command. It is fixed width because it is on the path of every write and the command
// outweighs it. In the form of each kind the proposal comes first.
const (
	envelopeMachine = 1
	envelopeOwn     = 2
	envelopeBatch   = 3 // see batch.go

	proposalEnd    = 1 + 3*8
	envelopeHeader = 1 + 6*8
)

// MaxCommandBytes bounds a command, so that one entry always fits one frame.
const MaxCommandBytes = nexusraft.MaxCommandBytes

// Encode returns the data of an entry that carries this envelope alone, in a slice of its own.
func (e Envelope) Encode() []byte {
	b := make([]byte, 0, envelopeHeader+len(e.Command))
	b = append(b, e.kind())
	for _, v := range [...]uint64{
		uint64(e.Proposal.Replica), uint64(e.Proposal.Incarnation), e.Proposal.Sequence,
		e.Request.Session, e.Request.Sequence, uint64(e.Time),
	} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return append(b, e.Command...)
}

func (e Envelope) kind() byte {
	if e.Own {
		return envelopeOwn
	}
	return envelopeMachine
}

// DecodeEntry reads the data of an entry, which is not empty: its envelopes, in their order. The
// commands share b's memory. It returns ErrCorrupt for anything that no leader can have written.
func DecodeEntry(b []byte) ([]Envelope, error) {
	if len(b) > 0 && b[0] == envelopeBatch {
		return decodeBatch(b)
	}
	e, err := decodeEnvelope(b)
	if err != nil {
		return nil, err
	}
	return []Envelope{e}, nil
}

// decodeEnvelope reads what Encode wrote.
func decodeEnvelope(b []byte) (Envelope, error) {
	switch {
	case len(b) < envelopeHeader:
		return Envelope{}, fmt.Errorf("%w: envelope of %d bytes, at least %d expected", nexusraft.ErrCorrupt, len(b),
			envelopeHeader)
	case b[0] != envelopeMachine && b[0] != envelopeOwn:
		return Envelope{}, fmt.Errorf("%w: envelope of kind %d, this release knows %d to %d", nexusraft.ErrCorrupt, b[0],
			envelopeMachine, envelopeBatch)
	case len(b) > envelopeHeader+MaxCommandBytes:
		return Envelope{}, fmt.Errorf("%w: envelope of %d bytes, at most %d expected", nexusraft.ErrCorrupt, len(b),
			envelopeHeader+MaxCommandBytes)
	}
	word := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	return Envelope{
		Proposal: decodeProposal(b),
		Request:  nexusraft.RequestID{Session: word(3), Sequence: word(4)},
		Time:     int64(word(5)),
		Own:      b[0] == envelopeOwn,
		Command:  b[envelopeHeader:],
	}, nil
}

// decodeProposal reads the ID of an entry's first proposal. b has its data up to there at least.
func decodeProposal(b []byte) ProposalID {
	word := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	return ProposalID{nexusraft.ReplicaID(word(0)), nexusraft.Incarnation(word(1)), word(2)}
}
