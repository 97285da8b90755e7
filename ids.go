package nexusraft

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
)

// ClusterID names a cluster; it is minted once, by the command that founds it.
type ClusterID uint64

// NodeID names one data directory: minted at random when the directory is first opened,
// never zero, and never seen again once that disk is lost (invariant I5).
type NodeID uint64

// ReplicaID is a node's identity inside one zone, and its identity for Raft. It is minted
// for each admission and used once for all time (invariant I5).
type ReplicaID uint64

// ZoneID names a zone: one Raft group and its state.
type ZoneID uint64

// RootZone is the zone that every cluster has from its founding on.
const RootZone ZoneID = 1

// Term is a Raft term.
type Term uint64

// Index is a position in a zone's log.
type Index uint64

// Revision counts the changes of a zone's state.
type Revision uint64

// Incarnation counts the openings of a data directory that have spoken to a peer, or could have led
// alone. It is synced before that, so that a cloned or rolled-back disk is recognised by a number
// that went backwards. Until then an opening has the next number, and so has the one after it.
type Incarnation uint64

// Boot names one opening of a data directory: minted at random for each, never zero. Two
// copies of a directory that are opened equally often have the same Incarnation, and
// different boots.
type Boot uint64

// MintID returns a random identifier that Raft accepts: not zero and not one of the two
// largest values, which raft keeps for its own threads.
func MintID() uint64 {
	for {
		var b [8]byte
		rand.Read(b[:]) // never fails, by its contract
		if id := binary.BigEndian.Uint64(b[:]); id != 0 && id < math.MaxUint64-1 {
			return id
		}
	}
}

// The text form of every identifier is hexadecimal: JSON numbers lose bits beyond 53.

func (id ClusterID) String() string { return hexID(uint64(id)) }
func (id NodeID) String() string    { return hexID(uint64(id)) }
func (id ReplicaID) String() string { return hexID(uint64(id)) }
func (b Boot) String() string       { return hexID(uint64(b)) }
func (id ZoneID) String() string    { return strconv.FormatUint(uint64(id), 16) }

// MarshalText implements encoding.TextMarshaler.
func (id ClusterID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// MarshalText implements encoding.TextMarshaler.
func (id NodeID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// MarshalText implements encoding.TextMarshaler.
func (id ReplicaID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// MarshalText implements encoding.TextMarshaler.
func (id ZoneID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// MarshalText implements encoding.TextMarshaler.
func (b Boot) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Boot) UnmarshalText(text []byte) error { return parseID(text, (*uint64)(b)) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ClusterID) UnmarshalText(b []byte) error { return parseID(b, (*uint64)(id)) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *NodeID) UnmarshalText(b []byte) error { return parseID(b, (*uint64)(id)) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ReplicaID) UnmarshalText(b []byte) error { return parseID(b, (*uint64)(id)) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ZoneID) UnmarshalText(b []byte) error { return parseID(b, (*uint64)(id)) }

func hexID(v uint64) string { return fmt.Sprintf("%016x", v) }

func parseID(b []byte, into *uint64) error {
	v, err := strconv.ParseUint(string(b), 16, 64)
	if err != nil {
		return fmt.Errorf("nexusraft: identifier %q is not a hexadecimal number of at most 16 digits", b)
	}
	*into = v
	return nil
}
