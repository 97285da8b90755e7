package storage

import (
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Snapshot is the store, all trees of it, as of one moment: Tree and Reader give its views
// of trees. It keeps what is deleted later on the disk, so close it soon. It is for one
// goroutine.
type Snapshot struct {
	s      *Store
	snap   *pebble.Snapshot // nil if the store was closed or dead
	closed atomic.Bool
}

// TreeView is one tree of a Snapshot, with every read of a Tree.
type TreeView struct{ view }

var _ nexusraft.Reader = (*TreeView)(nil)

// NewSnapshot returns a snapshot of all that is committed. Of a store that is closed or
// dead, it is one whose methods return errors.
func (s *Store) NewSnapshot() *Snapshot {
	x := &Snapshot{s: s}
	if s.enter() != nil {
		return x
	}
	defer s.calls.exit()
	s.snapMu.Lock()
	defer s.snapMu.Unlock()
	x.snap = s.db.NewSnapshot()
	s.snapshots[x] = struct{}{}
	return x
}

// Tree returns a view of the tree that had the name at the snapshot's moment, and
// whether there was one. It may be used until the snapshot is closed.
func (x *Snapshot) Tree(name string) (*TreeView, bool, error) {
	own := x.view(registry, "registry")
	value, ok, err := own.Get([]byte(keyTree + name))
	if err != nil || !ok {
		return nil, false, err
	}
	id, ok := decodeID(value)
	if !ok {
		return nil, false, fmt.Errorf("%w: registry of store %s: tree %q has ID %x", nexusraft.ErrCorrupt, x.s.dir, name,
			value)
	}
	return &TreeView{x.view(id, name)}, true, nil
}

// Reader returns a view of a tree at the snapshot's moment; a tree that was created
// later is empty, and one that was dropped later is not. It may be used until the
// snapshot is closed.
func (x *Snapshot) Reader(t *Tree) *TreeView {
	v := x.view(t.id, t.name)
	if t.s != x.s {
		v.gone = func() error {
			return fmt.Errorf("read snapshot: tree %q is of store %s, the snapshot of %s", t.name, t.s.dir, x.s.dir)
		}
	}
	return &TreeView{v}
}

// trees returns views of all trees that there were, the default tree first, the others by
// name.
func (x *Snapshot) trees() ([]*TreeView, error) {
	views := []*TreeView{x.Reader(x.s.defaultTree)}
	for p, err := range x.view(registry, "registry").Prefix([]byte(keyTree)) {
		if err != nil {
			return nil, err
		}
		id, ok := decodeID(p.Value)
		if !ok {
			return nil, fmt.Errorf("%w: registry of store %s: %q has ID %x", nexusraft.ErrCorrupt, x.s.dir, p.Key, p.Value)
		}
		views = append(views, &TreeView{x.view(id, string(p.Key[len(keyTree):]))})
	}
	return views, nil
}

// Close lets go of the snapshot. Its views return errors from then on. A second Close
// does nothing.
func (x *Snapshot) Close() {
	x.closed.Store(true)
	x.s.snapMu.Lock()
	defer x.s.snapMu.Unlock()
	x.release()
}

// release gives Pebble's snapshot back, once. The caller holds s.snapMu.
func (x *Snapshot) release() {
	if _, open := x.s.snapshots[x]; !open {
		return
	}
	delete(x.s.snapshots, x)
	if !x.s.poisoned.Load() {
		_ = x.snap.Close() // it only lets go
	}
}

func (x *Snapshot) view(id uint32, name string) view {
	return view{s: x.s, src: x.snap, id: id, name: name, gone: x.gone}
}

func (x *Snapshot) gone() error {
	if x.closed.Load() {
		return fmt.Errorf("%w: snapshot of store %s", nexusraft.ErrClosed, x.s.dir)
	}
	return nil
}
