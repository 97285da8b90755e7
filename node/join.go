package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

const (
	joinCallTimeout = 5 * time.Second
	joinRetry       = 200 * time.Millisecond
	joinSayEvery    = 5 * time.Second
)

// join asks the addresses in turn for admission, until one admits this node. An address
// where nobody listens is retried for Config.JoinTimeout; a refusal ends it at once.
func (n *Node) join(ctx context.Context) error {
	for _, address := range n.config.Join {
		if address == n.self().Address {
			return fmt.Errorf("%w: --join names this node's own address %s; name other members, or found a cluster with init", nexusraft.ErrRefused, address)
		}
	}
	deadline := time.Now().Add(n.config.JoinTimeout)
	var said time.Time
	for {
		result, err := n.askAll(ctx)
		switch {
		case err == nil:
			return n.admitted(result)
		case ctx.Err() != nil:
			return fmt.Errorf("join: %w", context.Cause(ctx))
		case errors.Is(err, nexusraft.ErrRefused):
			return fmt.Errorf("join: %w", err)
		case time.Now().After(deadline):
			return fmt.Errorf("join: gave up after %v: %w", n.config.JoinTimeout, err)
		case time.Since(said) >= joinSayEvery:
			n.logger.Info("joining, will try again", "addresses", n.config.Join, "err", err)
			said = time.Now()
		}
		select {
		case <-ctx.Done():
		case <-time.After(joinRetry):
		}
	}
}

// askAll asks each address once, and a leader that one of them names.
func (n *Node) askAll(ctx context.Context) (transport.JoinResult, error) {
	var errs []error
	for _, address := range n.config.Join {
		result, err := n.askOne(ctx, address)
		leader, ok := errors.AsType[*nexusraft.NotLeaderError](err)
		if ok && leader.Address != "" && leader.Address != address {
			result, err = n.askOne(ctx, leader.Address)
		}
		if err == nil || errors.Is(err, nexusraft.ErrRefused) {
			return result, err
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	return transport.JoinResult{}, errors.Join(errs...)
}

func (n *Node) askOne(ctx context.Context, address string) (transport.JoinResult, error) {
	ctx, cancel := context.WithTimeout(ctx, joinCallTimeout)
	defer cancel()
	return n.peers.Join(ctx, address, transport.JoinRequest{Role: nexusraft.RoleMember})
}

// admitted stores what this node is from now on: cluster and replica in one synced write.
func (n *Node) admitted(j transport.JoinResult) error {
	state, err := n.store.Tree(newStateTreeName(j.Zone))
	if err != nil {
		return err
	}
	id := n.identity()
	id.Cluster = j.Cluster
	err = n.setIdentity(id, func(b *storage.Batch) error {
		return raftlog.Create(b, n.trees.raft, j.Zone, raftlog.Meta{
			Replica: j.Replica, StateTree: state.Name(), Membership: j.Membership,
		}, nil, 0)
	})
	if err != nil {
		return fmt.Errorf("store the admission: %w", err)
	}
	n.logger.Info("admitted", "cluster", j.Cluster, "zone", j.Zone, "replica", j.Replica)
	return nil
}
