package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"time"

	"github.com/nexi-lab/nexus-raft/client"
)

// What a command that lock runs has in its environment.
const (
	lockTokenVariable = "NEXUS_RAFT_LOCK_TOKEN"
	lockKeyVariable   = "NEXUS_RAFT_LOCK_KEY"
)

// runCommand runs the command until it ends by itself, or is ended because the lock is lost. The error has the status
// of the command, if it is not 0.
func (c *lockCommand) runCommand(lock *client.Lock, s streams) error {
	runtime.LockOSThread() // the command ends with the thread that has started it
	defer runtime.UnlockOSThread()
	cmd := exec.Command(c.Command[0], c.Command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.in, s.out, s.err
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", lockTokenVariable, lock.Token()),
		fmt.Sprintf("%s=%s", lockKeyVariable, lock.Key()))
	cmd.WaitDelay = time.Second // for what holds its streams open without it
	child := newLockChild(cmd, isTerminal(s.in))
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn...)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return notRun(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			child.pass(sig)
		case err := <-ended:
			return endedBy(cmd, err)
		case <-lock.Context().Done():
			fmt.Fprintf(s.err, "the command is ended: %v\n", context.Cause(lock.Context()))
			return c.end(child, ended)
		}
	}
}

// end ends the command, and what it has started.
func (c *lockCommand) end(child *lockChild, ended <-chan error) error {
	child.terminate()
	grace := time.NewTimer(c.Grace)
	defer grace.Stop()
	select {
	case <-ended:
		child.kill()
	case <-grace.C:
		child.kill()
		<-ended
	}
	return nil
}

// notRun is the error for a command that can't be started.
func notRun(err error) error {
	status := exitNotRun
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		status = exitNoCommand
	}
	return statusError{fmt.Errorf("lock: %w", err), status}
}

// endedBy is the error for a command that has ended; nil if its status is 0.
func endedBy(cmd *exec.Cmd, err error) error {
	if cmd.ProcessState == nil {
		return statusError{fmt.Errorf("lock: %w", err), exitNotRun}
	}
	if status := exitStatus(cmd.ProcessState); status != exitOK {
		return statusError{nil, status}
	}
	return nil
}
