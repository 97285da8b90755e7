// Package kv is the built-in state machine: a revisioned key space with the semantics of
// etcd's v3 KV service, Range, Put, DeleteRange, Txn and Compact, and the leases that keys hang on.
//
// A proposer encodes a request with EncodePut, EncodeDeleteRange, EncodeTxn or EncodeCompact, proposes the command,
// and reads the outcome with DecodePutResult and so on. A reader calls Range, or Txn for a transaction that only reads,
// on the zone's state. The package has no clock, no goroutine and no I/O of its own:
// the same commands give the same bytes on every replica (invariant I4).
//
// Old revisions are kept from the compaction revision on, which Compact sets: reads of earlier ones are refused from
// then on, and what only they could see goes in bounded steps: each command that writes does one, and EncodeSweep is
// for the rest. A zone whose nodes are not all of a release that knows this (VersionHistory) keeps the newest pair of
// each key, and what it has then begins its history.
//
// A lease ends by a command, EncodeRevoke, and never by itself: whoever leads the zone counts its time, and proposes
// the command when that is over. What a new leader has to know of it is in the state: its TTL, what was left of it at
// the last checkpoint, and a generation, which each grant and checkpoint raises, so that a revoke which was meant for
// the lease as it was before does nothing. Only a zone whose nodes are all of a release that knows leases
// (VersionLeases) has any.
//
// Refusals (ErrKeyNotFound, ErrCompacted, ...) are results of a command, not errors of
// Apply: a result crosses from the leader to the node that forwarded the command as it is,
// so that errors.Is gives the same answer on both. The errors of Apply are those of its
// transaction, nexusraft.ErrTooLarge for a command that has turned out to be too much while it ran, and those of a
// corrupt state.
//
// The state tree, first byte first; numbers in keys are big-endian, those in values canonical uvarints, and esc(key)
// has 00 FF for each zero byte and ends with 00 01:
//
//	'k' key           the newest version of a key: where its value is, create, mod, version, lease, sub, and
//	                  the value, or if that has over 1 KiB its length
//	'd' esc(key) mod  a longer value; it is written once
//	'v' esc(key) mod  a superseded version: as in k, and after sub the revision that has superseded it
//	'r' rev(8) sub(4) the sub-th change of a revision: its kind, the version that it has superseded, and the key
//	'm' "revision"    the newest revision, the compaction revision, how far sweeps are, sums: see meta
//	'l' id(8)         a lease: its TTL, generation and remaining seconds, and 1 if it is being revoked
//	'g' gen(8)        the ID of the lease that has that generation
//	'a' id(8) key     empty: the key hangs on the lease
//	'm' "lease"       the newest generation that was given, and how many leases there are
//
// A key is in 'a' of the one lease that the row of k names, which is there, and in no other one; a version that is
// superseded names its lease, too, but that may be gone. Each lease has one row of g, that of its generation, and no
// other row of g is there. The rows of l, a and g count in the sums, as those of versions do.
//
// A read of the newest state reads k, and d for long values. One of an older revision takes back, by r, what has
// changed since, or if that is too much reads v, too. Check walks over all of it and says what contradicts the rest.
package kv
