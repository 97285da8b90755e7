package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// ErrLost: a kept lease, or a lock or an election that was won with one, is lost: the lease could not be renewed in
// time, or the zone no longer has it, or the key is gone. Compare with errors.Is.
var ErrLost = errors.New("client: lost")

// KeptLease is a lease that this process keeps alive: what etcd's client calls a session, a word that here stands for
// the numbers of writes that happen once (Options.ExactlyOnce). Its methods may be called from any number of
// goroutines.
//
// It is renewed each third of its time, through whichever endpoint answers. The holder gives it up by its own
// monotonic clock, and before the zone does: a hundredth before the lease's time is over, counted from when the last
// answered renewal was sent. A process that was stopped meanwhile, or a machine that slept, may hear of it late: what
// has to be safe then too needs Lock.Token, or Lock.Held.
type KeptLease struct {
	client *Client
	lease  GrantedLease
	ctx    context.Context
	end    context.CancelCauseFunc
	renew  func(context.Context) (sent time.Time, err error)
	expiry *time.Timer   // ends ctx
	kept   chan struct{} // closed once nothing renews it any more
}

// KeepLease makes a lease as GrantLease does, and keeps it alive until it is lost or Stop or Close is called. ctx is
// for the grant alone.
func (c *Client) KeepLease(ctx context.Context, ttl time.Duration) (*KeptLease, error) {
	lease, sent, err := c.grant(ctx, ttl)
	if err != nil {
		return nil, fmt.Errorf("keep a lease: %w", err)
	}
	return c.keep(lease, sent), nil
}

// KeepGranted renews a lease that is there, and keeps it alive as KeepLease does. The errors are ErrLeaseNotFound, and
// those of Get.
func (c *Client) KeepGranted(ctx context.Context, id LeaseID) (*KeptLease, error) {
	ttl, sent, err := c.renew(ctx, id, c.opts.AttemptTimeout)
	if err != nil {
		return nil, fmt.Errorf("keep lease %v: %w", id, err)
	}
	return c.keep(GrantedLease{ID: id, TTL: ttl, Remaining: ttl}, sent), nil
}

// keep keeps a lease that has its whole time from sent on.
func (c *Client) keep(lease GrantedLease, sent time.Time) *KeptLease {
	l := &KeptLease{client: c, lease: lease}
	patience := min(c.opts.AttemptTimeout, lease.TTL/6) // short enough for another attempt within its time
	l.renew = func(ctx context.Context) (time.Time, error) {
		_, sent, err := c.renew(ctx, lease.ID, patience)
		return sent, err
	}
	l.start(sent)
	return l
}

func (l *KeptLease) start(sent time.Time) {
	l.kept = make(chan struct{})
	l.ctx, l.end = context.WithCancelCause(context.Background())
	late := fmt.Errorf("%w: lease %v was not renewed in time", ErrLost, l.lease.ID)
	l.expiry = time.AfterFunc(l.left(sent), func() { l.end(late) })
	go l.run(sent)
}

// ID returns the lease's ID.
func (l *KeptLease) ID() LeaseID { return l.lease.ID }

// TTL returns the time that the zone has granted.
func (l *KeptLease) TTL() time.Duration { return l.lease.TTL }

// Context returns a context that ends when the lease is lost, with a cause that matches ErrLost, or when it is kept no
// more, with the cause nexusraft.ErrClosed. Whatever counts on the lease runs in it.
func (l *KeptLease) Context() context.Context { return l.ctx }

// Stop ends Context, and renews the lease no more: the zone ends it when its time is over. It waits for nothing that
// takes long.
func (l *KeptLease) Stop() {
	l.end(nexusraft.ErrClosed)
	l.expiry.Stop()
	<-l.kept
}

// Close is Stop, and revokes the lease, which deletes its keys; that it is not there any more is no error. After an
// error its time decides.
func (l *KeptLease) Close(ctx context.Context) error {
	l.Stop()
	err := l.client.RevokeLease(ctx, l.lease.ID)
	if errors.Is(err, ErrLeaseNotFound) {
		return nil
	}
	return err
}

// left is how long the lease lives from now on, by this side's clock, if it was renewed at sent. The hundredth is for
// clocks that do not run equally fast.
func (l *KeptLease) left(sent time.Time) time.Duration {
	return l.lease.TTL - l.lease.TTL/100 - time.Since(sent)
}

// run renews the lease until its context ends. An error that a later attempt may not have is no reason to give up
// before its time.
func (l *KeptLease) run(sent time.Time) {
	defer close(l.kept)
	third := l.lease.TTL / 3
	for wait := third - time.Since(sent); sleep(l.ctx, wait); {
		renewed, err := l.renew(l.ctx)
		switch {
		case err == nil:
			sent = renewed
			if !l.expiry.Stop() {
				return // it has just ended
			}
			l.expiry.Reset(l.left(sent))
			wait = third - time.Since(sent)
		case errors.Is(err, ErrLeaseNotFound):
			l.end(fmt.Errorf("%w: lease %v is not there any more: it has expired, or was revoked", ErrLost, l.lease.ID))
		case l.client.isClosed():
			l.end(fmt.Errorf("%w: lease %v: client: %w", ErrLost, l.lease.ID, nexusraft.ErrClosed))
		default:
			wait = third / 8
		}
	}
}

// sleep waits, and reports whether the context goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
