// Package storage is an embedded ordered key-value store: named trees of keys in one directory,
// batches and transactions that change several trees atomically, atomic operations on one key,
// typed values, and snapshots over all trees.
//
// # Choosing
//
//   - Tree.Set, Create, Delete, Swap, CompareAndSwap, Update, Merge, PopFirst and PopLast change one
//     key each; a Store has them too, for its default tree.
//   - A Batch writes many keys without looking at them.
//   - Store.Transact writes what depends on what it reads, in any trees.
//   - Tree.Watch delivers what others change, in the order of the commits.
//   - An Overlay holds writes that are not decided yet, over any nexusraft.Reader.
//   - OpenTemporary and OpenTemporaryIn open stores that are gone when they are closed.
//
// Each write says whether it waits for the disk (Sync, NoSync); many that wait at once share one
// sync. Batch.CommitAsync and Store.FlushAsync wait later.
//
// # Guarantees
//
// A batch is atomic, across trees too; all other writes are batches. A batch that was committed
// with sync survives a crash, and so does every batch committed before it; of the others, a crash
// keeps a prefix in the order of their commits. A read may see what a crash can still take:
// Store.Flush waits until it can't.
//
// All operations are linearizable, and transactions serializable, together and with plain writes.
// Readers take no locks: they wait neither for writers nor for each other.
//
// Reading back damaged bytes gives an error that wraps nexusraft.ErrCorrupt and names the file,
// never a wrong value. So does opening a store that lacks a log. One kind of damage can't be told
// from a write that a power loss has cut off: damage to the end of the last log or of the manifest
// that happens before the store is opened again after it. What is lost then is a suffix.
//
// A failed write or sync is never retried. The store is dead from then on: nothing more reaches its
// disk, and every call returns an error that wraps nexusraft.ErrClosed and says what failed.
// Opening the directory again continues from what was synced.
//
// # Layout
//
// Underneath is one Pebble database. Its keys are a tree ID (4 bytes, big-endian) followed by the
// caller's key. Tree 0 is the store's own:
//
//	"format"       -> the format version, checked at open; Store.RaiseFormat raises it
//	"next"         -> the next tree ID, 4 bytes big-endian
//	"default"      -> the default tree's ID, 4 bytes big-endian
//	"ids"          -> what GenerateID has not reached yet, 8 bytes big-endian
//	"closed"       -> 1 if the store was closed in order, 0 while it is open
//	"tree/" + name -> the tree's ID, 4 bytes big-endian
//
// IDs are never reused, so that nothing of a dropped tree can show up in a later one.
//
// Beside Pebble's files, SYNCED says how far its logs and manifest are on the disk, so that damage
// to them is told from their end; a store without it is refused. A backup has CHECKSUMS, too, of
// all files, and BACKUP, which says what it is; both go when it is opened for writing.
//
// # Reading the source
//
// Store.Open, then view.walk (how trees are read), Batch.Commit, latches (how writers of one key
// keep apart), Tx, watches, failstop (what happens when the disk fails), Overlay.merge.
package storage
