package peering

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport"
)

const (
	callTimeout = 5 * time.Second        // of one call: a member answers when the conf change is committed
	joinPause   = 200 * time.Millisecond // between two rounds over the addresses
	joinNotice  = 5 * time.Second        // between two lines that say what the node waits for
)

// Join asks the members at the configured addresses in turn until one admits this node, and stores
// the admission.
//
// It ends with a refusal, with ctx, and once no address has answered for Options.JoinTimeout. While
// one answers "not yet" (there is no leader, another change is under way, a witness comes before the
// second member) it goes on, however long that takes, and says so: to end would have a supervisor
// start the node again, and change nothing.
func (p *Peering) Join(ctx context.Context) error {
	for _, addr := range p.o.Join {
		if p.Self().IsAt(addr) {
			return p.errOwnAddress(addr)
		}
	}
	request, key, err := p.joinRequest()
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	result, err := p.askUntilAdmitted(ctx, request)
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	return p.Admitted(result, key)
}

func (p *Peering) errOwnAddress(addr string) error {
	err := fmt.Errorf("%w: --join names this %s's own address %s; name other members", nexusraft.ErrRefused, p.kind(),
		addr)
	if p.o.Role == nexusraft.RoleWitness {
		return err
	}
	return fmt.Errorf("%w, or found a cluster with init", err)
}

func (p *Peering) askUntilAdmitted(ctx context.Context, r transport.JoinRequest) (transport.JoinResult, error) {
	var noticed time.Time
	heard := p.o.Clock() // when an address last answered
	for {
		result, answered, err := p.askAll(ctx, r)
		now := p.o.Clock()
		if answered {
			heard = now
		}
		switch {
		case err == nil:
			return result, nil
		case ctx.Err() != nil:
			return transport.JoinResult{}, context.Cause(ctx)
		case errors.Is(err, nexusraft.ErrFenced):
			return transport.JoinResult{}, fmt.Errorf("%w: %s", err, WayBack(p.o.Dir))
		case isFinal(err):
			return transport.JoinResult{}, err
		case now.Sub(heard) > p.o.JoinTimeout:
			return transport.JoinResult{}, fmt.Errorf("no address has answered for %v: %w", p.o.JoinTimeout, err)
		case now.Sub(noticed) >= joinNotice:
			p.o.Logger.Info("not admitted yet, asking again", "join", strings.Join(p.o.Join, ","), "err", err)
			noticed = now
		}
		select {
		case <-ctx.Done():
		case <-time.After(joinPause):
		}
	}
}

// isFinal reports whether asking again can't help.
func isFinal(err error) bool {
	return errors.Is(err, nexusraft.ErrRefused) || errors.Is(err, nexusraft.ErrFenced) ||
		errors.Is(err, nexusraft.ErrCorrupt)
}

// askAll asks each address once, and a leader that one of them names. Answered is whether any of
// them has answered.
func (p *Peering) askAll(
	ctx context.Context, r transport.JoinRequest,
) (_ transport.JoinResult, answered bool, failed error) {
	for _, addr := range p.o.Join {
		result, err := p.askOne(ctx, addr, r)
		leader, ok := errors.AsType[*nexusraft.NotLeaderError](err)
		if ok && p.mayLead(leader.Address, addr) {
			answered = true
			result, err = p.askOne(ctx, leader.Address, r)
		}
		if err == nil || isFinal(err) {
			return result, true, err
		}
		answered = answered || !errors.Is(err, transport.ErrUnreachable)
		if failed != nil {
			err = fmt.Errorf("%w; %w", failed, err)
		}
		failed = err
	}
	return transport.JoinResult{}, answered, failed
}

// mayLead reports whether a hint is worth following. Where the node that led was this one, in
// a life that its disk has lost, the others take a moment to notice.
func (p *Peering) mayLead(hint, asked string) bool {
	return hint != "" && hint != asked && !p.Self().IsAt(hint)
}

func (p *Peering) askOne(ctx context.Context, addr string, r transport.JoinRequest) (transport.JoinResult, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return p.ask(ctx, addr, r)
}

// joinRequest is what the node asks with, and the key that stays here; none without the cluster's
// own certificates.
func (p *Peering) joinRequest() (r transport.JoinRequest, key []byte, err error) {
	r.Role = p.o.Role
	if p.TLSMode() != ClustersOwn {
		return r, nil, nil
	}
	if r.Token, err = p.token(); err != nil {
		return r, nil, err
	}
	r.CertificateRequest, key, err = p.joinKey()
	return r, key, err
}

// joinKey returns the key that the node asks to join with, and a request for a certificate of it.
// It is on the disk before anybody is asked: a token that was used with a key lets nobody in with
// another one, and an answer may be lost.
func (p *Peering) joinKey() (request, key []byte, err error) {
	if key := p.stored.Credentials.Key; key != nil {
		request, err = pki.RequestFor(key)
		return request, key, err
	}
	if request, key, err = pki.NewRequest(); err != nil {
		return nil, nil, err
	}
	return request, key, p.o.Store.Save(RecordChange{Credentials: &Credentials{Key: key}})
}

// Admitted stores what this node is from now on: cluster, replica and certificate. Key is the
// certificate's, nil if the node has asked for none.
func (p *Peering) Admitted(j transport.JoinResult, key []byte) error {
	p.storing.Lock()
	defer p.storing.Unlock()
	id, mode := p.identity(), p.TLSMode()
	id.Cluster = j.Cluster
	change := RecordChange{Admission: &j, Identity: &id, TLSMode: &mode}
	if key != nil {
		c := Credentials{Cert: j.Certificate, Key: key, Roots: j.Authorities.Certificates, Step: j.Authorities.Step}
		want := pki.Subject{Cluster: j.Cluster, Node: id.Node}
		if _, err := p.certificates.Load().Next(c.Pair(), c.Roots, want, p.o.Clock()); err != nil {
			return fmt.Errorf("join: %w", err)
		}
		change.Credentials = &c
	}
	if err := p.o.Store.Save(change); err != nil {
		return fmt.Errorf("store the admission: %w", err)
	}
	p.become(id)
	p.counted = true
	if change.Credentials != nil {
		if err := p.use(*change.Credentials); err != nil {
			return err
		}
	}
	p.o.Logger.Info("joined", "node", id.Node, "cluster", j.Cluster, "zone", j.Zone, "replica", j.Replica)
	return nil
}
