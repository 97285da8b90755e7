package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
	"github.com/nexi-lab/nexus-raft/kv"
)

type txnCommand struct {
	File string `arg:"" optional:"" default:"-" help:"File with the transaction; - is standard input."`
	remote
}

func (*txnCommand) Help() string {
	return `Runs requests as one: all or nothing, at one revision, and seen by nobody in part. The text has three
blocks, in the syntax of etcdctl's txn, each ended by a blank line: compares, requests that run if all of
them hold, and requests that run otherwise. A terminal is asked for each of them, and a line that is wrong
is asked for again.

  value("KEY") = "TEXT"    also version, create, mod with a number, lease with an ID; = != < >
  put KEY VALUE            --prev-kv, --ignore-value, --lease=ID, --ignore-lease
  get KEY [END]            --prefix, --from-key, --limit=N, --rev=N, --keys-only, --count-only
  del KEY [END]            --prefix, --from-key, --prev-kv

Words may be in double quotes, as in Go ("a\tb", "\xff"), or in single ones, in which a backslash is one.
An absent key has 0 for all numbers. Prints which block has run, and what each request came to; that the
compares did not hold is no failure.

Example: take a lock that nobody has, or say who has it.

  nexus-raft txn <<'END'
  version("lock") = "0"

  put lock "me"

  get lock

  END`
}

func (c *txnCommand) Run(ctx context.Context, s streams) error {
	script, err := c.read(ctx, s)
	if err != nil {
		return err
	}
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	r, err := conn.Txn(ctx, script.txn())
	if err != nil {
		return explainTxn(ctx, conn, script, err)
	}
	ran := script.branches[1]
	if r.Succeeded {
		ran = script.branches[0]
	}
	if c.JSON {
		return printJSON(s.out, newTxnOut(ran, r))
	}
	return printTxn(s.out, ran, r)
}

// read returns the transaction, or an error if ctx ends before it is read.
func (c *txnCommand) read(ctx context.Context, s streams) (txnScript, error) {
	in, talk := s.in, io.Writer(nil)
	switch {
	case c.File != "-":
		f, err := os.Open(c.File)
		if err != nil {
			return txnScript{}, fmt.Errorf("txn: %w", err)
		}
		defer f.Close()
		in = f
	case isTerminal(s.in):
		talk = s.err
	}
	type outcome struct {
		script txnScript
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		script, err := readScript(in, talk)
		done <- outcome{script, err}
	}()
	select {
	case <-ctx.Done():
		return txnScript{}, errors.New("txn: interrupted, nothing was written")
	case o := <-done:
		if o.err != nil {
			return txnScript{}, fmt.Errorf("txn: %s%w", c.source(), o.err)
		}
		return o.script, nil
	}
}

// source names the file that an error is about.
func (c *txnCommand) source() string {
	if c.File == "-" {
		return ""
	}
	return printable(c.File) + ", "
}

// explainTxn adds the way out to an error of a transaction.
func explainTxn(ctx context.Context, conn *client.Client, script txnScript, err error) error {
	switch {
	case errors.Is(err, nexusraft.ErrUncertain):
		return fmt.Errorf("%w; read its keys before you send it again", err)
	case errors.Is(err, client.ErrCompacted), errors.Is(err, client.ErrFutureRevision):
		return explainTxnRevision(ctx, conn, script, err)
	case strings.Contains(err.Error(), kv.ErrTooManyOps.Error()):
		return fmt.Errorf("%w; split it: a node takes %d compares, and as many requests in a block, by default", err,
			kv.MaxTxnOps)
	case strings.Contains(err.Error(), kv.ErrDuplicateKey.Error()):
		return fmt.Errorf("%w; a block puts a key once, and does not delete it as well", err)
	case strings.Contains(err.Error(), kv.ErrKeyNotFound.Error()):
		return fmt.Errorf("%w; put --ignore-value and --ignore-lease want one that is there", err)
	case errors.Is(err, client.ErrLeaseNotFound):
		return explainLease(err)
	}
	return explain(err)
}

// explainTxnRevision names the get that asks for a revision which can't be read.
func explainTxnRevision(ctx context.Context, conn *client.Client, script txnScript, err error) error {
	oldest, newest, failed := conn.Revisions(ctx)
	if failed != nil {
		return fmt.Errorf("%w; which revisions can be read is not known: %w", err, failed)
	}
	for _, branch := range script.branches {
		for _, r := range branch {
			g, ok := r.operation.(client.Get)
			if ok && g.Revision > 0 && (g.Revision < oldest || g.Revision > newest) {
				return revisionText(fmt.Sprintf("txn: line %d", r.line), revision(g.Revision), oldest, newest)
			}
		}
	}
	return err
}
