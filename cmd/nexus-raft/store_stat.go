package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/nexi-lab/nexus-raft/internal/program"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/storage"
)

type storeStatCommand struct {
	storeDir
	JSON bool `help:"Print one JSON object."`
}

func (*storeStatCommand) Help() string {
	return `The command reads the whole store to count its keys. BYTES are those of keys and values; on the disk
they are compressed, and overwritten values stay for a while. A store that was not closed in order may
have lost unsynced writes, and nothing else.` + storeHelp + `

Example:

  nexus-raft store stat D1 --json`
}

// storeReport is what stat finds out.
type storeReport struct {
	Dir       string           `json:"dir"`
	Node      nexusraft.NodeID `json:"node,omitzero"` // whose directory it is, if a node's
	Recovered bool             `json:"recovered"`     // not closed in order
	DiskBytes int64            `json:"disk_bytes"`
	Levels    []levelReport    `json:"levels"` // those that have tables
	Trees     []treeReport     `json:"trees"`  // the default tree first
}

type levelReport struct {
	Level  int   `json:"level"`
	Tables int64 `json:"tables"`
	Bytes  int64 `json:"bytes"`
}

type treeReport struct {
	Name  string `json:"name"` // empty for the default tree
	Keys  int64  `json:"keys"`
	Bytes int64  `json:"bytes"` // of keys and values
}

func (c *storeStatCommand) Run(ctx context.Context, s streams) error {
	return c.read(ctx, func(store *storage.Store) error {
		r, err := c.report(ctx, s, store)
		switch {
		case err != nil:
			return err
		case c.JSON:
			return printJSON(s.out, r)
		}
		return r.print(s.out)
	})
}

func (c *storeStatCommand) report(ctx context.Context, s streams, store *storage.Store) (r storeReport, err error) {
	stats := store.Stats()
	r = storeReport{Dir: c.Dir, Recovered: stats.Recovered, DiskBytes: stats.DiskBytes, Levels: []levelReport{}}
	for i, l := range stats.Levels {
		if l.Tables > 0 {
			r.Levels = append(r.Levels, levelReport{i, l.Tables, l.Bytes})
		}
	}
	if r.Node, _, err = node.Holder(store); err != nil {
		return r, err
	}
	names, err := store.Trees()
	if err != nil {
		return r, err
	}
	p := newStoreProgress(s.err, "counted")
	defer p.end()
	for _, name := range append([]string{""}, names...) {
		t, err := countTree(ctx, store, name, p)
		if err != nil {
			return r, err
		}
		r.Trees = append(r.Trees, t)
	}
	return r, nil
}

// countTree reads a whole tree.
func countTree(ctx context.Context, store *storage.Store, name string, p *storeProgress) (r treeReport, err error) {
	tree, err := findTree(store, name)
	if err != nil {
		return r, err
	}
	r.Name = name
	for pair, err := range tree.Scan(nil, nil) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return r, err
		}
		r.Keys++
		r.Bytes += int64(len(pair.Key) + len(pair.Value))
		p.add(int64(len(pair.Key)+len(pair.Value)), 0)
	}
	return r, nil
}

func (r storeReport) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "store\t%s\n", r.Dir)
	if r.Node != 0 {
		fmt.Fprintf(t, "owner\tnode %v\n", r.Node)
	}
	closed := "in order"
	if r.Recovered {
		closed = "NOT IN ORDER: what was not synced then may be lost"
	}
	fmt.Fprintf(t, "closed\t%s\n", closed)
	fmt.Fprintf(t, "on disk\t%s\n", program.Size(r.DiskBytes))
	fmt.Fprintln(t, "\nLEVEL\tTABLES\tBYTES")
	for _, l := range r.Levels {
		fmt.Fprintf(t, "%d\t%d\t%s\n", l.Level, l.Tables, program.Size(l.Bytes))
	}
	fmt.Fprintln(t, "\nTREE\tKEYS\tBYTES")
	for _, x := range r.Trees {
		name := "(default)"
		if x.Name != "" {
			name = printable(x.Name)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\n", name, x.Keys, program.Size(x.Bytes))
	}
	return t.Flush()
}
