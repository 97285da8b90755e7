package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// ingest holds whole trees, which become visible all at once.
//
// The problem: they may be larger than any batch. What is written by several can be seen, and
// is found after a crash, in parts.
//
// The outline: the pairs go into tables in files that the engine does not know, under the IDs that
// their trees have or shall have. In the end one more table gets the records of the registry that
// make the new trees known, and the engine takes all tables over in one step. Before that nothing
// in the store has changed, the IDs of the new trees apart, which are given out in memory alone; so
// there is nothing to undo but files, also after a crash.
//
// Rejected: batches that write trees under IDs that nobody knows, and one that gives them their
// names (all is written twice, to the log, too; the default tree has an ID that can't
// change under its readers; and what a crash leaves over is in the store).
type ingest struct {
	s      *Store
	number uint64 // of this one, among all of the store since it was opened
	trees  []ingestTree
	table  *sstable.Writer // nil if none is begun
	paths  []string        // of all tables
	bytes  int             // of the keys and values in table
	pairs  int             // in all tables
	all    int             // bytes of keys and values in all tables
}

// ingestTree is a tree that is to be filled: one that is there, or a new one.
type ingestTree struct {
	name string
	id   uint32
	tree *Tree // nil if it is new
}

const (
	// ingestFiles begins the names of the files, as exists.go knows them.
	ingestFiles = "temporary.import-"

	// ingestTableBytes is how much goes into a table, uncompressed.
	ingestTableBytes = 16 << 20

	lowestLevel = 6
)

func (s *Store) newIngest() *ingest { return &ingest{s: s, number: s.imports.Add(1)} }

// begin makes sure that there is no tree of the name, or an empty one, and lets set fill it.
func (g *ingest) begin(name string) error {
	t, err := g.s.reserveTree(name)
	if err != nil {
		return err
	}
	if err := t.checkEmpty(); err != nil {
		return err
	}
	if n := len(g.trees); n > 0 && t.id < g.trees[n-1].id { // keys ascend in a table
		if err := g.endTable(); err != nil {
			return err
		}
	}
	g.trees = append(g.trees, t)
	return nil
}

// reserveTree finds the tree of a name, or gives out an ID for a new one.
func (s *Store) reserveTree(name string) (ingestTree, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.trees.get(name)
	if name == "" {
		t = s.defaultTree
	}
	if t != nil {
		return ingestTree{name, t.id, t}, nil
	}
	if s.nextID == math.MaxUint32 {
		return ingestTree{}, fmt.Errorf("create tree %q: there are no tree IDs left", name)
	}
	id := s.nextID
	s.nextID++
	return ingestTree{name: name, id: id}, nil
}

func (t ingestTree) checkEmpty() error {
	if t.tree == nil {
		return nil
	}
	empty, err := t.tree.Empty()
	if err == nil && !empty {
		err = fmt.Errorf("%w: tree %q is not empty; drop or clear it, or choose other trees", nexusraft.ErrRefused, t.name)
	}
	return err
}

// set adds a pair to the last tree. Keys ascend.
func (g *ingest) set(key, value []byte) error {
	g.pairs++
	g.all += len(key) + len(value)
	return g.add(g.trees[len(g.trees)-1].id, key, value)
}

func (g *ingest) add(tree uint32, key, value []byte) error {
	if g.bytes >= ingestTableBytes {
		if err := g.endTable(); err != nil {
			return err
		}
	}
	if g.table == nil {
		if err := g.beginTable(); err != nil {
			return err
		}
	}
	g.bytes += len(key) + len(value)
	if err := g.table.Set(appendKey(nil, tree, key), value); err != nil {
		return fmt.Errorf("write a table: %w", err)
	}
	return nil
}

// beginTable creates a file, not through failstop: if this fails, the store lives on.
func (g *ingest) beginTable() error {
	o := g.s.options
	path := o.FS.PathJoin(g.s.dir, fmt.Sprintf("%s%d-%d", ingestFiles, g.number, len(g.paths)))
	f, err := o.FS.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("create a table: %w", err)
	}
	g.paths = append(g.paths, path)
	engine := o.engine(g.s.failstop, nil)
	engine.EnsureDefaults()
	format := engine.FormatMajorVersion.MaxTableFormat()
	g.table = sstable.NewWriter(objstorageprovider.NewFileWritable(f), engine.MakeWriterOptions(lowestLevel, format))
	return nil
}

// endTable completes the table that was begun, if there is one, and syncs it.
func (g *ingest) endTable() error {
	if g.table == nil {
		return nil
	}
	table := g.table
	g.table, g.bytes = nil, 0
	if err := table.Close(); err != nil {
		return fmt.Errorf("complete a table: %w", err)
	}
	meta, err := table.Metadata()
	if err != nil {
		return fmt.Errorf("complete a table: %w", err)
	}
	g.s.failstop.traffic.wrote(g.paths[len(g.paths)-1], int(meta.Size))
	return nil
}

// discard removes the files. It is called in any case; the engine has its own names for those
// that it has taken over.
func (g *ingest) discard() {
	_ = g.endTable()
	for _, path := range g.paths {
		_ = g.s.options.FS.Remove(path) // Open removes it
	}
}

// publish makes the trees visible. All other writes wait meanwhile,
// so that the trees stay empty, or absent, and their IDs the last ones.
func (g *ingest) publish(ctx context.Context) error {
	if err := g.endTable(); err != nil {
		return err
	}
	s := g.s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latches.lock(allLatches)
	defer s.latches.unlock(allLatches)
	if err := g.check(); err != nil {
		return err
	}
	if err := g.register(); err != nil {
		return err
	}
	if err := g.endTable(); err != nil {
		return err
	}
	if err := s.goesOn(ctx); err != nil {
		return err
	}
	if err := s.takeTables(g.paths); err != nil {
		return err
	}
	g.show()
	return nil
}

// check makes sure that all is as it was in begin. The caller holds s.mu and all latches.
func (g *ingest) check() error {
	for _, t := range g.trees {
		if now := g.s.trees.get(t.name); t.name != "" && now != t.tree {
			return fmt.Errorf("%w: tree %q was created or dropped meanwhile", nexusraft.ErrRefused, t.name)
		}
		if err := t.checkEmpty(); err != nil {
			return err
		}
	}
	return nil
}

// register writes the records of the new trees to a table. The caller holds s.mu.
func (g *ingest) register() error {
	records := []record{{keyNextID, encodeID(g.s.nextID)}}
	for _, t := range g.trees {
		if t.tree == nil {
			records = append(records, record{keyTree + t.name, encodeID(t.id)})
		}
	}
	if len(records) == 1 {
		return nil
	}
	slices.SortFunc(records, func(a, b record) int { return strings.Compare(a.key, b.key) })
	for _, r := range records {
		if err := g.add(registry, []byte(r.key), r.value); err != nil {
			return err
		}
	}
	return nil
}

// takeTables has the engine take tables over. What became visible before is synced before: a crash
// takes nothing without all that came after it. Once begun, it is not cut off. The
// caller holds all latches.
func (s *Store) takeTables(paths []string) (err error) {
	defer s.guard(&err)
	if len(paths) == 0 {
		return nil
	}
	if err := s.syncLog(); err != nil {
		return err
	}
	if err := s.db.Ingest(context.Background(), paths); err != nil {
		return fmt.Errorf("take tables over: %w", err)
	}
	return s.syncLog() // it may be in the log alone
}

// syncLog is Flush for a caller that holds latches, whether the store is about to close or not.
func (s *Store) syncLog() error {
	b := s.NewBatch()
	defer b.Close()
	if err := b.apply(true); err != nil {
		return err
	}
	return b.awaitSync()
}

// show tells the handles of the trees. The caller holds s.mu and all latches.
func (g *ingest) show() {
	s := g.s
	s.counts.wrote(g.pairs, g.all)
	for _, t := range g.trees {
		if t.tree == nil {
			s.trees.add(s.newTree(t.name, t.id))
			continue
		}
		s.ends.forget(t.id)
		s.watches.lag(t.tree)
	}
}

// sweepIngests removes what a crash has left of imports.
func (s *Store) sweepIngests() error {
	if s.options.ReadOnly {
		return nil
	}
	names, err := s.options.FS.List(s.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, ingestFiles) {
			continue
		}
		err := s.options.FS.Remove(s.options.FS.PathJoin(s.dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what is left of an import: %w", err)
		}
	}
	return nil
}
