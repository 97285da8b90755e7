// Package etcd serves a part of etcd's v3 API: KV, Watch, Lease, Lock, Election, Auth as far as it reads, of Maintenance
// Status, Hash, HashKV and the list of alarms, of Cluster MemberList; and beside them our own service Keys.
//
// A request names its zone in the metadata nexus-zone, in hexadecimal; without it the root
// zone is meant. The answer to a write says in the header metadata nexus-copies on at
// least how many data copies it was durable. A Range with the metadata nexus-page costs what it
// returns: see kv.Page.
//
// A Put, DeleteRange, Txn or Compact with the metadata nexus-session, which is the ID of a session and a number, in
// decimal, as in 71/3, runs once, however often it is asked for: asked for again, it is answered as at
// first. Zones.RegisterSession of our own API registers sessions.
package etcd

import (
	"context"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Zones finds the zones that a node has a replica of. Its methods may be called from any
// number of goroutines.
type Zones interface {
	// Zone returns a zone, or nexusraft.ErrZoneNotFound.
	Zone(id nexusraft.ZoneID) (Zone, error)
}

// Zone is one zone as a handler needs it. Its methods may be called from any number of
// goroutines.
type Zone interface {
	// ProposeOnce runs a command on the zone's leader, wherever that is, and returns its
	// outcome; it does not wait for a leader. It borrows command. An error that is
	// nexusraft.ErrUncertain means that the command may have run or may still run; so does
	// one of the context.
	ProposeOnce(ctx context.Context, id nexusraft.RequestID, command []byte) (nexusraft.Result, error)

	// Read calls fn with a state that includes every command acknowledged before Read
	// was called, and returns its error as it is. It returns nexusraft.ErrNoQuorum,
	// without calling fn, where that cannot be confirmed.
	Read(ctx context.Context, fn func(nexusraft.Reader) error) error

	// ReadAt calls fn with a state of this replica that includes the command whose result has that index, for which it
	// waits until ctx ends.
	ReadAt(ctx context.Context, index nexusraft.Index, fn func(nexusraft.Reader) error) error

	// ReadLocal calls fn with this replica's state, however old that is.
	ReadLocal(ctx context.Context, fn func(nexusraft.Reader) error) error

	// HasLeader reports whether this node knows a leader of the zone, or asks others for it. It does not wait.
	HasLeader() bool

	// Term returns the newest term that this replica knows. It does not wait.
	Term() nexusraft.Term
}
