package client

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrLocked: somebody else has the lock. Compare with errors.Is.
var ErrLocked = errors.New("client: somebody else has the lock")

// Lock is a lock that this process has, until it is unlocked or lost: see Context. Its methods may be called from any
// number of goroutines.
type Lock struct{ *claim }

// Lock waits until this process is the only one that has the lock of a name, in the order in which those who want it
// have come, and returns it. It excludes the locks of etcd's clients (their Mutex, etcdctl lock), those of this
// client, and the elections of that name. A name and another one that has it and a slash in front exclude each
// other, too.
//
// The lock hangs on a lease of its own with the time to live ttl, at least a few seconds where failovers are to be
// survived: when the process ends without Unlock, the lock ends after that. ctx bounds the wait alone. The
// errors are those of Get, and ErrLost if the lease was lost while it waited; after an error the lock is not held.
func (c *Client) Lock(ctx context.Context, name []byte, ttl time.Duration) (*Lock, error) {
	return c.lock(ctx, name, ttl, true)
}

// TryLock is Lock that does not wait: the error is ErrLocked if somebody else has the lock.
func (c *Client) TryLock(ctx context.Context, name []byte, ttl time.Duration) (*Lock, error) {
	return c.lock(ctx, name, ttl, false)
}

func (c *Client) lock(ctx context.Context, name []byte, ttl time.Duration, wait bool) (*Lock, error) {
	mine, err := c.claim(ctx, name, nil, ttl, wait)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", brief(name), err)
	}
	return &Lock{mine}, nil
}

// Unlock ends Context, and gives the lock to the next one. The error matches ErrLost if it was lost before that, so
// that somebody else may have had it meanwhile; after any other error it ends when its lease's time is over.
func (l *Lock) Unlock(ctx context.Context) error {
	if err := l.release(ctx); err != nil {
		return fmt.Errorf("unlock %s: %w", brief(l.key), err)
	}
	return nil
}
