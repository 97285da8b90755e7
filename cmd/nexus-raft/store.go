package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/storage"
)

// storeCommand is about a store's directory on this machine, which no process has open.
type storeCommand struct {
	Stat    storeStatCommand    `cmd:"" help:"Print facts, and how many keys each tree has."`
	Trees   storeTreesCommand   `cmd:"" help:"Print the names of the trees."`
	Get     storeGetCommand     `cmd:"" help:"Print the value at a key."`
	Put     storePutCommand     `cmd:"" help:"Store a value at a key."`
	Scan    storeScanCommand    `cmd:"" help:"Print keys and values in order."`
	Export  storeExportCommand  `cmd:"" help:"Write trees to a file that any store can import."`
	Import  storeImportCommand  `cmd:"" help:"Read trees from a file that export wrote."`
	Backup  storeBackupCommand  `cmd:"" help:"Copy a store to a new directory, at once."`
	Restore storeRestoreCommand `cmd:"" help:"Make a store of a backup, and verify every byte."`
	Check   storeCheckCommand   `cmd:"" help:"Read everything and verify its checksums."`
}

// storeHelp ends the help of every command that opens a store.
const storeHelp = `

A store that a running node, or any other process, has open is refused.`

// witnessFile is in every data directory of a witness.
const witnessFile = "witness.lock"

// storeDir is the argument of every command on a store.
type storeDir struct {
	Dir string `arg:"" help:"Directory of the store."`
}

// read has use look into the store, opened so that nothing of it can be changed.
func (d *storeDir) read(ctx context.Context, use func(*storage.Store) error) error {
	if err := d.find(); err != nil {
		return err
	}
	return d.with(ctx, storage.Options{ReadOnly: true}, use)
}

// write has use change the store, unless it is a node's. One that is absent is created if
// create is set.
func (d *storeDir) write(ctx context.Context, create bool, use func(*storage.Store) error) error {
	exists, err := d.exists()
	if exists || !create {
		err = d.read(ctx, d.refuseNode)
	}
	if err != nil {
		return err
	}
	return d.with(ctx, storage.Options{}, use)
}

// find returns an error unless there is a store.
func (d *storeDir) find() error {
	exists, err := d.exists()
	foreign, ok := errors.AsType[*storage.ForeignError](err)
	switch {
	case ok && slices.Contains(foreign.Names, witnessFile):
		return fmt.Errorf("%s holds no store: it is the directory of a witness, which holds no data", d.Dir)
	case ok:
		return fmt.Errorf("%s holds no store: it has %q", d.Dir, foreign.First)
	case err == nil && !exists:
		return fmt.Errorf("there is no store in %s", d.Dir)
	}
	return err
}

// exists reports whether there is a store; without one, the directory is absent or empty.
func (d *storeDir) exists() (bool, error) {
	if d.Dir == "" {
		return false, usageError{errors.New("DIR is empty: name the directory of a store")}
	}
	return storage.Exists(d.Dir, nil)
}

// with opens the store for use. What goes wrong is an error, so that its log is not needed.
func (d *storeDir) with(ctx context.Context, o storage.Options, use func(*storage.Store) error) error {
	o.Logger = slog.New(slog.DiscardHandler)
	store, err := storage.Open(d.Dir, &o)
	if err != nil {
		return err
	}
	err = use(store)
	if closeErr := store.Close(); err == nil {
		err = closeErr
	}
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// refuseNode returns an error if the store is a node's.
func (d *storeDir) refuseNode(store *storage.Store) error {
	id, held, err := node.Holder(store)
	if err == nil && held {
		err = fmt.Errorf("%w: %s belongs to node %v, and a replica must not be changed by hand; start the node, and ask "+
			"it: nexus-raft put", nexusraft.ErrRefused, d.Dir, id)
	}
	return err
}

// warnOfCopies says what can't be done with the copy of a node's store.
func warnOfCopies(s streams, store *storage.Store) error {
	id, held, err := node.Holder(store)
	if err == nil && held {
		fmt.Fprintf(s.err, "warning: this is the store of node %v: a copy is to be read, not to be started; beside the "+
			"node or after it, it is fenced (invariant I5)\n", id)
	}
	return err
}

// findTree returns the tree of that name, the default tree if it is empty, or an error that
// names those that there are.
func findTree(store *storage.Store, name string) (*storage.Tree, error) {
	if name == "" {
		return store.Default(), nil
	}
	t, ok, err := store.OpenTree(name)
	if err != nil || ok {
		return t, err
	}
	names, err := store.Trees()
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("there is no tree %.64q; the store has the default tree%s", name, listNames(names))
}

// listNames puts a few names into a sentence.
func listNames(names []string) string {
	const most = 8
	var b strings.Builder
	for _, name := range names[:min(len(names), most)] {
		fmt.Fprintf(&b, ", %q", name)
	}
	if more := len(names) - most; more > 0 {
		fmt.Fprintf(&b, " and %d more: nexus-raft store trees", more)
	}
	return b.String()
}

// treeText is what people call a tree.
func treeText(name string) string {
	if name == "" {
		return "the default tree"
	}
	return fmt.Sprintf("tree %q", name)
}
