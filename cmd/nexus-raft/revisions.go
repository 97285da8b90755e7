package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// revision is one as a command line names it; 0 if it names none.
type revision nexusraft.Revision

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *revision) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 10, 63)
	if err != nil || n == 0 {
		return fmt.Errorf("%.40q is no revision: expected a whole number from 1 on, such as put prints", text)
	}
	*r = revision(n)
	return nil
}

// atRevision is for commands that read.
type atRevision struct {
	Rev revision `help:"Read what was stored as of this revision; by default the newest." placeholder:"N"`
}

// explainRevision adds the way out to an error of a request that names a revision; what is the command, or a part of
// it.
func explainRevision(ctx context.Context, conn *client.Client, what string, rev revision, err error) error {
	if !errors.Is(err, client.ErrCompacted) && !errors.Is(err, client.ErrFutureRevision) {
		return explain(err)
	}
	oldest, newest, failed := conn.Revisions(ctx)
	if failed != nil {
		return fmt.Errorf("%w; which revisions can be read is not known: %w", err, failed)
	}
	return revisionText(what, rev, oldest, newest)
}

// revisionText is the error for a revision that is not one of those that can be read.
func revisionText(what string, rev revision, oldest, newest nexusraft.Revision) error {
	if nexusraft.Revision(rev) > newest {
		return fmt.Errorf("%s: revision %d is not there yet: the newest is %d, the oldest that can be read %d", what, rev,
			newest, oldest)
	}
	return fmt.Errorf("%s: revision %d is compacted: the oldest that can be read is %d, the newest %d", what, rev, oldest,
		newest)
}

type compactCommand struct {
	Rev      revision `arg:"" help:"The revision that becomes the oldest that can be read."`
	Physical bool     `help:"Wait until the disk space of what is gone can be used again, --timeout at most."`
	remote
}

func (*compactCommand) Help() string {
	return `Lets go of what only reads of older revisions can see. Pairs that have not changed since stay, and so do
all newer versions. There is no way back. nexus-raft history KEY shows what is kept of a key.

Example:

  nexus-raft compact 4711`
}

func (c *compactCommand) Run(ctx context.Context, s streams) error {
	conn, bounded, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	if err := conn.Compact(bounded, nexusraft.Revision(c.Rev), c.Physical); err != nil {
		return c.explain(bounded, conn, err)
	}
	if c.JSON {
		return printJSON(s.out, struct {
			Oldest nexusraft.Revision `json:"oldest_revision"`
		}{nexusraft.Revision(c.Rev)})
	}
	_, err = fmt.Fprintf(s.out, "the oldest revision that can be read is %d\n", c.Rev)
	return err
}

func (c *compactCommand) explain(ctx context.Context, conn *client.Client, err error) error {
	if errors.Is(err, nexusraft.ErrUncertain) {
		return fmt.Errorf("%w; compact it again: a second time does no harm", err)
	}
	if oldest, newest, failed := conn.Revisions(ctx); failed == nil && errors.Is(err, client.ErrCompacted) {
		return fmt.Errorf("compact: it is done: the oldest revision that can be read is %d already, the newest %d", oldest,
			newest)
	}
	return explainRevision(ctx, conn, "compact", c.Rev, err)
}

type historyCommand struct {
	Key string `arg:"" help:"Key."`
	hexFlag
	remote
}

func (*historyCommand) Help() string {
	return `Prints a line for each version of a key that is kept, and for each time when it was deleted, oldest first:
the revision that made it, the one that created the key, how many versions there were since, the size of
its value in bytes, and whether it is a deletion. What a compaction has removed is not there. Read a value
with nexus-raft get KEY --rev N. A key of which nothing is kept is a failure.

Example:

  nexus-raft history greeting`
}

// versionOut is a version as JSON.
type versionOut struct {
	Revision nexusraft.Revision `json:"revision"`
	Created  nexusraft.Revision `json:"create_revision"`
	Version  int64              `json:"version"`
	Bytes    int64              `json:"bytes"`
	Lease    client.LeaseID     `json:"lease,omitzero"`
	Deleted  bool               `json:"deleted"`
}

func (c *historyCommand) Run(ctx context.Context, s streams) error {
	key, err := c.bytes("KEY", c.Key)
	if err != nil {
		return err
	}
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	versions := 0
	table := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for v, err := range conn.History(ctx, key) {
		if err != nil {
			return errors.Join(table.Flush(), explain(err))
		}
		if versions++; c.JSON {
			err = printJSON(s.out, versionOut{v.Revision, v.CreateRevision, v.Version, v.Bytes, v.Lease, v.Deleted()})
		} else {
			err = printVersion(table, versions == 1, v)
		}
		if err != nil {
			return err
		}
	}
	if versions == 0 {
		return c.nothing(ctx, conn, key)
	}
	return table.Flush()
}

func printVersion(table *tabwriter.Writer, first bool, v client.KeyVersion) error {
	if first {
		fmt.Fprintln(table, "REVISION\tCREATED\tVERSION\tBYTES\tDELETED")
	}
	if v.Deleted() {
		_, err := fmt.Fprintf(table, "%d\t-\t-\t-\tyes\n", v.Revision)
		return err
	}
	_, err := fmt.Fprintf(table, "%d\t%d\t%d\t%d\tno\n", v.Revision, v.CreateRevision, v.Version, v.Bytes)
	return err
}

// nothing is the error for a key without a history.
func (c *historyCommand) nothing(ctx context.Context, conn *client.Client, key []byte) error {
	oldest, _, err := conn.Revisions(ctx)
	if err != nil {
		return explain(err)
	}
	if oldest > 1 {
		return fmt.Errorf("history: nothing is kept of a key %.64q: it was never there, or not since revision %d, the "+
			"oldest that can be read", key, oldest)
	}
	return fmt.Errorf("history: there was never a key %.64q", key)
}
