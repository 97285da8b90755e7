package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/nexi-lab/nexus-raft/internal/program"
	"github.com/nexi-lab/nexus-raft/storage"
)

type storeBackupCommand struct {
	storeDir
	Target string `arg:"" help:"Directory to make; absent or empty."`
}

func (*storeBackupCommand) Help() string {
	return `The copy appears when it is complete, read back, and on the disk. On the store's own file system it
shares the tables with the store, by hard links: that takes no room, but is no help when
the disk is lost; give a TARGET on another one for that. The copy is a store itself: all
commands that read take it, and verify it first: CHECKSUMS in it has the SHA-256 of each of its
files. The backup of a node's store is to be read, never to be started.

The store of a member holds private keys: the member's own and that of the cluster's authority, which
signs certificates. A reader of the copy can pass for any node or client of the cluster: protect it as
you protect keys.` + storeHelp + `

Example:

  nexus-raft store backup D1 /mnt/backups/monday`
}

func (c *storeBackupCommand) Run(ctx context.Context, s streams) error {
	if c.Target == "" {
		return usageError{errors.New("TARGET is empty: name the directory to make")}
	}
	return c.read(ctx, func(store *storage.Store) error {
		if err := store.Backup(ctx, c.Target); err != nil {
			return err
		}
		size := program.Size(store.DiskBytes())
		if _, err := fmt.Fprintf(s.out, "backed up %s to %s: %s\n", c.Dir, c.Target, size); err != nil {
			return err
		}
		return warnOfCopies(s, store)
	})
}

type storeRestoreCommand struct {
	Backup string `arg:"" help:"Directory that backup made, or of any other store; it is only read."`
	Dir    string `arg:"" help:"Directory of the store to make; absent or empty."`
}

func (*storeRestoreCommand) Help() string {
	return `Copies every byte and verifies all checksums; the store appears when it is complete, sound, and
on the disk. A file of the backup that is damaged or missing is a failure, which names it. Of a
backup that an earlier release made, without CHECKSUMS, a warning says what can't be verified. A
backup in use by another process is refused.

Example:

  nexus-raft store restore /mnt/backups/monday D1`
}

func (c *storeRestoreCommand) Run(ctx context.Context, s streams) error {
	if c.Backup == "" || c.Dir == "" {
		return usageError{errors.New("BACKUP or DIR is empty: name two directories")}
	}
	from, to := storeDir{c.Backup}, storeDir{c.Dir}
	if err := from.find(); err != nil {
		return err
	}
	p := newStoreProgress(s.err, "copied")
	err := storage.Restore(ctx, c.Backup, c.Dir, p.show)
	p.end()
	switch {
	case err != nil && ctx.Err() != nil:
		return errors.New("interrupted; nothing was restored")
	case err != nil:
		return err
	}
	if _, err := fmt.Fprintf(s.out, "restored %s to %s: %s\n", c.Backup, c.Dir, program.Size(p.done)); err != nil {
		return err
	}
	return to.read(ctx, func(store *storage.Store) error { return warnOfCopies(s, store) })
}

type storeCheckCommand struct {
	storeDir
	JSON bool `help:"Print what was read as one JSON object."`
}

func (*storeCheckCommand) Help() string {
	return `Reads every block of every table, also what newer data covers, and every pair of every tree; of a
backup, every byte of every file. The first damage that it finds is a failure, which names the
file. Nothing is changed.` + storeHelp + `

Example:

  nexus-raft store check D1`
}

func (c *storeCheckCommand) Run(ctx context.Context, s streams) error {
	return c.read(ctx, func(store *storage.Store) error {
		p := newStoreProgress(s.err, "checked")
		read, err := store.Check(ctx, p.show)
		p.end()
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(s.out, checkReport(read))
		}
		_, err = fmt.Fprintf(s.out, "%s is sound: %d tables of %s, %d pairs in %d trees\n", c.Dir, read.Tables,
			program.Size(read.Bytes), read.Pairs, read.Trees)
		return err
	})
}

// checkReport is what check has read, as JSON.
type checkReport struct {
	Tables int64 `json:"tables"`
	Bytes  int64 `json:"bytes"`
	Trees  int64 `json:"trees"`
	Pairs  int64 `json:"pairs"`
}
