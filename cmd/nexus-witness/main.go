// Command nexus-witness is the vote-only node of a nexus-raft cluster.
package main

import (
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/alecthomas/kong"

	"github.com/nexi-lab/nexus-raft/witness"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// commandLine is what nexus-witness understands.
type commandLine struct {
	witness.Command
	Version kong.VersionFlag `help:"Print the version and exit."`
}

// run returns the exit status: 0 after an orderly stop, 1 after a failure, 2 for a
// command line that makes no sense.
func run(args []string, stdout, stderr io.Writer) int {
	status := -1
	var c commandLine
	parser, err := kong.New(&c,
		kong.Name("nexus-witness"),
		kong.Vars{"version": version()},
		kong.Writers(stdout, stderr),
		kong.Exit(func(s int) { status = s }),
	)
	if err != nil {
		fmt.Fprintln(stderr, "nexus-witness:", err)
		return 2
	}
	_, err = parser.Parse(args)
	switch {
	case status >= 0: // --help or --version
		return status
	case err != nil:
		fmt.Fprintf(stderr, "nexus-witness: %v\nTry nexus-witness --help.\n", err)
		return 2
	}
	if err := c.Run(); err != nil {
		fmt.Fprintln(stderr, "nexus-witness:", err)
		return 1
	}
	return 0
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return fmt.Sprintf("nexus-witness %s %s", info.Main.Version, info.GoVersion)
}
