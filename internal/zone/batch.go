package zone

import (
	"encoding/binary"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Many small commands that wait at once become one entry, a batch: raft, the log and the other
// replicas have less to do for each of them. Each command keeps its own proposal, request ID, effects
// and answer; a batch is appended, committed and applied as a whole. Nodes of releases before version
// 1.6 of the protocol can't read it, see Config.Batches.
//
// The stored form: the kind, four big-endian 64-bit numbers, which are the first command's proposal
// and the time of all, the number of commands in two bytes, and the commands. The proposals of the
// others follow from the first one's: their sequences have no gaps. A command begins with its length
// in four bytes, whose highest bit says that its request ID comes next, in sixteen; mostly there is none.
const (
	batchHeader  = proposalEnd + 8 + 2
	batchLength  = 4
	batchRequest = 1 << 31
	requestBytes = 2 * 8
)

// maxBatchBytes bounds the commands of a batch in their stored form: what is larger gains nothing.
const maxBatchBytes = 64 << 10

// maxBatchCommands bounds their number.
const maxBatchCommands = nexusraft.MaxEntryCommands

// inBatch is how many bytes an envelope takes in a batch.
func (e *Envelope) inBatch() int {
	if e.Request.IsZero() {
		return batchLength + len(e.Command)
	}
	return batchLength + requestBytes + len(e.Command)
}

// fitting returns how many of the first envelopes one entry may carry: at least one. The nodes' own
// commands have entries of their own, since their index names what they make: a zone, a session.
func fitting(envelopes []Envelope) (n int) {
	first, bytes := &envelopes[0], 0
	for ; n < len(envelopes) && n < maxBatchCommands; n++ {
		e := &envelopes[n]
		bytes += e.inBatch()
		if e.Own || e.Alone || e.Time != first.Time || e.Proposal != first.Proposal.plus(n) || bytes > maxBatchBytes {
			break
		}
	}
	return max(n, 1)
}

// encodeEntry returns the data of an entry that carries envelopes which fit.
func encodeEntry(envelopes []Envelope) []byte {
	first, size := &envelopes[0], batchHeader
	if len(envelopes) == 1 {
		return first.Encode()
	}
	for i := range envelopes {
		size += envelopes[i].inBatch()
	}
	b := append(make([]byte, 0, size), envelopeBatch)
	for _, v := range [...]uint64{
		uint64(first.Proposal.Replica), uint64(first.Proposal.Incarnation), first.Proposal.Sequence, uint64(first.Time),
	} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(envelopes)))
	for i := range envelopes {
		b = envelopes[i].appendTo(b)
	}
	return b
}

// appendTo appends the envelope as a batch has it.
func (e *Envelope) appendTo(b []byte) []byte {
	if e.Request.IsZero() {
		b = binary.BigEndian.AppendUint32(b, uint32(len(e.Command)))
	} else {
		b = binary.BigEndian.AppendUint32(b, uint32(len(e.Command))|batchRequest)
		b = binary.BigEndian.AppendUint64(b, e.Request.Session)
		b = binary.BigEndian.AppendUint64(b, e.Request.Sequence)
	}
	return append(b, e.Command...)
}

// decodeBatch reads what encodeEntry has written of several envelopes.
func decodeBatch(b []byte) ([]Envelope, error) {
	if len(b) < batchHeader || len(b) > batchHeader+maxBatchBytes {
		return nil, fmt.Errorf("%w: batch of %d bytes, %d to %d expected", nexusraft.ErrCorrupt, len(b), batchHeader,
			batchHeader+maxBatchBytes)
	}
	count := int(binary.BigEndian.Uint16(b[batchHeader-2:]))
	if count < 2 || count > maxBatchCommands {
		return nil, fmt.Errorf("%w: batch of %d commands, 2 to %d expected", nexusraft.ErrCorrupt, count, maxBatchCommands)
	}
	first, time := decodeProposal(b), int64(binary.BigEndian.Uint64(b[proposalEnd:]))
	all, left := make([]Envelope, count), b[batchHeader:]
	for i := range all {
		e := &all[i]
		e.Proposal, e.Time, e.Place, e.More = first.plus(i), time, i, i < count-1
		var ok bool
		if left, ok = e.readFrom(left); !ok {
			return nil, fmt.Errorf("%w: command %d of %d in a batch of %d bytes", nexusraft.ErrCorrupt, i, count, len(b))
		}
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("%w: batch of %d bytes, of which %d are too many", nexusraft.ErrCorrupt, len(b), len(left))
	}
	return all, nil
}

// readFrom reads request ID and command as a batch has them, and returns what comes after them.
func (e *Envelope) readFrom(b []byte) (left []byte, ok bool) {
	if len(b) < batchLength {
		return nil, false
	}
	length := binary.BigEndian.Uint32(b)
	b = b[batchLength:]
	if length&batchRequest != 0 {
		if len(b) < requestBytes {
			return nil, false
		}
		e.Request = nexusraft.RequestID{Session: binary.BigEndian.Uint64(b), Sequence: binary.BigEndian.Uint64(b[8:])}
		if e.Request.IsZero() {
			return nil, false
		}
		b = b[requestBytes:]
	}
	n := int(length &^ batchRequest)
	if n > len(b) {
		return nil, false
	}
	e.Command = b[:n:n]
	return b[n:], true
}
