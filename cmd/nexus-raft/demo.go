package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/term"

	"github.com/nexi-lab/nexus-raft/cmd/nexus-raft/demo"
)

type demoCommand struct {
	Dir        string        `arg:"" optional:"" default:"." help:"Directory whose files are recorded; it is only read."`
	Kill       string        `help:"${demoKill}" enum:"leader,follower,witness,each,none" default:"leader"`
	MinSeconds float64       `help:"How long writers run, at least." default:"10"`
	Writers    int           `help:"How many writers run at the same time." default:"8"`
	DataDir    string        `env:"NEXUS_RAFT_DEMO_DATA_DIR" help:"${demoDataDir}" placeholder:"DIR"`
	Keep       bool          `help:"Keep data and logs; otherwise they are removed unless something goes wrong."`
	JSON       bool          `help:"Print the summary as JSON, alone on standard output; the rest goes to standard error."`
	Deadline   time.Duration `help:"How long the whole demo may take." default:"30m"`
	WitnessBin string        `help:"nexus-witness program; by default this one's witness command." placeholder:"FILE"`
}

func (*demoCommand) Help() string {
	return `Starts two members and a witness as processes of their own, stores a record for every file
below DIR from several writers that never pause, kills processes and brings them back, kills
all three at the end, and verifies that every acknowledged record is there on each member.
The exit status is 0 only if nothing is lost.

Examples:

  nexus-raft demo
  nexus-raft demo /usr/share --kill each --min-seconds 30 --json`
}

func (c *demoCommand) Run(ctx context.Context, s streams) error {
	config, err := c.config(s)
	if err != nil {
		return err
	}
	summary, err := demo.Run(ctx, config)
	if ctx.Err() != nil {
		return errors.New("demo: interrupted; all its processes have ended and its data is removed")
	}
	if summary == nil {
		return fmt.Errorf("demo: %w", err)
	}
	if c.JSON {
		err = errors.Join(err, printJSON(s.out, summary))
	} else {
		summary.Print(s.out)
	}
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

func (c *demoCommand) config(s streams) (demo.Config, error) {
	switch {
	case !(c.MinSeconds > 0 && c.MinSeconds < 1e6):
		return demo.Config{}, usageError{fmt.Errorf("--min-seconds %v is not between 0 and 1000000", c.MinSeconds)}
	case c.Writers < 1 || c.Writers > 1024:
		return demo.Config{}, usageError{fmt.Errorf("--writers %d is not between 1 and 1024", c.Writers)}
	case c.Deadline <= 0:
		return demo.Config{}, usageError{fmt.Errorf("--deadline %v is not above 0", c.Deadline)}
	}
	program, err := os.Executable()
	if err != nil {
		return demo.Config{}, fmt.Errorf("find this program: %w", err)
	}
	out := s.out
	if c.JSON {
		out = s.err
	}
	return demo.Config{
		Dir: c.Dir, DataDir: c.DataDir, Keep: c.Keep, Kill: demo.Kill(c.Kill),
		Load: time.Duration(c.MinSeconds * float64(time.Second)), Limit: c.Deadline, Writers: c.Writers,
		Program: program, WitnessProgram: c.WitnessBin,
		Out: out, Bar: isTerminal(out),
	}, nil
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
