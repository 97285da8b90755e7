package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// inTree are the arguments of commands on the keys of one tree.
type inTree struct {
	Tree string `help:"The tree; by default the store's default tree, which has no name." placeholder:"NAME"`
	hexFlag
}

// hexFlag is for keys and values that no command line can carry as they are.
type hexFlag struct {
	Hex bool `help:"Take keys and values, and print them, in hexadecimal; with --json, take them so."`
}

// bytes returns what an argument stands for.
func (c *hexFlag) bytes(name, argument string) ([]byte, error) {
	if !c.Hex {
		return []byte(argument), nil
	}
	b, err := hex.DecodeString(argument)
	if err != nil {
		return nil, usageError{fmt.Errorf("%s %.64q is not hexadecimal, as --hex wants it", name, argument)}
	}
	return b, nil
}

// text is how a key or value is printed.
func (c *hexFlag) text(b []byte) string {
	if c.Hex {
		return hex.EncodeToString(b)
	}
	return printable(string(b))
}

// storedPair is a pair as JSON.
type storedPair struct {
	Key         *string `json:"key,omitempty"`
	KeyBase64   []byte  `json:"key_base64,omitempty"`
	Value       *string `json:"value,omitempty"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
}

// storeJSON is the flag of commands that print pairs.
type storeJSON struct {
	JSON bool `help:"${jsonPairs}"`
}

type storeTreesCommand struct {
	storeDir
	JSON bool `help:"Print JSON, one object per line."`
}

func (*storeTreesCommand) Help() string {
	return `Prints a name a line, in order. The default tree, which each store has, has no name and is not
among them.` + storeHelp + `

Example:

  nexus-raft store trees D1`
}

func (c *storeTreesCommand) Run(ctx context.Context, s streams) error {
	return c.read(ctx, func(store *storage.Store) error {
		names, err := store.Trees()
		if err != nil {
			return err
		}
		for _, name := range names {
			if c.JSON {
				err = printJSON(s.out, struct {
					Name string `json:"name"`
				}{name})
			} else {
				_, err = fmt.Fprintln(s.out, printable(name))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

type storeGetCommand struct {
	storeDir
	Key string `arg:"" help:"Key."`
	inTree
	storeJSON
}

func (*storeGetCommand) Help() string {
	return `Prints the value alone; as a quoted string if not all of it can be printed or if it begins with
a quotation mark. A key that is absent is a failure.` + storeHelp + `

Examples:

  nexus-raft store get D1 greeting
  nexus-raft store get D1 00ff --hex --tree sessions`
}

func (c *storeGetCommand) Run(ctx context.Context, s streams) error {
	key, err := c.bytes("KEY", c.Key)
	if err != nil {
		return err
	}
	return c.read(ctx, func(store *storage.Store) error {
		tree, err := findTree(store, c.Tree)
		if err != nil {
			return err
		}
		value, ok, err := tree.Get(key)
		switch {
		case err != nil:
			return err
		case !ok:
			return fmt.Errorf("there is no key %.64q in %s", c.Key, treeText(c.Tree))
		}
		return c.print(s.out, nexusraft.Pair{Key: key, Value: value})
	})
}

func (c *storeGetCommand) print(w io.Writer, p nexusraft.Pair) (err error) {
	if c.JSON {
		var out storedPair
		out.Key, out.KeyBase64 = textOrBytes(p.Key)
		out.Value, out.ValueBase64 = textOrBytes(p.Value)
		return printJSON(w, out)
	}
	_, err = fmt.Fprintln(w, c.text(p.Value))
	return err
}

type storePutCommand struct {
	storeDir
	Key    string `arg:"" help:"Key, 0 bytes to 64 KiB."`
	Value  string `arg:"" help:"Value; - is standard input, taken as it is."`
	Create bool   `env:"-" help:"Create the tree if there is none of that name."`
	inTree
}

func (*storePutCommand) Help() string {
	return `Prints nothing; the write is on the disk when the command ends. The store must exist, and must
not be a node's: a replica is changed through its cluster alone.` + storeHelp + `

Examples:

  nexus-raft store put D1 greeting hello
  nexus-raft store put D1 picture - --tree files --create <picture.png`
}

func (c *storePutCommand) Run(ctx context.Context, s streams) error {
	key, err := c.bytes("KEY", c.Key)
	if err != nil {
		return err
	}
	value, err := c.value(s.in)
	if err != nil {
		return err
	}
	return c.write(ctx, false, func(store *storage.Store) error {
		if c.Create && c.Tree != "" {
			if _, err := store.Tree(c.Tree); err != nil {
				return err
			}
		}
		tree, err := findTree(store, c.Tree)
		if err != nil {
			return err
		}
		return tree.Set(key, value)
	})
}

// value is the argument or what it stands for.
func (c *storePutCommand) value(in io.Reader) ([]byte, error) {
	if c.Value != "-" {
		return c.bytes("VALUE", c.Value)
	}
	value, err := io.ReadAll(io.LimitReader(in, storage.MaxValueBytes+1)) // one more, to be refused
	if err != nil {
		return nil, fmt.Errorf("read the value from standard input: %w", err)
	}
	return value, nil
}

type storeScanCommand struct {
	storeDir
	Prefix   string `help:"Only keys that begin so." placeholder:"KEY"`
	Start    string `help:"Only keys from here on, this one included." placeholder:"KEY"`
	End      string `help:"Only keys before this one." placeholder:"KEY"`
	Reverse  bool   `help:"From the last key to the first."`
	Limit    int64  `help:"How many keys at most; 0 for all."`
	KeysOnly bool   `help:"Print no values."`
	inTree
	storeJSON
}

func (*storeScanCommand) Help() string {
	return `Prints a line for each key: key, tab, value, either as a quoted string if not all of it can be
printed or if it begins with a quotation mark.` + storeHelp + `

Examples:

  nexus-raft store scan D1 --prefix users/ --json
  nexus-raft store scan D1 --tree events --reverse --limit 10`
}

func (c *storeScanCommand) Run(ctx context.Context, s streams) error {
	prefix, start, end, err := c.bounds()
	if err != nil {
		return err
	}
	return c.read(ctx, func(store *storage.Store) error {
		tree, err := findTree(store, c.Tree)
		if err != nil {
			return err
		}
		pairs := tree.Scan(start, end)
		switch {
		case prefix != nil && c.Reverse:
			pairs = tree.PrefixReverse(prefix)
		case prefix != nil:
			pairs = tree.Prefix(prefix)
		case c.Reverse:
			pairs = tree.ScanReverse(start, end)
		}
		out := bufio.NewWriter(s.out)
		err = c.print(ctx, out, pairs)
		if flushErr := out.Flush(); err == nil {
			err = flushErr
		}
		return err
	})
}

// bounds returns what the flags say, each nil if it is empty.
func (c *storeScanCommand) bounds() (prefix, start, end []byte, err error) {
	if c.Prefix != "" && (c.Start != "" || c.End != "") {
		return nil, nil, nil, usageError{errors.New("--prefix can't be used with --start or --end")}
	}
	if c.Limit < 0 {
		return nil, nil, nil, usageError{fmt.Errorf("--limit %d is below 0", c.Limit)}
	}
	for _, flag := range []struct {
		name, value string
		into        *[]byte
	}{{"--prefix", c.Prefix, &prefix}, {"--start", c.Start, &start}, {"--end", c.End, &end}} {
		if flag.value == "" {
			continue
		}
		if *flag.into, err = c.bytes(flag.name, flag.value); err != nil {
			return nil, nil, nil, err
		}
	}
	return prefix, start, end, nil
}

// print prints up to --limit pairs.
func (c *storeScanCommand) print(ctx context.Context, w io.Writer, pairs iter.Seq2[nexusraft.Pair, error]) error {
	n := int64(0)
	for p, err := range pairs {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = c.line(w, p)
		}
		if err != nil {
			return err
		}
		if n++; n == c.Limit {
			return nil
		}
	}
	return nil
}

func (c *storeScanCommand) line(w io.Writer, p nexusraft.Pair) (err error) {
	switch {
	case c.JSON:
		var out storedPair
		out.Key, out.KeyBase64 = textOrBytes(p.Key)
		if !c.KeysOnly {
			out.Value, out.ValueBase64 = textOrBytes(p.Value)
		}
		return printJSON(w, out)
	case c.KeysOnly:
		_, err = fmt.Fprintln(w, c.text(p.Key))
	default:
		_, err = fmt.Fprintf(w, "%s\t%s\n", c.text(p.Key), c.text(p.Value))
	}
	return err
}
