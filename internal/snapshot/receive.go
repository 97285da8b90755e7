package snapshot

import (
	"errors"
	"fmt"
	"iter"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// How many bytes are in memory before they are written, and how many come before it is asked once more
// whether they are wanted.
const (
	batchBytes  = 4 << 20
	wantedBytes = 16 << 20
)

// ErrIgnored: Raft had no use for the snapshot; it is older than what is here.
var ErrIgnored = errors.New("raft ignored the snapshot: this replica has as much")

// Receive writes the pairs that chunks hold into a new tree, in ordinary batches, the last one synced.
// It keeps no chunk. After an error, of chunks or of the store, the tree is gone.
func Receive(store *storage.Store, name string, chunks iter.Seq2[[]byte, error]) (_ *storage.Tree, err error) {
	tree, err := store.Tree(name)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, Drop(store, tree))
		}
	}()
	b := store.NewBatch()
	defer b.Close()
	var d decoder
	for chunk, err := range chunks {
		if err != nil {
			return nil, err
		}
		d.add(chunk)
		if err := stagePairs(b, tree, &d); err != nil {
			return nil, err
		}
		if b.Size() > batchBytes {
			if err := b.Commit(false); err != nil {
				return nil, err
			}
			b.Reset()
		}
	}
	if len(d.rest) > 0 {
		return nil, fmt.Errorf("%w: the snapshot ends inside a pair", nexusraft.ErrCorrupt)
	}
	return tree, b.Commit(true) // the log is written in order: this syncs the batches before, too
}

func stagePairs(b *storage.Batch, tree *storage.Tree, d *decoder) error {
	for {
		p, ok, err := d.next()
		if err != nil || !ok {
			return err
		}
		if err := b.Set(tree, p.Key, p.Value); err != nil {
			return err
		}
	}
}

// Drop removes a received tree that nothing refers to.
func Drop(store *storage.Store, tree *storage.Tree) error {
	if err := store.DropTree(tree.Name()); err != nil {
		return fmt.Errorf("drop the tree of a received snapshot: %w", err)
	}
	return nil
}

// Wanted yields chunks for as long as check returns nil. It is asked before the first chunk, and again
// each 16 MiB; its error ends the chunks. at gets how many bytes have come.
func Wanted(chunks iter.Seq2[[]byte, error], check func() error, at func(uint64)) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		if err := check(); err != nil {
			yield(nil, err)
			return
		}
		var offset, asked uint64
		for chunk, err := range chunks {
			offset += uint64(len(chunk))
			if err == nil && offset > asked+wantedBytes {
				err, asked = check(), offset
			}
			at(offset)
			if !yield(chunk, err) || err != nil {
				return
			}
		}
	}
}

// Received is a snapshot whose state is in a tree of its own, until Raft takes it up or ignores it.
type Received struct {
	Index nexusraft.Index
	Term  nexusraft.Term
	Tree  *storage.Tree
	ended chan error // has room for the one answer
}

// NewReceived returns a snapshot that waits for Raft.
func NewReceived(index nexusraft.Index, term nexusraft.Term, tree *storage.Tree) *Received {
	return &Received{Index: index, Term: term, Tree: tree, ended: make(chan error, 1)}
}

// End says how it ended: with nil the zone has switched to the tree; with an error nothing refers to
// it. It is called once, and does not block.
func (r *Received) End(err error) { r.ended <- err }

// Ended returns a channel on which the one error of End comes.
func (r *Received) Ended() <-chan error { return r.ended }

// Find returns which of several received snapshots is the one that Raft installs; -1 if none is. There
// may be several, after a stall or from two leaders, and Raft takes the newest.
func Find(list []*Received, s *raftpb.Snapshot) int {
	meta := s.GetMetadata()
	return slices.IndexFunc(list, func(r *Received) bool {
		return uint64(r.Index) == meta.GetIndex() && uint64(r.Term) == meta.GetTerm()
	})
}
