package main

import (
	"os"
	"os/exec"
)

// passedOn are the signals that a command which lock runs gets, too: its console's, which it gets by itself.
var passedOn = []os.Signal{os.Interrupt}

// lockChild is a command that lock runs.
type lockChild struct{ cmd *exec.Cmd }

func newLockChild(cmd *exec.Cmd, _ bool) *lockChild { return &lockChild{cmd} }

func (c *lockChild) pass(os.Signal) {}

func (c *lockChild) terminate() { c.kill() }

func (c *lockChild) kill() {
	c.cmd.Process.Kill() //nolint:errcheck // it has ended
}

func exitStatus(state *os.ProcessState) int { return state.ExitCode() }
