package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Elected is an election that this process has won, until it resigns or loses it: see Context. Its methods may be
// called from any number of goroutines.
type Elected struct{ *claim }

// Campaign waits until this process is elected under a name, in the order in which the candidates have come. The value
// is what everybody sees of the one who is elected. It is compatible with the elections of etcd's clients.
// Time to live, context and errors are as those of Lock.
func (c *Client) Campaign(ctx context.Context, name, value []byte, ttl time.Duration) (*Elected, error) {
	mine, err := c.claim(ctx, name, value, ttl, true)
	if err != nil {
		return nil, fmt.Errorf("campaign for %s: %w", brief(name), err)
	}
	return &Elected{mine}, nil
}

// Proclaim changes the value. The error is ErrLost if this process is not elected any more; others are as those of Put.
func (e *Elected) Proclaim(ctx context.Context, value []byte) error {
	r, err := e.client.Txn(ctx, Txn{
		If:   []Compare{e.Held()},
		Then: []Operation{Put{Key: e.key, Value: value, Lease: e.lease.ID()}},
	})
	if err == nil && !r.Succeeded {
		err = ErrLost
	}
	if err != nil {
		return fmt.Errorf("proclaim %s: %w", brief(e.key), err)
	}
	return nil
}

// Resign ends Context, and lets the next one be elected. Errors are as those of Lock.Unlock.
func (e *Elected) Resign(ctx context.Context) error {
	if err := e.release(ctx); err != nil {
		return fmt.Errorf("resign %s: %w", brief(e.key), err)
	}
	return nil
}

// ElectedLeader is who has an election, or a lock, as everybody sees it.
type ElectedLeader struct {
	Key, Value []byte             // which belong to the caller
	Token      nexusraft.Revision // see Lock.Token; 0: there is none
}

// ElectedLeader returns who is elected under a name, or has the lock of that name; its Token is 0 if nobody is.
// Errors are as those of Get.
func (c *Client) ElectedLeader(ctx context.Context, name []byte) (ElectedLeader, error) {
	leader, _, err := c.electedLeader(ctx, name)
	if err != nil {
		return ElectedLeader{}, fmt.Errorf("leader of %s: %w", brief(name), err)
	}
	return leader, nil
}

func (c *Client) electedLeader(ctx context.Context, name []byte) (l ElectedLeader, at nexusraft.Revision, err error) {
	if len(name) == 0 {
		return l, 0, errors.New("client: the name is empty")
	}
	start, end := prefixRange(append(bytes.Clone(name), '/'))
	resp, err := c.rangeOf(ctx, &etcdserverpb.RangeRequest{
		Key: start, RangeEnd: end, Limit: 1,
		SortTarget: etcdserverpb.RangeRequest_CREATE, SortOrder: etcdserverpb.RangeRequest_ASCEND,
	})
	if err == nil && len(resp.Kvs) > 0 {
		kv := keyValue(resp.Kvs[0])
		l = ElectedLeader{kv.Key, kv.Value, kv.CreateRevision}
	}
	return l, nexusraft.Revision(resp.GetHeader().GetRevision()), err
}

// ElectedLeaders yields who is elected under a name now, and again after each change, also of the value, and when
// nobody is: then with the Token 0. Of changes in quick succession it may yield the last one alone. An error is yielded
// once and last; it goes on through other endpoints, and ends, as Watch does.
func (c *Client) ElectedLeaders(ctx context.Context, name []byte) iter.Seq2[ElectedLeader, error] {
	return func(yield func(ElectedLeader, error) bool) {
		for first, last := true, (ElectedLeader{}); ; first = false {
			leader, at, err := c.electedLeader(ctx, name)
			if err == nil && (first || !leader.equal(last)) {
				if !yield(leader, nil) {
					return
				}
			}
			if last = leader; err == nil {
				err = c.awaitElection(ctx, name, leader, at+1)
			}
			if err != nil {
				yield(ElectedLeader{}, fmt.Errorf("leaders of %s: %w", brief(name), err))
				return
			}
		}
	}
}

func (l ElectedLeader) equal(other ElectedLeader) bool {
	return l.Token == other.Token && bytes.Equal(l.Value, other.Value)
}

// awaitElection waits until there may be another leader, or another value, from a revision on.
func (c *Client) awaitElection(ctx context.Context, name []byte, leader ElectedLeader, from nexusraft.Revision) error {
	keys := Key(leader.Key)
	if leader.Token == 0 {
		keys = Prefix(append(bytes.Clone(name), '/'))
	}
	for batch, err := range c.Watch(ctx, keys, WatchOptions{From: from}) {
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
