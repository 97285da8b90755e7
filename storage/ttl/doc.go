// Package ttl keeps pairs with a time to live in a store: a cache, sessions, locks that
// their holders may forget. A pair is gone for readers at the moment when its time is over, and
// removed from the disk in the background a little later.
//
// # Guarantees
//
// A Set writes the pair and its deadline in one batch and reads nothing. All that decides by what
// it reads (Touch, CompareAndSwap, Update) is a transaction: of several at once none
// overlooks another. Readers wait for nobody. What a write waits for, what of it a
// crash keeps, and the errors are those of package storage; a stored pair that makes no
// sense is nexusraft.ErrCorrupt.
//
// A pair that was renewed is never removed by the sweeper for a deadline that it had before.
// A Touch that begins before a pair's deadline and ends after it may bring back what a reader has
// just found to be gone.
//
// # The clock
//
// Deadlines are times of the wall clock, so that they outlive a restart, in which time
// goes on. Set the clock forward, and pairs go earlier by as much; set it back, and they live
// longer, and those show again that have expired and were not swept yet.
//
// # Cost
//
// A pair takes 16 bytes more than its value, and an entry of some 16 bytes and its key in a second
// tree. Each Set adds such an entry, which stays until the deadline that was set: a pair that is
// set n times within its time to live has n of them. Touch, CompareAndSwap and Update add one only
// where a pair gets an earlier deadline than it had; otherwise the sweep moves the one that is
// there. Touch writes the value again, too. The space of what expired is free after the sweep
// (Options.SweepInterval) and a compaction of the store.
//
// # Layout
//
// The tree of the name that is given to Open has the pairs; a stamp is the deadline (8 bytes,
// nanoseconds since 1970, big-endian) and a random number (8 bytes), which a pair keeps while its
// deadline moves on:
//
//	key -> stamp, value
//
// The tree with "/deadlines" behind its name has what the sweeper goes by, for each pair one of its
// random number, with its deadline or an earlier one:
//
//	stamp -> key
package ttl
