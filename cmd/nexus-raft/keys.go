package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
	"unicode/utf8"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
	"github.com/nexi-lab/nexus-raft/kv"
)

// asking are the flags of every command that asks a cluster.
type asking struct {
	Endpoints []string `help:"Nodes to ask, separated by commas." default:"127.0.0.1:2026" placeholder:"HOST:PORT"`
	proof
	Timeout time.Duration `help:"${askTimeout}" default:"${timeout}"`
	JSON    bool          `help:"${jsonPairs}"`
}

// client returns a client; o has what the flags don't say.
func (a *asking) client(o client.Options) (*client.Client, error) {
	if a.Timeout <= 0 {
		return nil, usageError{fmt.Errorf("--timeout %v is not above 0", a.Timeout)}
	}
	o.Endpoints = a.Endpoints
	var err error
	if o.Credentials, o.BearerToken, err = a.read(); err != nil {
		return nil, usageError{err}
	}
	c, err := client.New(o)
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// connect returns a client, a context that ends with the timeout, and what ends both.
func (a *asking) connect(ctx context.Context, o client.Options) (*client.Client, context.Context, func(), error) {
	c, err := a.client(o)
	if err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, a.Timeout)
	return c, ctx, func() { cancel(); c.Close() }, nil
}

// remote are the flags of every command that is about one zone.
type remote struct {
	asking
	Zone zoneFlag `help:"The zone, by its name or its ID." default:"root" placeholder:"NAME"`
}

// client is that of asking, for the zone, which is found first.
func (r *remote) client(ctx context.Context, o client.Options) (*client.Client, error) {
	if err := r.Zone.find(ctx, &r.asking); err != nil {
		return nil, err
	}
	o.Zone = r.Zone.id
	return r.asking.client(o)
}

// connect is that of asking, for the zone; the timeout is for both.
func (r *remote) connect(ctx context.Context, o client.Options) (*client.Client, context.Context, func(), error) {
	ctx, cancel := context.WithTimeout(ctx, r.Timeout)
	c, err := r.client(ctx, o)
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
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
	Lease       client.LeaseID     `json:"lease,omitzero"`
}

func newPair(kv client.KeyValue) pair {
	p := pair{Created: kv.CreateRevision, Modified: kv.ModRevision, Version: kv.Version, Lease: kv.Lease}
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

// explain adds the way out to an error of a request about keys.
func explain(err error) error {
	for _, known := range []struct {
		err    error
		wayOut string
	}{
		{nexusraft.ErrUncertain, "read the key before you write it again"},
		{nexusraft.ErrZoneNotFound, "nexus-raft zone list shows which zones there are"},
		{nexusraft.ErrTooLarge, fmt.Sprintf("the limits are %d bytes for a key, and %d for key and value with their frame",
			kv.MaxKeyBytes, kv.MaxRequestBytes)},
		{nexusraft.ErrDiskFull, "nothing was written; nexus-raft status shows whose disk is full"},
	} {
		if errors.Is(err, known.err) {
			return fmt.Errorf("%w; %s", err, known.wayOut)
		}
	}
	return err
}

type putCommand struct {
	Key   string  `arg:"" help:"Key, 1 byte to 4 KiB."`
	Value *string `arg:"" optional:"" help:"Value."`
	File  string  `help:"Read the value from this file instead, as it is; - is standard input." placeholder:"FILE"`

	Lease client.LeaseID `help:"Delete the key when this lease ends; its ID is hexadecimal." placeholder:"ID"`
	hexFlag
	remote
}

func (*putCommand) Help() string {
	return `Prints the revision that the write made and on how many data copies it was when it was
acknowledged. If the outcome is not known, the write may have happened or may still happen.

Examples:

  nexus-raft put greeting hello --endpoints 127.0.0.1:2026,127.0.0.1:2036
  nexus-raft put picture --file picture.png
  nexus-raft put --endpoints 127.0.0.1:2026 -- balance -5
  nexus-raft put 6100ff 2d35 --hex
  nexus-raft put here "$HOSTNAME" --lease 694d81417acd4754`
}

func (c *putCommand) Run(ctx context.Context, s streams) error {
	key, err := c.bytes("KEY", c.Key)
	if err != nil {
		return err
	}
	value, err := argumentOrFile("put", "VALUE", c.Value, c.File, s.in, kv.MaxRequestBytes)
	if err != nil {
		return err
	}
	if c.Value != nil {
		if value, err = c.bytes("VALUE", *c.Value); err != nil {
			return err
		}
	}
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	r, err := conn.PutLeased(ctx, key, value, c.Lease)
	if err != nil {
		return explainLease(err)
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

// argumentOrFile returns a command's argument, or what is in the file that takes its place,
// as far as it is not too long to be refused.
func argumentOrFile(command, name string, argument *string, file string, in io.Reader, limit int64) ([]byte, error) {
	switch {
	case (argument == nil) == (file == ""):
		return nil, usageError{fmt.Errorf("%s: give a %s or --file FILE", command, name)}
	case argument != nil:
		return []byte(*argument), nil
	case file != "-":
		f, err := os.Open(file)
		if err != nil {
			return nil, fmt.Errorf("%s: --file: %w", command, err)
		}
		defer f.Close()
		in = f
	}
	content, err := io.ReadAll(io.LimitReader(in, limit+1)) // one more, to be refused
	if err != nil {
		return nil, fmt.Errorf("%s: --file %s: %w", command, file, err)
	}
	return content, nil
}

type getCommand struct {
	Key string `arg:"" help:"Key."`
	atRevision
	hexFlag
	remote
}

func (*getCommand) Help() string {
	return `Prints the value alone; as a quoted string if not all of it can be printed or if it begins with
a quotation mark. A key that is absent is a failure. The read sees every write that was
acknowledged before it began. With --rev it is what was stored as of that revision.

Examples:

  nexus-raft get greeting
  nexus-raft get greeting --rev 7`
}

func (c *getCommand) Run(ctx context.Context, s streams) error {
	key, err := c.bytes("KEY", c.Key)
	if err != nil {
		return err
	}
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	kv, found, err := conn.GetAt(ctx, key, nexusraft.Revision(c.Rev))
	switch {
	case err != nil:
		return explainRevision(ctx, conn, "get", c.Rev, err)
	case !found && c.Rev > 0:
		return fmt.Errorf("get: there was no key %.64q as of revision %d", key, c.Rev)
	case !found:
		return fmt.Errorf("get: there is no key %.64q", key)
	case c.JSON:
		return printJSON(s.out, newPair(kv))
	}
	_, err = fmt.Fprintln(s.out, c.text(kv.Value))
	return err
}

type delCommand struct {
	Key string `arg:"" help:"Key."`
	hexFlag
	remote
}

func (*delCommand) Help() string {
	return `Prints how many keys were deleted: 1, or 0 if the key was absent, which is no failure.

Example:

  nexus-raft del greeting`
}

func (c *delCommand) Run(ctx context.Context, s streams) error {
	key, err := c.bytes("KEY", c.Key)
	if err != nil {
		return err
	}
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	r, err := conn.Delete(ctx, key)
	if err != nil {
		return explain(err)
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
	atRevision
	hexFlag
	remote
}

func (*listCommand) Help() string {
	return `Prints a line for each key: key, tab, value, either as a quoted string if not all of it can be
printed or if it begins with a quotation mark. It reads page after page, and --timeout is for each
of them; the pages are not one snapshot. With --rev they are: what was stored as of that revision.

Examples:

  nexus-raft list users/ --json
  nexus-raft list users/ --rev 7`
}

func (c *listCommand) Run(ctx context.Context, s streams) error {
	prefix, err := c.bytes("PREFIX", c.Prefix)
	if err != nil {
		return err
	}
	conn, err := c.client(ctx, client.Options{PageTimeout: c.Timeout})
	if err != nil {
		return err
	}
	defer conn.Close()
	pairs := conn.List(ctx, prefix)
	if c.Rev > 0 {
		pairs = conn.ListAt(ctx, prefix, nexusraft.Revision(c.Rev))
	}
	for kv, err := range pairs {
		if err != nil {
			ctx, cancel := context.WithTimeout(ctx, c.Timeout)
			defer cancel()
			return explainRevision(ctx, conn, "list", c.Rev, err)
		}
		if c.JSON {
			err = printJSON(s.out, newPair(kv))
		} else {
			_, err = fmt.Fprintf(s.out, "%s\t%s\n", c.text(kv.Key), c.text(kv.Value))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
