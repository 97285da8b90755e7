package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
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
		if transport.SameAddress(address, n.self().Address) {
			return fmt.Errorf("%w: --join names this node's own address %s; name other members, or found a cluster with init", nexusraft.ErrRefused, address)
		}
	}
	request, key, err := n.joinRequest()
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	deadline := time.Now().Add(n.config.JoinTimeout)
	var said time.Time
	for {
		result, err := n.askAll(ctx, request)
		switch {
		case err == nil:
			return n.admitted(result, key)
		case ctx.Err() != nil:
			return fmt.Errorf("join: %w", context.Cause(ctx))
		case errors.Is(err, nexusraft.ErrFenced):
			return fmt.Errorf("join: %w: %s", err, wayBack(n.config.Dir))
		case isFinal(err):
			return fmt.Errorf("join: %w", err)
		case time.Now().After(deadline):
			return fmt.Errorf("join: gave up after %v: %w", n.config.JoinTimeout, err)
		case time.Since(said) >= joinSayEvery:
			n.logger.Info("not admitted yet, asking again", "join", strings.Join(n.config.Join, ","), "err", err)
			said = time.Now()
		}
		select {
		case <-ctx.Done():
		case <-time.After(joinRetry):
		}
	}
}

// isFinal reports whether asking again can't help.
func isFinal(err error) bool {
	return errors.Is(err, nexusraft.ErrRefused) || errors.Is(err, nexusraft.ErrFenced)
}

// askAll asks each address once, and a leader that one of them names.
func (n *Node) askAll(ctx context.Context, r transport.JoinRequest) (transport.JoinResult, error) {
	var failed error
	for _, address := range n.config.Join {
		result, err := n.askOne(ctx, address, r)
		leader, ok := errors.AsType[*nexusraft.NotLeaderError](err)
		if ok && n.mayLead(leader.Address, address) {
			result, err = n.askOne(ctx, leader.Address, r)
		}
		if err == nil || isFinal(err) {
			return result, err
		}
		if failed != nil {
			err = fmt.Errorf("%w; %w", failed, err)
		}
		failed = err
	}
	return transport.JoinResult{}, failed
}

// mayLead reports whether a hint is worth following. Where the node that led was this one, in
// a life that its disk has lost, the others take a moment to notice.
func (n *Node) mayLead(hint, asked string) bool {
	return hint != "" && hint != asked && !transport.SameAddress(hint, n.self().Address)
}

func (n *Node) askOne(ctx context.Context, address string, r transport.JoinRequest) (transport.JoinResult, error) {
	ctx, cancel := context.WithTimeout(ctx, joinCallTimeout)
	defer cancel()
	return n.peers.Join(ctx, address, r)
}

// admitted stores what this node is from now on, cluster, replica and certificate, in one
// synced write. Key is the certificate's, nil if it has asked for none.
func (n *Node) admitted(j transport.JoinResult, key []byte) error {
	state, err := n.store.Tree(newStateTreeName(j.Zone))
	if err != nil {
		return err
	}
	id := n.identity()
	id.Cluster = j.Cluster
	own := ownPair{Cert: j.Certificate, Key: key}
	if key != nil {
		want := pki.Subject{Cluster: j.Cluster, Node: id.Node}
		if _, err := n.certificates.Load().Next(pki.Pair(own), want, n.config.Clock()); err != nil {
			return fmt.Errorf("join: %w", err)
		}
	}
	err = n.setIdentity(id, func(b *storage.Batch) error {
		if key != nil {
			if err := stagePair(b, n.trees.node, own); err != nil {
				return err
			}
		}
		return raftlog.Create(b, n.trees.raft, j.Zone, raftlog.Meta{
			Replica: j.Replica, StateTree: state.Name(), Membership: j.Membership,
		}, nil, 0)
	})
	if err != nil {
		return fmt.Errorf("store the admission: %w", err)
	}
	if key != nil {
		if err := n.useCertificate(own); err != nil {
			return err
		}
	}
	n.logger.Info("joined", "node", id.Node, "cluster", j.Cluster, "zone", j.Zone, "replica", j.Replica)
	return nil
}
