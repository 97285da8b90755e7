package storage

// What packages that build on a store need besides its trees and batches.

// Done returns a channel that is closed when the store dies or its Close begins: from then
// on each call returns an error that wraps nexusraft.ErrClosed, and says why. It is for
// goroutines that would wait for something that never comes.
func (s *Store) Done() <-chan struct{} { return s.failstop.gone }

// Syncs reports whether a write that was given d waits for the disk, as those of a Tree
// do: it is what to give to Batch.Commit.
func (s *Store) Syncs(d ...Durability) bool { return s.syncs(d) }
