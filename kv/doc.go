// Package kv is the built-in state machine: a revisioned key space with the semantics of
// etcd's v3 KV service, of which it offers Put, DeleteRange and Range.
//
// A proposer encodes a request with EncodePut or EncodeDeleteRange, proposes the command,
// and reads the outcome with DecodePutResult or DecodeDeleteRangeResult. A reader calls
// Range on the zone's state. The package has no clock, no goroutine and no I/O of its own:
// the same commands give the same bytes on every replica (invariant I4).
//
// Only the newest revision of each key is kept, so a read of an older one is answered by
// ErrCompacted.
//
// Refusals (ErrKeyNotFound, ErrLeaseNotFound, ...) are results of a command, not errors of
// Apply: a result crosses from the leader to the node that forwarded the command as it is,
// so that errors.Is gives the same answer on both. The errors of Apply are those of its
// transaction and of a corrupt state.
//
// The state tree, first byte first:
//
//	'k' key       create, mod, version, lease (canonical uvarints), then the value
//	'm' "revision"  the newest revision, 8 bytes, big-endian; absent: 1
package kv
