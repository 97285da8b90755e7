package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// claim is a key below a name that hangs on a lease of its own. The oldest of a name has what it stands for; the next
// ones wait for it in the order in which they came. The key is the name, a slash and the lease's ID, as in etcd's
// clients, so that these and ours exclude each other.
type claim struct {
	client *Client
	lease  *KeptLease
	prefix []byte // of all claims to the name
	key    []byte
	token  nexusraft.Revision // that created the key

	ctx     context.Context // once it is the oldest: ends when it is no more
	end     context.CancelCauseFunc
	guarded chan struct{} // closed once nobody looks after the key any more
}

// Key returns the key, which is below the name. It belongs to the caller.
func (c *claim) Key() []byte { return bytes.Clone(c.key) }

// Token returns the fencing token: the revision that created the key. Each later holder of the name has a higher one.
// Whoever is told the token with a request, and refuses those with a lower one than it has seen, is safe from a holder
// that does not know yet that it has lost.
func (c *claim) Token() nexusraft.Revision { return c.token }

// Held holds as long as the zone has the key: as a condition of a transaction it makes writes to the zone happen
// under it, or not at all.
func (c *claim) Held() Compare { return Key(c.key).Created(Equal, c.token) }

// Context returns a context that ends when it is lost, with a cause that matches ErrLost, or given back, with the cause
// nexusraft.ErrClosed. It ends before another one can have the name, if this process runs and clocks run
// about equally fast; see Token for what is safe in any case.
func (c *claim) Context() context.Context { return c.ctx }

// claim returns the claim to a name once it is the oldest one; if it has to wait for that and wait is false, the error
// is ErrLocked. After an error nothing is left of it, or only until its lease's time is over.
func (c *Client) claim(ctx context.Context, name, value []byte, ttl time.Duration, wait bool) (*claim, error) {
	if len(name) == 0 {
		return nil, errors.New("client: the name is empty")
	}
	lease, err := c.KeepLease(ctx, ttl)
	if err != nil {
		return nil, err
	}
	prefix := append(bytes.Clone(name), '/')
	mine := &claim{client: c, lease: lease, prefix: prefix, key: append(bytes.Clone(prefix), lease.ID().String()...)}
	if err := mine.take(ctx, value, wait); err != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.opts.AttemptTimeout)
		defer cancel()
		lease.Close(undo) //nolint:errcheck // then its time ends it
		return nil, err
	}
	return mine, nil
}

// take makes the claim, and waits until it is the oldest one.
func (c *claim) take(ctx context.Context, value []byte, wait bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(c.lease.Context(), func() { cancel(context.Cause(c.lease.Context())) })()
	err := c.enter(ctx, value)
	if err == nil {
		err = c.wait(ctx, wait)
	}
	var at nexusraft.Revision
	if err == nil {
		at, err = c.look(ctx)
	}
	if lost := context.Cause(ctx); errors.Is(lost, ErrLost) {
		return lost
	}
	if err != nil {
		return err
	}
	c.ctx, c.end = context.WithCancelCause(c.lease.Context())
	c.guarded = make(chan struct{})
	go c.guard(at)
	return nil
}

// enter creates the key. A second attempt finds what the first one has made: no other claim has this lease.
func (c *claim) enter(ctx context.Context, value []byte) error {
	own := Key(c.key)
	r, err := c.client.txn(ctx, Txn{
		If:   []Compare{own.Absent()},
		Then: []Operation{Put{Key: c.key, Value: value, Lease: c.lease.ID()}},
		Else: []Operation{Get{Keys: own}},
	}, func(ctx context.Context, call callFunc) error { return c.client.try(ctx, writesOnce, call) })
	switch {
	case err != nil:
		return err
	case r.Succeeded:
		c.token = r.Revision
	case len(r.Results[0].Pairs) == 1:
		c.token = r.Results[0].Pairs[0].CreateRevision
	default:
		return fmt.Errorf("client: %w: key %s is there and is not", nexusraft.ErrCorrupt, brief(c.key))
	}
	return nil
}

// wait waits for the end of all older claims. Each waits for the one before it, so that an end wakes one of them.
func (c *claim) wait(ctx context.Context, wait bool) error {
	start, end := prefixRange(c.prefix)
	for {
		resp, err := c.client.rangeOf(ctx, &etcdserverpb.RangeRequest{
			Key: start, RangeEnd: end, Limit: 1, MaxCreateRevision: wireRevision(c.token - 1), KeysOnly: true,
			SortTarget: etcdserverpb.RangeRequest_CREATE, SortOrder: etcdserverpb.RangeRequest_DESCEND,
		})
		switch {
		case err != nil:
			return err
		case len(resp.Kvs) == 0:
			return nil
		case !wait:
			return ErrLocked
		}
		after := nexusraft.Revision(resp.GetHeader().GetRevision()) + 1
		if err := c.client.awaitDeletion(ctx, resp.Kvs[0].Key, after); err != nil {
			return err
		}
	}
}

// look returns the revision at which the key is there; the error matches ErrLost if it is not.
func (c *claim) look(ctx context.Context) (at nexusraft.Revision, err error) {
	resp, err := c.client.rangeOf(ctx, &etcdserverpb.RangeRequest{Key: c.key, KeysOnly: true})
	switch {
	case err != nil:
		return 0, err
	case len(resp.Kvs) == 0 || resp.Kvs[0].CreateRevision != wireRevision(c.token):
		return 0, fmt.Errorf("%w: key %s was deleted", ErrLost, brief(c.key))
	}
	return nexusraft.Revision(resp.GetHeader().GetRevision()), nil
}

// guard ends the context when the key is deleted, for example by an operator. At has it still.
func (c *claim) guard(at nexusraft.Revision) {
	defer close(c.guarded)
	for c.ctx.Err() == nil {
		err := c.client.awaitDeletion(c.ctx, c.key, at+1)
		if err == nil {
			at, err = c.look(c.ctx)
		}
		switch {
		case errors.Is(err, ErrLost):
			c.end(err)
		case err != nil: // the lease decides meanwhile
			sleep(c.ctx, maxBackoff)
		}
	}
}

// release gives the name up. If it was lost before that, the error matches ErrLost.
func (c *claim) release(ctx context.Context) error {
	lost := context.Cause(c.ctx)
	c.end(nexusraft.ErrClosed)
	<-c.guarded
	err := c.lease.Close(ctx)
	if errors.Is(lost, ErrLost) {
		return lost
	}
	return err
}

// awaitDeletion waits until a key is deleted at a revision from on, or until that is not known for certain, because
// it is compacted.
func (c *Client) awaitDeletion(ctx context.Context, key []byte, from nexusraft.Revision) error {
	for batch, err := range c.Watch(ctx, Key(key), WatchOptions{From: from, NoPuts: true}) {
		switch {
		case errors.Is(err, ErrCompacted):
			return nil
		case err != nil:
			return err
		case len(batch.Changes) > 0:
			return nil
		}
	}
	return ctx.Err()
}
