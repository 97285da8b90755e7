package storage

import (
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"unicode"
	"unicode/utf8"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// The store's own tree.
const (
	registry     uint32 = 0
	keyFormat           = "format"
	keyNextID           = "next"
	keyTree             = "tree/" // followed by the name
	formatPrefix        = "nexus-raft store format "
	format              = formatPrefix + "1"
)

// Tree is a named key space of a store. It implements nexusraft.Reader for the store as
// it is: each Get, and each Scan when it begins, sees all that is committed. Its methods
// may be called from any goroutine, the Reader's rule notwithstanding.
type Tree struct {
	view
	dropped atomic.Bool
}

var _ nexusraft.Reader = (*Tree)(nil)

func (s *Store) newTree(name string, id uint32) *Tree {
	t := &Tree{view: view{s: s, src: s.db, id: id, name: name}}
	t.gone = func() error {
		if t.dropped.Load() {
			return fmt.Errorf("tree %q of store %s was dropped", name, s.dir)
		}
		return nil
	}
	return t
}

// Name returns the tree's name.
func (t *Tree) Name() string { return t.name }

// Get returns a copy of the value at key, and whether there is one.
func (t *Tree) Get(key []byte) ([]byte, bool, error) { return t.get(key) }

// Scan yields the pairs with start <= key < end in ascending order; a nil end is the
// tree's end. Pairs are borrowed until the next step. An error is yielded once and last.
// The tree may be written meanwhile; the loop doesn't see it.
func (t *Tree) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return t.scan(start, end, false)
}

// ScanReverse is Scan in descending order.
func (t *Tree) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return t.scan(start, end, true)
}

// Tree returns the tree of that name, which is created, and synced, if there is none. A
// name is 1 to 255 bytes of UTF-8 without control characters. It returns the same *Tree
// each time until the tree is dropped.
func (s *Store) Tree(name string) (*Tree, error) {
	if err := validName(name); err != nil {
		return nil, err
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.gate.exit()
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.trees[name]; t != nil {
		return t, nil
	}
	return s.createTree(name)
}

// createTree stores a new tree and its ID. The caller holds s.mu.
func (s *Store) createTree(name string) (*Tree, error) {
	if s.nextID == math.MaxUint32 {
		return nil, fmt.Errorf("create tree %q: store %s has no tree IDs left", name, s.dir)
	}
	id := s.nextID
	err := s.setOwn(keyNextID, encodeID(id+1), keyTree+name, encodeID(id))
	if err != nil {
		return nil, fmt.Errorf("create tree %q: %w", name, err)
	}
	s.nextID++
	s.trees[name] = s.newTree(name, id)
	return s.trees[name], nil
}

// OpenTree returns the tree of that name and whether there is one.
func (s *Store) OpenTree(name string) (*Tree, bool, error) {
	if err := s.enter(); err != nil {
		return nil, false, err
	}
	defer s.gate.exit()
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.trees[name]
	return t, ok, nil
}

// Trees returns the names of all trees, sorted.
func (s *Store) Trees() ([]string, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.gate.exit()
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.trees)), nil
}

// DropTree removes a tree with all its keys, synced. A tree that is absent is no error.
func (s *Store) DropTree(name string) error {
	t, ok, err := s.OpenTree(name)
	if err != nil || !ok {
		return err
	}
	b := s.NewBatch()
	defer b.Close()
	if err := b.DropTree(t); err != nil {
		return err
	}
	return b.Commit(true)
}

// loadRegistry reads the store's own tree, and writes its first records into a new one.
func (s *Store) loadRegistry() error {
	own := view{s: s, src: s.db, id: registry, name: "registry", gone: func() error { return nil }}
	records := make(map[string][]byte)
	for p, err := range own.scan(nil, nil, false) {
		if err != nil {
			return err
		}
		records[string(p.Key)] = slices.Clone(p.Value)
	}
	if len(records) == 0 {
		return s.found()
	}
	if found := string(records[keyFormat]); found != format {
		return wrongFormat(found)
	}
	return s.decodeRegistry(records)
}

// found makes a new Pebble database a store.
func (s *Store) found() error {
	it, err := s.db.NewIter(nil)
	if err != nil {
		return err
	}
	used := it.First()
	if err := it.Close(); err != nil {
		return err
	}
	if used {
		return wrongFormat("")
	}
	s.nextID = registry + 1
	return s.setOwn(keyFormat, []byte(format), keyNextID, encodeID(s.nextID))
}

func wrongFormat(found string) error {
	if strings.HasPrefix(found, formatPrefix) {
		return fmt.Errorf("it is of %q, this program knows %q only; use the program that wrote it", found, format)
	}
	return fmt.Errorf("it is not a store of this program: its format is %q, wanted %q", found, format)
}

// decodeRegistry fills s.nextID and s.trees.
func (s *Store) decodeRegistry(records map[string][]byte) error {
	next, ok := decodeID(records[keyNextID])
	if !ok {
		return fmt.Errorf("%w: registry: next tree ID is %x", nexusraft.ErrCorrupt, records[keyNextID])
	}
	s.nextID = next
	owner := make(map[uint32]string)
	for key, value := range records {
		name, ok := strings.CutPrefix(key, keyTree)
		if !ok {
			continue
		}
		id, ok := decodeID(value)
		if other := owner[id]; !ok || id == registry || id >= next || other != "" || validName(name) != nil {
			return fmt.Errorf("%w: registry: tree %q has ID %x; next is %d, of the same ID is %q", nexusraft.ErrCorrupt, name, value, next, other)
		}
		owner[id] = name
		s.trees[name] = s.newTree(name, id)
	}
	return nil
}

// setOwn sets two keys of the store's own tree in one synced batch.
func (s *Store) setOwn(key1 string, value1 []byte, key2 string, value2 []byte) error {
	b := s.NewBatch()
	defer b.Close()
	if err := b.set(registry, []byte(key1), value1); err != nil {
		return err
	}
	if err := b.set(registry, []byte(key2), value2); err != nil {
		return err
	}
	return b.Commit(true)
}

func encodeID(id uint32) []byte { return binary.BigEndian.AppendUint32(nil, id) }

func decodeID(b []byte) (uint32, bool) {
	if len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}

func validName(name string) error {
	switch {
	case name == "" || len(name) > MaxNameBytes:
		return fmt.Errorf("tree name of %d bytes, must be 1 to %d", len(name), MaxNameBytes)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return fmt.Errorf("tree name %q is not UTF-8 or has control characters", name)
	}
	return nil
}
