// Package storage is an embedded ordered key-value store: named trees of keys in one
// directory, batches that change several trees atomically, and snapshots over all trees.
//
// # Guarantees
//
// A batch is atomic, across trees too. A batch that was committed with sync survives a
// crash, and so does every batch committed before it; of the others, a crash keeps a
// prefix in the order of their commits. Reading back damaged bytes gives an error that
// wraps nexusraft.ErrCorrupt, never a wrong value.
//
// A failed write or sync is never retried. The store is dead from then on: nothing more
// reaches its disk, and every call returns an error that wraps nexusraft.ErrClosed and
// says what failed. Opening the directory again continues from what was synced.
//
// # Layout
//
// Underneath is one Pebble database. Its keys are a tree ID (4 bytes, big-endian)
// followed by the caller's key. Tree 0 is the store's own:
//
//	"format"       -> the format version, checked at open
//	"next"         -> the next tree ID, 4 bytes big-endian
//	"tree/" + name -> the tree's ID, 4 bytes big-endian
//
// IDs are never reused, so that nothing of a dropped tree can show up in a later one.
//
// # Reading the source
//
// Store.Open, then view.walk (how trees are read), Batch.Commit, fence (what happens
// when the disk fails), Overlay.merge.
package storage
