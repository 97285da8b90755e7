package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Join implements transport.MemberHandler: the root zone's leader admits a node. Asked
// again by the same node it answers as before.
func (n *Node) Join(ctx context.Context, r transport.JoinRequest) (transport.JoinResult, error) {
	if err := n.authorize(ctx, r); err != nil {
		return transport.JoinResult{}, err
	}
	a, err := ask(ctx, n, nexusraft.RootZone, func(h *hosted) (admission, error) { return h.admit(r) })
	if err != nil {
		return transport.JoinResult{}, err
	}
	if a.proposal != nil {
		if err := a.proposal.waitConf(ctx); err != nil {
			return transport.JoinResult{}, fmt.Errorf("admit node %v: %w", r.Peer.Node, err)
		}
	}
	var cert []byte
	if r.CertificateRequest != nil {
		if cert, err = n.sign(r.CertificateRequest, r.Peer.Node); err != nil {
			return transport.JoinResult{}, err
		}
	}
	return ask(ctx, n, nexusraft.RootZone, func(h *hosted) (transport.JoinResult, error) {
		return transport.JoinResult{Cluster: n.identity().Cluster, Zone: h.id, Replica: a.replica, Membership: h.current(), Certificate: cert}, nil
	})
}

// admission is the leader's answer to a node that wants in.
type admission struct {
	replica  nexusraft.ReplicaID
	proposal *proposal // nil: it was in already
}

func (h *hosted) admit(r transport.JoinRequest) (admission, error) {
	if _, self := h.replica.Leader(); !self {
		return admission{}, h.hint()
	}
	members := h.replica.Membership()
	if m, ok := members.Node(r.Peer.Node); ok {
		return admission{replica: m.Replica}, admittedAgain(m, r.Role)
	}
	if err := h.checkJoin(members, r); err != nil {
		return admission{}, err
	}
	m := nexusraft.Member{
		Replica: nexusraft.ReplicaID(nexusraft.MintID()), Node: r.Peer.Node,
		Name: r.Peer.Name, Address: r.Peer.Address, Role: nexusraft.RoleLearner,
	}
	if r.Role == nexusraft.RoleWitness {
		m.Role = nexusraft.RoleWitness
	}
	return admission{replica: m.Replica, proposal: h.startConf(zone.ConfChange{Set: []nexusraft.Member{m}}, nil)}, nil
}

// startConf proposes a conf change at once. settled, if not nil, is run by the worker when
// it has ended.
func (h *hosted) startConf(c zone.ConfChange, settled func()) *proposal {
	p := newProposal(h.id)
	p.conf, p.settled = &c, settled
	p.stage.Store(proposalTaken)
	h.proposeConf(p)
	return p
}

// waitConf is wait for a conf change: that another one is under way passes by itself.
func (p *proposal) waitConf(ctx context.Context) error {
	_, err := p.wait(ctx)
	if errors.Is(err, zone.ErrChanging) {
		return zone.NotYet(zone.ErrChanging.Error())
	}
	return err
}

// admittedAgain says why a node that has a record can't have its admission once more. A
// member has had it: it was promoted for what its replica has acknowledged. If it asks, its
// disk was copied or rolled back, and its replica's word would no longer hold (I5).
func admittedAgain(m nexusraft.Member, want nexusraft.Role) error {
	if m.Role == nexusraft.RoleMember {
		return fmt.Errorf("%w: node %v is a member and asks to join: its data directory was copied or rolled back", nexusraft.ErrFenced, m.Node)
	}
	if (m.Role == nexusraft.RoleWitness) != (want == nexusraft.RoleWitness) {
		return fmt.Errorf("%w: node %v is in the zone as a %s", nexusraft.ErrRefused, m.Node, m.Role)
	}
	return nil
}

func (h *hosted) checkJoin(members nexusraft.Membership, r transport.JoinRequest) error {
	if members.IsRemovedNode(r.Peer.Node) {
		return fmt.Errorf("%w: node %v was removed from the cluster", nexusraft.ErrFenced, r.Peer.Node)
	}
	for _, x := range h.replica.Status().Replicas {
		if r.Peer.Name == "" || x.Name != r.Peer.Name {
			continue
		}
		// A node whose disk was lost comes back as a new one with its old name.
		if address := h.w.node.addressOf(x.Node, x.Address); x.Active && address != r.Peer.Address {
			return fmt.Errorf("%w: the name %q belongs to node %v, which is active at %s; give --name another one", nexusraft.ErrRefused, x.Name, x.Node, address)
		}
	}
	if r.Role != nexusraft.RoleWitness {
		return nil
	}
	if have := members.Count(nexusraft.RoleWitness); have >= members.Shape.Witnesses {
		return tooManyWitnesses(members)
	}
	if members.Count(nexusraft.RoleMember) < 2 {
		return zone.NotYet("a witness is admitted after the second member")
	}
	return nil
}

func tooManyWitnesses(members nexusraft.Membership) error {
	have := members.Count(nexusraft.RoleWitness)
	i := slices.IndexFunc(members.Members, func(m nexusraft.Member) bool { return m.Role == nexusraft.RoleWitness })
	if i < 0 {
		return fmt.Errorf("%w: the zone is meant to have no witness", nexusraft.ErrRefused)
	}
	m := members.Members[i]
	return fmt.Errorf("%w: the zone has its %d of %d witnesses already, %v at %s; if its disk was lost: nexus-raft member remove %v, then start this one again",
		nexusraft.ErrRefused, have, members.Shape.Witnesses, m, m.Address, m.Node)
}

// tendMembership makes, on the leader, one change of the node's own accord at a time: a
// learner that has caught up becomes a member if the shape has room, and a record takes
// on the address that its node says it has now.
func (h *hosted) tendMembership() {
	if h.changing {
		return
	}
	if h.pause > 0 {
		h.pause--
		return
	}
	if ms := h.replica.Promotable(); len(ms) > 0 {
		m := ms[0]
		m.Role = nexusraft.RoleMember
		h.change(m)
		return
	}
	if _, self := h.replica.Leader(); !self {
		return
	}
	for _, m := range h.replica.Membership().Members {
		if now := h.w.node.current(m); now != m {
			h.change(now)
			return
		}
	}
}

// change proposes one record. A refusal (another change is under way) is no news: it is
// tried again, at most once in an election timeout, since each try costs a log entry.
func (h *hosted) change(m nexusraft.Member) {
	h.changing = true
	h.startConf(zone.ConfChange{Set: []nexusraft.Member{m}}, func() {
		h.changing, h.pause = false, h.w.node.config.ElectionTicks
	})
}
