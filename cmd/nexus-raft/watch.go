package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

type watchCommand struct {
	Prefix string   `arg:"" optional:"" help:"Prefix of the keys; all keys without one."`
	Exact  bool     `help:"Only the key of exactly this name, and not those that begin with it."`
	Rev    revision `help:"Begin with this revision; by default with what happens from now on." placeholder:"N"`
	Prev   bool     `help:"Print also what was there before each change."`
	Count  uint64   `help:"End after so many changes." placeholder:"N"`
	hexFlag
	remote
}

func (*watchCommand) Help() string {
	return `Prints a line for each change of a key: revision, put or delete, key, and of a put the value, separated by
tabs, each as a quoted string if not all of it can be printed or if it begins with a quotation mark. With
--prev a last column has the value that was there before, if any. When a node fails, the command goes on
through another one, without a gap. SIGINT ends it; it then says on standard error from which revision to
go on: with --count that may be the last one printed, if it has more changes. --timeout is for the first
answer.

With --rev it begins with the past. Old revisions are kept for a while only (nexus-raft serve
--auto-compaction-retention): if the wanted ones are compacted, the command fails and says which is the
oldest.

With --json: one object per line, with revision, type (put or delete), the pair, of a deletion without a
value, and with --prev previous, the pair that was there.

Examples:

  nexus-raft watch users/ --endpoints 127.0.0.1:2026,127.0.0.1:2036
  nexus-raft watch --exact greeting --rev 2 --prev --json`
}

func (c *watchCommand) Run(ctx context.Context, s streams) error {
	keys, err := c.keys()
	if err != nil {
		return err
	}
	conn, err := c.client(ctx, client.Options{OnWait: sayWhy(s.err)})
	if err != nil {
		return err
	}
	defer conn.Close()
	next, err := c.follow(ctx, conn, keys, s.out)
	if next != 0 {
		fmt.Fprintf(s.err, "to go on: --rev %d\n", next)
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // SIGINT or SIGTERM is how it ends
	}
	if compacted, ok := errors.AsType[*client.WatchCompactedError](err); ok {
		return fmt.Errorf("watch: revision %d is compacted: the oldest that can be watched is %d", compacted.From,
			compacted.Compacted)
	}
	return explain(err)
}

func (c *watchCommand) keys() (client.KeySet, error) {
	b, err := c.bytes("PREFIX", c.Prefix)
	switch {
	case err != nil:
		return client.KeySet{}, err
	case !c.Exact:
		return client.Prefix(b), nil
	case len(b) == 0:
		return client.KeySet{}, usageError{errors.New("--exact needs the name of a key")}
	}
	return client.Key(b), nil
}

// follow prints changes until there were enough, or something fails. Next is the revision to go on from, 0 if the watch
// never stood.
func (c *watchCommand) follow(
	ctx context.Context, conn *client.Client, keys client.KeySet, out io.Writer,
) (next nexusraft.Revision, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	impatience := time.AfterFunc(c.Timeout, func() { cancel(errNoAnswer) })
	defer impatience.Stop()
	left := c.Count // 0 is for ever: it wraps around
	o := client.WatchOptions{From: nexusraft.Revision(c.Rev), Previous: c.Prev}
	for batch, err := range conn.Watch(ctx, keys, o) {
		impatience.Stop()
		if err != nil {
			if context.Cause(ctx) == errNoAnswer {
				err = fmt.Errorf("watch: %w within %v: %w", errNoAnswer, c.Timeout, err)
			}
			return next, err
		}
		for i, change := range batch.Changes {
			if err := c.print(out, change); err != nil {
				return next, err
			}
			if left--; left == 0 {
				return afterChange(batch, i), nil
			}
		}
		next = batch.Through + 1
	}
	return next, nil
}

// afterChange returns the revision from which to go on after the change of a batch with an index. It is that change's
// own if others of the same revision follow: rather is one printed twice than another never.
func afterChange(batch client.KeyChanges, i int) nexusraft.Revision {
	if i+1 < len(batch.Changes) {
		return batch.Changes[i+1].Pair.ModRevision
	}
	return batch.Through + 1
}

// changeOut is a change as JSON.
type changeOut struct {
	Revision nexusraft.Revision `json:"revision"`
	Type     string             `json:"type"` // put or delete
	Pair     pair               `json:"pair"` // one that was deleted has no value
	Previous *pair              `json:"previous,omitempty"`
}

func (c *watchCommand) print(out io.Writer, change client.KeyChange) error {
	o := changeOut{Revision: change.Pair.ModRevision, Type: "put", Pair: newPair(change.Pair)}
	if change.Deleted {
		o.Type, o.Pair.Value = "delete", nil
	}
	if change.Previous != nil {
		previous := newPair(*change.Previous)
		o.Previous = &previous
	}
	if c.JSON {
		return printJSON(out, o)
	}
	line := fmt.Sprintf("%d\t%s\t%s", o.Revision, o.Type, c.text(change.Pair.Key))
	if !change.Deleted || c.Prev {
		line += "\t"
	}
	if !change.Deleted {
		line += c.text(change.Pair.Value)
	}
	if c.Prev {
		line += "\t"
	}
	if change.Previous != nil {
		line += c.text(change.Previous.Value)
	}
	_, err := fmt.Fprintln(out, line)
	return err
}
