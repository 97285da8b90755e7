package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/nexi-lab/nexus-raft/internal/program"
	"github.com/nexi-lab/nexus-raft/storage"
)

type storeExportCommand struct {
	storeDir
	File  string   `arg:"" optional:"" default:"-" help:"File to write; - is standard output."`
	Tree  []string `sep:"none" help:"${exportTree}" placeholder:"NAME"`
	Force bool     `env:"-" help:"Replace the file if there is one."`
}

func (*storeExportCommand) Help() string {
	return `The file has all pairs in order, with checksums, and does not depend on the machine or on the
store's format. It appears when it is complete and on the disk; what a crash of this command
may leave beside it is named FILE.*.tmp.

The store of a member holds private keys: the member's own and that of the cluster's authority, which
signs certificates. A reader of the file can pass for any node or client of the cluster: protect it as
you protect keys.` + storeHelp + `

Examples:

  nexus-raft store export D1 backup.nxr
  nexus-raft store export D1 --tree sessions | ssh other nexus-raft store import D2`
}

func (c *storeExportCommand) Run(ctx context.Context, s streams) error {
	if c.File == "-" && isTerminal(s.out) {
		return usageError{errors.New("export: standard output is a terminal: name a FILE, or send it elsewhere")}
	}
	return c.read(ctx, func(store *storage.Store) error {
		for _, name := range c.Tree {
			if _, err := findTree(store, name); err != nil {
				return err
			}
		}
		if c.File == "-" {
			return c.export(ctx, store, s.out, s.err)
		}
		f, err := createFile(c.File, c.Force)
		if err != nil {
			return fmt.Errorf("export: %w", err)
		}
		defer f.abandon()
		if err := c.export(ctx, store, f, s.err); err != nil {
			return err
		}
		return f.keep()
	})
}

// export writes the trees to w, and what it did to notes.
func (c *storeExportCommand) export(ctx context.Context, store *storage.Store, w, notes io.Writer) error {
	x := store.NewSnapshot()
	defer x.Close()
	p := newStoreProgress(notes, "exported")
	done, err := x.Export(ctx, p.writer(w), c.Tree...)
	p.end()
	if err == nil {
		fmt.Fprintln(notes, "exported", movedText(done))
	}
	return err
}

// movedText is what an export or import was about.
func movedText(x storage.ExportStats) string {
	return fmt.Sprintf("%d pairs of %d trees, %s", x.Pairs, x.Trees, program.Size(x.Bytes))
}

type storeImportCommand struct {
	storeDir
	File string `arg:"" optional:"" default:"-" help:"File that export wrote; - is standard input."`
}

func (*storeImportCommand) Help() string {
	return `All trees of the file appear at once, or, if it is damaged or cut off, none of them. A tree that
exists and is not empty is never touched: then nothing is imported. A store that is absent is
created, and stays, empty, if the import fails. The store must not be a node's.` + storeHelp + `

Examples:

  nexus-raft store import D2 backup.nxr
  nexus-raft store export D1 | nexus-raft store import D2`
}

func (c *storeImportCommand) Run(ctx context.Context, s streams) error {
	in, total, err := c.open(s.in)
	if err != nil {
		return err
	}
	defer in.Close()
	return c.write(ctx, true, func(store *storage.Store) error {
		p := newStoreProgress(s.err, "read")
		done, err := store.Import(ctx, p.reader(in, total))
		p.end()
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(s.out, "imported", movedText(done)); err != nil {
			return err
		}
		return warnOfCopies(s, store)
	})
}

// open returns the file and its size, 0 if that is not known.
func (c *storeImportCommand) open(stdin io.Reader) (io.ReadCloser, int64, error) {
	if c.File == "-" {
		if f, ok := stdin.(*os.File); ok && isTerminal(f) {
			return nil, 0, usageError{errors.New("import: standard input is a terminal: name a FILE")}
		}
		return io.NopCloser(stdin), 0, nil
	}
	f, err := os.Open(c.File)
	if err != nil {
		return nil, 0, fmt.Errorf("import: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a directory; import wants a file that export wrote, and restore what backup wrote", c.File)
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("import: %w", err)
	}
	return f, info.Size(), nil
}

// newFile is a file that gets its name when it is complete: until then it has another one,
// beside it.
type newFile struct {
	*os.File
	path string
}

// createFile refuses a path where there is something, unless it is a file and replace is set.
func createFile(path string, replace bool) (*newFile, error) {
	info, err := os.Lstat(path)
	switch {
	case err == nil && !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file; - is standard output", path)
	case err == nil && !replace:
		return nil, fmt.Errorf("%s is there already; --force replaces it", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		if p, ok := errors.AsType[*fs.PathError](err); ok {
			err = p.Err // the name in p is none that the caller knows
		}
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	return &newFile{File: f, path: path}, nil
}

// keep gives the file its name once it is on the disk.
func (f *newFile) keep() error {
	err := errors.Join(f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), f.path)
	}
	if err == nil && runtime.GOOS != "windows" { // where a directory can't be synced
		err = syncDir(filepath.Dir(f.path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path, err)
	}
	return nil
}

// abandon removes the file unless it was kept.
func (f *newFile) abandon() {
	f.Close()
	os.Remove(f.Name())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
