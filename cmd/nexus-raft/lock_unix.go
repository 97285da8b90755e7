//go:build unix

package main

import (
	"os"
	"os/exec"
	"syscall"
)

// passedOn are the signals that a command which lock runs gets, too.
var passedOn = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
}

// lockChild is a command that lock runs: a group of processes of its own, unless it is on a terminal, which stops
// groups other than its own that read it.
type lockChild struct {
	cmd        *exec.Cmd
	onTerminal bool
}

// newLockChild prepares a command that is not started yet.
func newLockChild(cmd *exec.Cmd, onTerminal bool) *lockChild {
	cmd.SysProcAttr = childAttributes()
	cmd.SysProcAttr.Setpgid = !onTerminal
	return &lockChild{cmd, onTerminal}
}

// pass passes a signal on. The terminal has given its own ones to the command itself.
func (c *lockChild) pass(sig os.Signal) {
	if number, ok := sig.(syscall.Signal); ok && !(c.onTerminal && (sig == syscall.SIGINT || sig == syscall.SIGQUIT)) {
		c.signal(number)
	}
}

func (c *lockChild) terminate() { c.signal(syscall.SIGTERM) }
func (c *lockChild) kill()      { c.signal(syscall.SIGKILL) }

// signal signals the group, which may have outlived the command.
func (c *lockChild) signal(number syscall.Signal) {
	if c.onTerminal {
		c.cmd.Process.Signal(number) //nolint:errcheck // it has ended
		return
	}
	syscall.Kill(-c.cmd.Process.Pid, number) //nolint:errcheck // it has ended
}

// exitStatus is a process's status as a shell has it.
func exitStatus(state *os.ProcessState) int {
	if w, ok := state.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return state.ExitCode()
}
