// Command nexus-raft runs a node of a cluster, asks one, and shows what a cluster does.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/nexi-lab/nexus-raft/witness"
)

// Exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, cancel) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
}

// streams are the standard ones. A program reads what is on out.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// commandLine is what nexus-raft understands.
type commandLine struct {
	Init    initCommand     `cmd:"" help:"Found a cluster: make a data directory its first member. Once."`
	Serve   serveCommand    `cmd:"" help:"Run a member."`
	Witness witness.Command `cmd:"" help:"Run a witness, which votes and holds no data; what nexus-witness does."`
	Demo    demoCommand     `cmd:"" help:"Kill processes of a cluster on this machine while it works, and verify that nothing is lost."`

	Put    putCommand    `cmd:"" help:"Store a value at a key."`
	Get    getCommand    `cmd:"" help:"Print the value at a key."`
	Del    delCommand    `cmd:"" help:"Delete a key."`
	List   listCommand   `cmd:"" help:"Print all keys with a prefix, and their values."`
	Status statusCommand `cmd:"" help:"Print what nodes say of themselves."`

	Version kong.VersionFlag `help:"Print the version and exit."`
}

const description = `Strongly consistent, highly available state on two servers and a tiny third process.

A cluster by hand:

  nexus-raft init --data-dir D1 --name n1
  nexus-raft serve --data-dir D1
  nexus-raft serve --data-dir D2 --name n2 --listen 127.0.0.1:2036 --join 127.0.0.1:2026
  nexus-witness --data-dir W --name w1 --join 127.0.0.1:2026

Or all of it, with outages: nexus-raft demo`

// run parses and runs one command line. It returns the exit status: 0 if all went well, 1
// if the command failed, 2 if the command line makes no sense.
func run(ctx context.Context, args []string, s streams) int {
	status := -1
	var c commandLine
	parser, err := kong.New(&c,
		kong.Name("nexus-raft"),
		kong.Description(description),
		kong.Vars{"version": version()},
		kong.Writers(s.out, s.err),
		kong.Exit(func(code int) { status = code }),
		kong.KindMapper(reflect.String, kong.MapperFunc(decodeString)),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(s),
	)
	if err != nil {
		fmt.Fprintln(s.err, "nexus-raft:", err)
		return exitUsage
	}
	command, err := parser.Parse(args)
	switch {
	case status >= 0: // --help or --version
		return status
	case err != nil:
		fmt.Fprintf(s.err, "nexus-raft: %v\nTry nexus-raft %s--help.\n", err, commandName(err))
		return exitUsage
	}
	if err := command.Run(); err != nil {
		fmt.Fprintln(s.err, "nexus-raft:", err)
		if _, ok := errors.AsType[usageError](err); ok {
			return exitUsage
		}
		return exitFailed
	}
	return exitOK
}

// decodeString takes an argument as it is. Kong's own decoder replaces what is not valid
// UTF-8, but keys, values and paths may be any bytes.
func decodeString(c *kong.DecodeContext, target reflect.Value) error {
	token, err := c.Scan.PopValue("string")
	if err != nil {
		return err
	}
	target.SetString(token.String())
	return nil
}

// commandName returns the command that a parse error is about, with a space, if it got
// that far.
func commandName(err error) string {
	if p, ok := errors.AsType[*kong.ParseError](err); ok && p.Context.Command() != "" {
		return p.Context.Selected().Name + " "
	}
	return ""
}

// usageError is an error of the command line that its parser can't see.
type usageError struct{ error }

// version is from the build information: the module's version or the revision it was built
// from, and Go's.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "nexus-raft unknown"
	}
	return fmt.Sprintf("nexus-raft %s %s", info.Main.Version, info.GoVersion)
}
