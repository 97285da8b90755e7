package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// Exit statuses of lock and elect, beside those of a command that lock has run.
const (
	exitLocked    = 123 // --try: somebody else has it
	exitLost      = 124 // it was lost while the command ran, or while it was held
	exitNotLocked = 125 // lock has failed before it ran the command
	exitNotRun    = 126 // the command can't be run
	exitNoCommand = 127 // there is no such command
)

// statusError is an error with an exit status of its own. Without a text nothing is printed.
type statusError struct {
	error
	status int
}

func (e statusError) Unwrap() error { return e.error }

type lockCommand struct {
	Name    string        `arg:"" help:"The lock's name."`
	Command []string      `arg:"" optional:"" help:"Command to run while it is held, and its arguments, after --."`
	TTL     timeToLive    `name:"ttl" help:"${lockTTL}" default:"10s"`
	Try     bool          `help:"Fail at once if somebody else has it, with status 123."`
	Grace   time.Duration `help:"How long the command may take to end once the lock is lost." default:"5s"`
	remote
}

func (*lockCommand) Help() string {
	return `Waits for a lock that one process at a time has, and runs a command while it holds it. Whoever waits gets
it in the order of their coming. It excludes etcdctl lock and the locks of etcd's clients, too.

The command has in its environment NEXUS_RAFT_LOCK_TOKEN, a number that is higher for each holder than for
all before it, and NEXUS_RAFT_LOCK_KEY, the lock's key. Signals are passed on to it. If the lock is lost,
because no node could be reached for its time to live, or because its key was deleted, the command, and
what it has started, gets SIGTERM, and after --grace SIGKILL. (What runs on a terminal only itself.) A
process that stands still can't know that it has lost the lock: where that must do no harm, give the token
along with each request to whatever the lock protects, and let that refuse lower ones than it has seen.

The exit status is the command's, 128 and the signal's number if a signal has ended it; 124 if the lock was
lost; 123 with --try if somebody has it; 125 if anything else failed before the command ran; 126 or 127 if
it can't be run.

Without a command it prints key and token, and holds the lock until SIGINT or SIGTERM.

Examples:

  nexus-raft lock nightly --endpoints 127.0.0.1:2026,127.0.0.1:2036 -- backup --all
  nexus-raft lock nightly --try -- sh -c 'upload --fence "$NEXUS_RAFT_LOCK_TOKEN"'
  nexus-raft lock deploy`
}

func (c *lockCommand) Run(ctx context.Context, s streams) error {
	conn, err := c.client(ctx, client.Options{})
	if err != nil {
		return c.failed(err)
	}
	defer conn.Close()
	if c.Grace <= 0 {
		return usageError{fmt.Errorf("--grace %v is not above 0", c.Grace)}
	}
	lock, err := c.lock(ctx, conn, s)
	if err != nil {
		return c.failed(err)
	}
	if len(c.Command) == 0 {
		err = c.hold(ctx, lock, s)
	} else {
		err = c.runCommand(lock, s)
	}
	return c.unlock(ctx, lock, err)
}

// failed gives an error the status that no command has by itself.
func (c *lockCommand) failed(err error) error {
	if _, usage := errors.AsType[usageError](err); usage || len(c.Command) == 0 && !errors.Is(err, client.ErrLocked) {
		return explain(err)
	}
	if errors.Is(err, client.ErrLocked) {
		return statusError{err, exitLocked}
	}
	return statusError{explain(err), exitNotLocked}
}

// lock takes the lock. Only the first answer is bounded by --timeout, not the wait for the lock.
func (c *lockCommand) lock(ctx context.Context, conn *client.Client, s streams) (*client.Lock, error) {
	bounded, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	if c.Try {
		return conn.TryLock(bounded, []byte(c.Name), time.Duration(c.TTL))
	}
	holder, err := conn.ElectedLeader(bounded, []byte(c.Name))
	if err != nil {
		return nil, err
	}
	if holder.Token != 0 {
		fmt.Fprintf(s.err, "waiting for the lock, which %s has\n", printable(string(holder.Key)))
	}
	lock, err := conn.Lock(ctx, []byte(c.Name), time.Duration(c.TTL))
	if err != nil && ctx.Err() != nil {
		return nil, errors.New("lock: interrupted before it was held")
	}
	return lock, err
}

// holdOut is a lock, or an election that was won, as JSON.
type holdOut struct {
	keyOut
	Token nexusraft.Revision `json:"token"`
}

func newHoldOut(key []byte, token nexusraft.Revision) holdOut {
	o := holdOut{Token: token}
	o.Key, o.KeyBase64 = textOrBytes(key)
	return o
}

// hold says that the lock is held, and waits until it is lost, or ctx ends.
func (c *lockCommand) hold(ctx context.Context, lock *client.Lock, s streams) (err error) {
	if c.JSON {
		err = printJSON(s.out, newHoldOut(lock.Key(), lock.Token()))
	} else {
		_, err = fmt.Fprintf(s.out, "locked, token %d, key %s\n", lock.Token(), printable(string(lock.Key())))
	}
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done(): // SIGINT or SIGTERM is how it ends
	case <-lock.Context().Done():
	}
	return nil
}

// unlock unlocks, and returns the command's error, or that the lock was lost before it has ended.
func (c *lockCommand) unlock(ctx context.Context, lock *client.Lock, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout)
	defer cancel()
	failed := lock.Unlock(ctx)
	switch {
	case errors.Is(failed, client.ErrLost):
		return statusError{failed, exitLost}
	case failed != nil && err == nil:
		return fmt.Errorf("%w; it ends by itself, %v later at most", failed, c.TTL)
	}
	return err
}
