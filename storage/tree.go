package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
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
	keyDefault          = "default"
	keyIDs              = "ids"
	keyClosed           = "closed"
	keyTree             = "tree/" // followed by the name
	formatPrefix        = "nexus-raft store format "
	format              = formatPrefix + "1"
	raisedFormat        = formatPrefix + "2" // the same, for what releases that know 1 alone must not open
)

// Tree is a named key space of a store. It implements nexusraft.Reader for the store as
// it is: each Get, and each Scan when it begins, sees all that is committed. Its methods
// may be called from any goroutine, the Reader's rule notwithstanding.
//
// Each write takes what it shall wait for as its last argument; without one that is the
// store's Options.Durability. Keys and values are copied. Errors are those of Batch:
// nexusraft.ErrTooLarge if a limit is passed (nothing was written then), and of Commit.
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
	defer s.calls.exit()
	if t := s.trees.get(name); t != nil {
		return t, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.trees.get(name); t != nil {
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
	err := s.setOwn(record{keyNextID, encodeID(id + 1)}, record{keyTree + name, encodeID(id)})
	if err != nil {
		return nil, fmt.Errorf("create tree %q: %w", name, err)
	}
	s.nextID++
	t := s.newTree(name, id)
	s.trees.add(t)
	return t, nil
}

// OpenTree returns the tree of that name and whether there is one.
func (s *Store) OpenTree(name string) (*Tree, bool, error) {
	if err := s.enter(); err != nil {
		return nil, false, err
	}
	defer s.calls.exit()
	t := s.trees.get(name)
	return t, t != nil, nil
}

// Trees returns the names of all trees, sorted.
func (s *Store) Trees() ([]string, error) {
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.calls.exit()
	return s.trees.names(), nil
}

// DropTree removes a tree with all its keys, synced. A tree that is absent is no error; the default
// tree, "", can't be dropped.
func (s *Store) DropTree(name string) error {
	if name == "" {
		return errDropDefault
	}
	t, ok, err := s.OpenTree(name)
	if err != nil || !ok {
		return err
	}
	b := s.NewBatch()
	defer b.Close()
	if err = b.DropTree(t); err == nil {
		err = b.Commit(true)
	}
	if err != nil && t.dropped.Load() { // somebody else was first
		return s.Flush()
	}
	return err
}

var errDropDefault = errors.New("drop tree: the default tree can't be dropped; clear it")

// treeMap has the trees by their names.
type treeMap struct {
	mu     sync.RWMutex // guards what follows
	byName map[string]*Tree
}

func (m *treeMap) get(name string) *Tree {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.byName[name]
}

func (m *treeMap) names() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Sorted(maps.Keys(m.byName))
}

func (m *treeMap) add(t *Tree) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.byName[t.name] = t
}

func (m *treeMap) remove(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.byName, name)
}

// loadRegistry reads the store's own tree, and writes its first records into a new one.
func (s *Store) loadRegistry() error {
	own := view{s: s, src: s.db, id: registry, name: "registry", gone: func() error { return nil }}
	records := make(map[string][]byte)
	for p, err := range own.Scan(nil, nil) {
		if err != nil {
			return err
		}
		records[string(p.Key)] = slices.Clone(p.Value)
	}
	if len(records) == 0 {
		return s.found()
	}
	found := string(records[keyFormat])
	if found != format && found != raisedFormat {
		return wrongFormat(found)
	}
	s.raised = found == raisedFormat
	if err := s.decodeRegistry(records); err != nil {
		return err
	}
	if err := s.completeDefault(); err != nil {
		return err
	}
	return s.noteOpened()
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
	if s.options.ReadOnly {
		return fmt.Errorf("%w: its creation was cut off, and Options.ReadOnly does not go on with it; open it without",
			nexusraft.ErrRefused)
	}
	s.nextID = registry + 1
	if err := s.loadIDs(nil); err != nil {
		return err
	}
	return s.createDefault(record{keyFormat, []byte(format)}, record{keyClosed, []byte{stateOpen}})
}

// createDefault stores the ID of the default tree, and with it what else a new store
// needs.
func (s *Store) createDefault(more ...record) error {
	id := s.nextID
	if id == math.MaxUint32 {
		return errors.New("create the default tree: no tree IDs left")
	}
	s.nextID++
	s.defaultTree = s.newTree("", id)
	return s.setOwn(append(more, record{keyNextID, encodeID(s.nextID)}, record{keyDefault, encodeID(id)})...)
}

func wrongFormat(found string) error {
	if n, ok := strings.CutPrefix(found, formatPrefix); ok {
		return fmt.Errorf("%w: it was written by another release (format %s, this one knows %s and %s); use that release",
			nexusraft.ErrRefused, n, strings.TrimPrefix(format, formatPrefix), strings.TrimPrefix(raisedFormat, formatPrefix))
	}
	return fmt.Errorf("%w: it is not a store of this program: its format is %q, wanted %q", nexusraft.ErrRefused, found,
		format)
}

// RaiseFormat raises the format of the store from 1, in which it is made, to 2, if that has not been
// done: releases before this one refuse to open it from then on, and say why. That is for a program
// whose data they would misread; the format itself is the same. It is on the disk when RaiseFormat
// returns, and never taken back. Errors are those of Batch.Commit.
func (s *Store) RaiseFormat() error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.calls.exit()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.raised {
		return nil
	}
	if err := s.setOwn(record{keyFormat, []byte(raisedFormat)}); err != nil {
		return fmt.Errorf("raise the format of store %s: %w", s.dir, err)
	}
	s.raised = true
	return nil
}

// decodeRegistry fills s.nextID, s.trees, s.ids, s.recovered, and s.defaultTree if there is one.
func (s *Store) decodeRegistry(records map[string][]byte) error {
	next, ok := decodeID(records[keyNextID])
	if !ok {
		return fmt.Errorf("%w: registry: next tree ID is %x", nexusraft.ErrCorrupt, records[keyNextID])
	}
	s.nextID = next
	owner := make(map[uint32]string)
	for key, value := range records {
		name, named := strings.CutPrefix(key, keyTree)
		if !named && key != keyDefault {
			continue
		}
		id, ok := decodeID(value)
		if other := owner[id]; !ok || id == registry || id >= next || other != "" || named && validName(name) != nil {
			return fmt.Errorf("%w: registry: %q has tree ID %x; next is %d, of the same ID is %q", nexusraft.ErrCorrupt, key,
				value, next, other)
		}
		owner[id] = key
		if named {
			s.trees.add(s.newTree(name, id))
		} else {
			s.defaultTree = s.newTree("", id)
		}
	}
	if err := s.loadIDs(records[keyIDs]); err != nil {
		return err
	}
	return s.loadEnd(records[keyClosed])
}

// completeDefault gives a store that was written before there was a default tree one.
func (s *Store) completeDefault() error {
	switch {
	case s.defaultTree != nil:
		return nil
	case s.options.ReadOnly: // it stays empty
		s.defaultTree = s.newTree("", s.nextID)
		return nil
	default:
		return s.createDefault()
	}
}

// record is a pair of the store's own tree.
type record struct {
	key   string
	value []byte
}

// setOwn sets keys of the store's own tree in one synced batch.
func (s *Store) setOwn(records ...record) error {
	b := s.NewBatch()
	defer b.Close()
	for _, r := range records {
		if err := b.set(registry, []byte(r.key), r.value); err != nil {
			return err
		}
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
