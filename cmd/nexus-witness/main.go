// Command nexus-witness is the vote-only node of a nexus-raft cluster.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/alecthomas/kong"

	"github.com/nexi-lab/nexus-raft/internal/program"
)

func main() {
	os.Exit(run(program.Signalled(), os.Args[1:], program.Standard{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}

// commandLine is what nexus-witness understands.
type commandLine struct {
	program.Witness
	Version kong.VersionFlag `env:"-" help:"Print the version and exit."`
}

// run returns the exit status: 0 after an orderly stop, 1 after a failure, 2 for a
// command line that makes no sense.
func run(ctx context.Context, args []string, std program.Standard) int {
	command, status := program.Parse(ctx, "nexus-witness", &commandLine{}, args, std)
	if command == nil {
		return status
	}
	if err := command.Run(); err != nil {
		fmt.Fprintln(std.Err, "nexus-witness:", program.ErrorText(err))
		return program.ExitFailed
	}
	return program.ExitOK
}
