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

// Envelope is what a normal log entry carries.
type Envelope struct {
	Proposal ProposalID
	Request  nexusraft.RequestID
	Time     int64 // the leader's clock, nanoseconds since the Unix epoch
	Own      bool  // the command is the nodes' own, not the state machine's
	Command  []byte
}

// The stored form: a byte that says whose the command is, six big-endian 64-bit numbers, the
// command. It is fixed width because it is on the path of every write and the command
// outweighs it.
const (
	envelopeMachine = 1
	envelopeOwn     = 2
	envelopeHeader  = 1 + 6*8
)

// MaxCommandBytes bounds a command, so that one entry always fits one frame.
const MaxCommandBytes = nexusraft.MaxCommandBytes

// Encode returns the stored form in a slice of its own.
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

// DecodeEnvelope reads what Encode wrote. Command shares b's memory. It returns
// ErrCorrupt for anything that Encode can't have written.
func DecodeEnvelope(b []byte) (Envelope, error) {
	switch {
	case len(b) < envelopeHeader:
		return Envelope{}, fmt.Errorf("%w: envelope of %d bytes, at least %d expected", nexusraft.ErrCorrupt, len(b),
			envelopeHeader)
	case b[0] != envelopeMachine && b[0] != envelopeOwn:
		return Envelope{}, fmt.Errorf("%w: envelope of kind %d, this release knows %d and %d", nexusraft.ErrCorrupt, b[0],
			envelopeMachine, envelopeOwn)
	case len(b) > envelopeHeader+MaxCommandBytes:
		return Envelope{}, fmt.Errorf("%w: envelope of %d bytes, at most %d expected", nexusraft.ErrCorrupt, len(b),
			envelopeHeader+MaxCommandBytes)
	}
	word := func(i int) uint64 { return binary.BigEndian.Uint64(b[1+8*i:]) }
	return Envelope{
		Proposal: ProposalID{nexusraft.ReplicaID(word(0)), nexusraft.Incarnation(word(1)), word(2)},
		Request:  nexusraft.RequestID{Session: word(3), Sequence: word(4)},
		Time:     int64(word(5)),
		Own:      b[0] == envelopeOwn,
		Command:  b[envelopeHeader:],
	}, nil
}
