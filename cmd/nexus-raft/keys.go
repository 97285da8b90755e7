package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// remote are the flags of every command that asks a cluster.
type remote struct {
	Endpoints []string      `help:"Nodes to ask, separated by commas; any that answers will do." default:"127.0.0.1:2026" placeholder:"HOST:PORT"`
	Timeout   time.Duration `help:"How long to try." default:"5s"`
	JSON      bool          `help:"Print JSON, one object per line. A key or value that is not valid UTF-8 is in the field key_base64 or value_base64 instead of key or value."`
}

// connect returns a client, a context that ends with the timeout, and what ends both.
func (r *remote) connect(ctx context.Context) (*client.Client, context.Context, func(), error) {
	if r.Timeout <= 0 {
		return nil, nil, nil, usageError{fmt.Errorf("--timeout %v is not above 0", r.Timeout)}
	}
	c, err := client.New(client.Options{Endpoints: r.Endpoints})
	if err != nil {
		return nil, nil, nil, usageError{err}
	}
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	return c, ctx, func() { cancel(); c.Close() }, nil
}

// pair is a key-value pair as JSON.
type pair struct {
	Key         *string            `json:"key,omitempty"`
	KeyBase64   []byte             `json:"key_base64,omitempty"`
	Value       *string            `json:"value,omitempty"`
	ValueBase64 []byte             `json:"value_base64,omitempty"`
	Created     nexusraft.Revision `json:"create_revision"`
	Modified    nexusraft.Revision `json:"mod_revision"`
	Version     int64              `json:"version"`
}

func newPair(kv client.KeyValue) pair {
	p := pair{Created: kv.CreateRevision, Modified: kv.ModRevision, Version: kv.Version}
	p.Key, p.KeyBase64 = textOrBytes(kv.Key)
	p.Value, p.ValueBase64 = textOrBytes(kv.Value)
	return p
}

// textOrBytes returns b as text if it is valid UTF-8, otherwise as bytes.
func textOrBytes(b []byte) (*string, []byte) {
	if !utf8.Valid(b) {
		return nil, b
	}
	s := string(b)
	return &s, nil
}

// printJSON prints one object as one line.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

type putCommand struct {
	Key   string `arg:"" help:"Key, 1 byte to 4 KiB."`
	Value string `arg:"" help:"Value."`
	remote
}

func (*putCommand) Help() string {
	return `Prints the revision that the write made and on how many data copies it was when it was
acknowledged. If the outcome is not known, the write may have happened or may still happen.

Example:

  nexus-raft put greeting hello --endpoints 127.0.0.1:2026,127.0.0.1:2036`
}

func (c *putCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer end()
	r, err := conn.Put(ctx, []byte(c.Key), []byte(c.Value))
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, struct {
			Revision nexusraft.Revision `json:"revision"`
			Copies   int                `json:"copies"`
		}{r.Revision, r.Copies})
	}
	_, err = fmt.Fprintf(s.out, "revision %d, data copies %d\n", r.Revision, r.Copies)
	return err
}

type getCommand struct {
	Key string `arg:"" help:"Key."`
	remote
}

func (*getCommand) Help() string {
	return `Prints the value alone; as a quoted string if not all of it can be printed or if it begins with
a quotation mark. A key that is absent is a failure. The read sees every write that was
acknowledged before it began.

Example:

  nexus-raft get greeting`
}

func (c *getCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer end()
	kv, found, err := conn.Get(ctx, []byte(c.Key))
	switch {
	case err != nil:
		return err
	case !found:
		return fmt.Errorf("get: there is no key %q", c.Key)
	case c.JSON:
		return printJSON(s.out, newPair(kv))
	}
	_, err = fmt.Fprintln(s.out, printable(string(kv.Value)))
	return err
}

type delCommand struct {
	Key string `arg:"" help:"Key."`
	remote
}

func (*delCommand) Help() string {
	return `Prints how many keys were deleted: 1, or 0 if the key was absent, which is no failure.

Example:

  nexus-raft del greeting`
}

func (c *delCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer end()
	r, err := conn.Delete(ctx, []byte(c.Key))
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, struct {
			Deleted  int64              `json:"deleted"`
			Revision nexusraft.Revision `json:"revision"`
			Copies   int                `json:"copies"`
		}{r.Deleted, r.Revision, r.Copies})
	}
	_, err = fmt.Fprintf(s.out, "deleted %d\n", r.Deleted)
	return err
}

type listCommand struct {
	Prefix string `arg:"" optional:"" help:"Prefix; all keys without one."`
	remote
}

func (*listCommand) Help() string {
	return `Prints a line for each key: key, tab, value, either as a quoted string if not all of it can be
printed or if it begins with a quotation mark.

Example:

  nexus-raft list users/ --json`
}

func (c *listCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer end()
	for kv, err := range conn.List(ctx, []byte(c.Prefix)) {
		if err != nil {
			return err
		}
		if c.JSON {
			err = printJSON(s.out, newPair(kv))
		} else {
			_, err = fmt.Fprintf(s.out, "%s\t%s\n", printable(string(kv.Key)), printable(string(kv.Value)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
