// Command nexus-raft runs a node of a cluster, asks one, and shows what a cluster does.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"

	"github.com/nexi-lab/nexus-raft/internal/program"
)

// Exit statuses.
const (
	exitOK     = program.ExitOK
	exitFailed = program.ExitFailed
	exitUsage  = program.ExitUsage
)

func main() {
	os.Exit(run(program.Signalled(), os.Args[1:], streams{os.Stdin, os.Stdout, os.Stderr}))
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
	Witness program.Witness `cmd:"" help:"Run a witness, which votes and holds no data; what nexus-witness does."`
	Demo    demoCommand     `cmd:"" help:"Kill processes of a cluster on this machine, and verify that nothing is lost."`
	Bench   benchCommand    `cmd:"" help:"Measure throughput and latency of a cluster, or of an etcd."`

	Put  putCommand  `cmd:"" help:"Store a value at a key."`
	Get  getCommand  `cmd:"" help:"Print the value at a key."`
	Del  delCommand  `cmd:"" help:"Delete a key."`
	List listCommand `cmd:"" help:"Print all keys with a prefix, and their values."`

	Txn     txnCommand     `cmd:"" help:"Run several requests as one, if what is stored is as expected."`
	Compact compactCommand `cmd:"" help:"Let go of old revisions."`
	History historyCommand `cmd:"" help:"Print all versions of a key that are kept."`

	Watch watchCommand `cmd:"" help:"Follow the changes of keys."`
	Lease leaseCommand `cmd:"" help:"Make, keep, list and end leases, on which keys hang."`
	Lock  lockCommand  `cmd:"" help:"Run a command, or just wait, while holding a lock."`
	Elect electCommand `cmd:"" help:"Be elected, one candidate at a time, or print who is."`

	Events  eventsCommand  `cmd:"" help:"Follow what happens in a zone, on the terminal or as webhook posts."`
	Publish publishCommand `cmd:"" help:"Append an event to a zone's events."`
	Retain  retainCommand  `cmd:"" help:"Change how many events a zone keeps."`

	Zone zoneCommand `cmd:"" help:"Make, delete, list and show the zones of a cluster."`

	Status    statusCommand    `cmd:"" set:"timeout=2s" help:"Print how a cluster is, and whether it can lose a node now."`
	Member    memberCommand    `cmd:"" help:"List, remove, replace and promote the replicas of a zone."`
	Token     tokenCommand     `cmd:"" help:"Make, list and revoke the tokens with which nodes join."`
	Access    accessCommand    `cmd:"" help:"Give clients roles, and make their tokens and certificates."`
	Authority authorityCommand `cmd:"" set:"timeout=20s" help:"Replace the cluster's certificate authority, step by step."`
	Transfer  transferCommand  `cmd:"" set:"timeout=30s" help:"Move a zone's leadership to another member."`

	Store storeCommand `cmd:"" help:"Inspect, back up, restore, check, export and import a store on this machine."`

	Version kong.VersionFlag `env:"-" help:"Print the version and exit."`
}

const description = `Strongly consistent, highly available state on two servers and a tiny third process.

A cluster by hand:

  nexus-raft init --data-dir D1 --name n1
  nexus-raft serve --data-dir D1
  nexus-raft serve --data-dir D2 --name n2 --listen 127.0.0.1:2036 --join 127.0.0.1:2026
  nexus-witness --data-dir W --name w1 --join 127.0.0.1:2026

Or all of it, with outages: nexus-raft demo`

// run parses and runs one command line. It returns the exit status: 0 if all went well, 1
// if the command failed, 2 if the command line makes no sense; lock and elect have more of them.
func run(ctx context.Context, args []string, s streams) int {
	var c commandLine
	command, status := program.Parse(ctx, "nexus-raft", &c, args, program.Standard{In: s.in, Out: s.out, Err: s.err},
		kong.Description(description), program.HelpTexts(flagHelp), kong.Vars{"timeout": "5s"}, kong.Bind(s))
	if command == nil {
		return status
	}
	if err := command.Run(); err != nil {
		own, hasStatus := errors.AsType[statusError](err)
		if hasStatus && own.error == nil {
			return own.status
		}
		fmt.Fprintln(s.err, "nexus-raft:", program.ErrorText(err))
		if hasStatus {
			return own.status
		}
		if _, ok := errors.AsType[usageError](err); ok {
			return exitUsage
		}
		return exitFailed
	}
	return exitOK
}

// usageError is an error of the command line that its parser can't see.
type usageError struct{ error }
