// Package raftlog keeps one replica's part of a Raft group on disk: its log, its hard
// state, its membership and the position up to which it has applied.
//
// All zones of a node share one storage tree, so that one batch and one sync cover all of
// them. A zone's records lie side by side, in this order:
//
//	zone (8 bytes, big-endian) | 1                        meta: what the replica is; cold
//	zone                       | 2                        hard state: term, vote, commit; hot
//	zone                       | 3                        applied index, 8 bytes big-endian; hot
//	zone                       | 16 | index (8 bytes, BE) one log entry
//
// Hard state and entries are Raft's own protocol buffers. Meta is a version byte and JSON.
// Checksums are the store's: it verifies each block that it reads. What is verified here
// is that the records fit together, at Open and at each read (invariant I10).
//
// # Staging
//
// A Log changes in two steps. Append, SetHardState and the other writing methods put their
// effect into a storage batch and change the Log's memory at once; the caller commits the
// batch before it lets Raft act on what was written (invariants I2 and I3). In between,
// every read gives the staged state. A batch that fails to commit, or a writing method
// that returns an error, leaves memory and disk apart: the Log must not be used again, and
// the batch not be committed.
//
// The effects of one raft.Ready are staged in this order: InstallSnapshot, Append,
// SetHardState, SetMembership and SetApplied. Each is checked against what was staged
// before it.
package raftlog
