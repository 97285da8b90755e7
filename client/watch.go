package client

import (
	"context"
	"fmt"
	"iter"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// WatchOptions say which changes to watch. The zero value means all, from now on.
type WatchOptions struct {
	// From is the first revision to get, which may be one that is not there yet; 0 means what happens from now on.
	From nexusraft.Revision

	Previous  bool // also yield the pairs as they were before each change
	NoPuts    bool // leave out puts
	NoDeletes bool // leave out deletions
}

// KeyChange is a key that was put or deleted. Its slices belong to the caller.
type KeyChange struct {
	// Pair is what was put. Of a deletion it has the key, and as ModRevision the revision that deleted it.
	Pair    KeyValue
	Deleted bool

	// Previous is the pair as it was before, with WatchOptions.Previous; nil if there was none, or if it is
	// compacted.
	Previous *KeyValue
}

// KeyChanges are changes in the order of their revisions, and of the operations within one.
type KeyChanges struct {
	Changes []KeyChange

	// Through is the revision up to which, itself included, everything was yielded, these changes too: to go on
	// in a later process, begin From the one after. Changes may be beyond it if their revision is so large that
	// it comes in several parts.
	Through nexusraft.Revision
}

// WatchCompactedError says that what a watch was to begin with is no longer kept. It matches ErrCompacted.
type WatchCompactedError struct {
	From      nexusraft.Revision // the first revision that was wanted
	Compacted nexusraft.Revision // the compaction revision: the oldest that can be watched, and read
}

func (e *WatchCompactedError) Error() string {
	return fmt.Sprintf("client: revision %d is compacted: the oldest that can be watched is %d", e.From, e.Compacted)
}

// Unwrap makes ErrCompacted known to errors.Is.
func (e *WatchCompactedError) Unwrap() error { return ErrCompacted }

// Watch yields the changes of keys through whichever endpoint answers. The first batch comes as soon as the watch
// stands, and may be empty; later ones have changes, or move Through. An error is yielded once and last.
//
// When the stream breaks, or its node has no leader, or is silent for eight seconds (four times
// Options.AttemptTimeout), Watch goes on where it stopped, through the next endpoint or the same, yields no change
// twice and misses none; while no endpoint answers it tries again until ctx ends, and tells Options.OnWait why.
//
// It ends with ctx's error, with a *WatchCompactedError if changes from where it stands on are no longer kept, or
// when a node refuses it for good.
//
// The caller may take as long as it likes over a batch: the client buffers nothing meanwhile but what gRPC has
// received, 64 KiB or one answer. A batch has one answer of a node, at most 64 MiB.
func (c *Client) Watch(ctx context.Context, keys KeySet, o WatchOptions) iter.Seq2[KeyChanges, error] {
	return func(yield func(KeyChanges, error) bool) {
		if err := newWatch(c, keys, o).follow(ctx, yield); err != nil {
			yield(KeyChanges{}, fmt.Errorf("watch %s: %w", brief(keys.key), err))
		}
	}
}
