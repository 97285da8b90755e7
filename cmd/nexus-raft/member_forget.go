package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nexi-lab/nexus-raft/internal/program"
	"github.com/nexi-lab/nexus-raft/node"
)

type memberForgetLivesCommand struct {
	DataDir string `help:"Data directory of the stopped node." required:"" env:"NEXUS_RAFT_DATA_DIR" placeholder:"DIR"`
}

func (*memberForgetLivesCommand) Help() string {
	return `This is only for a node that keeps refusing another one as "copied or rolled back" although no data
directory was copied, put back from a backup or rolled back. If one was, acknowledged writes can be
lost: clear that directory and join as a new node instead. The command deletes which openings of its
peers the node has seen, and keeps the rest. Stop the node that refuses, run this on its machine as the
user it runs as, and start it again; if two nodes refuse each other, do so with both.

Example:

  nexus-raft member forget-lives --data-dir D1`
}

func (c *memberForgetLivesCommand) Run(s streams) error {
	if c.DataDir == "" {
		return usageError{errors.New("--data-dir is empty: name the directory of a node that does not run")}
	}
	forgotten, err := forgetLives(c.DataDir)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "forgot the openings seen of %d peers; this is right only if no data directory was "+
		"copied or put back\n", forgotten)
	return err
}

func forgetLives(dir string) (int, error) {
	if _, err := os.Stat(filepath.Join(dir, "witness.lock")); err == nil {
		return program.ForgetWitnessLives(dir)
	}
	return node.ForgetLives(node.Config{Dir: dir})
}
