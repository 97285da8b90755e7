package raftwire

import (
	"encoding/binary"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/transport"
)

// signalZone is the zone of an envelope that carries a node's signal. No zone has this ID.
const signalZone nexusraft.ZoneID = 0

// signalBytes is the length of an encoded signal: incarnation and changes, big-endian.
const signalBytes = 16

// signalVersion is the version of the protocol whose nodes know signals.
const signalVersion = 4

// Signal tells nodes what this one says of itself, but for those of earlier releases. minor returns
// which version of the protocol a node speaks, as far as it has said.
func (o *Outbox) Signal(to []nexusraft.NodeID, s zone.Signal, minor func(nexusraft.NodeID) (uint32, bool)) {
	for _, node := range to {
		if v, _ := minor(node); v >= signalVersion {
			o.Network.Send(node, transport.Control, transport.Message{Zone: signalZone, Data: encodeSignal(s)})
		}
	}
}

func encodeSignal(s zone.Signal) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, signalBytes), uint64(s.Incarnation))
	return binary.BigEndian.AppendUint64(b, s.Changes)
}

// decodeSignal returns the signal that a message is; ok is false if it is none.
func decodeSignal(m transport.Message) (s zone.Signal, ok bool) {
	if m.Zone != signalZone || len(m.Data) != signalBytes {
		return s, false
	}
	s.Incarnation = nexusraft.Incarnation(binary.BigEndian.Uint64(m.Data))
	s.Changes = binary.BigEndian.Uint64(m.Data[8:])
	return s, true
}
