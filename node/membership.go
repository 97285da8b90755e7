package node

import (
	"context"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/transport"
)

// notYet says that asking again later may help. Nothing was changed.
type notYet string

func (e notYet) Error() string { return "not yet: " + string(e) }

func (e notYet) Unwrap() error { return nexusraft.ErrOverloaded }

// Join implements transport.MemberHandler: the root zone's leader admits a node. Asked
// again by the same node it answers as before.
func (n *Node) Join(ctx context.Context, r transport.JoinRequest) (transport.JoinResult, error) {
	a, err := ask(ctx, n, nexusraft.RootZone, func(h *hosted) (admission, error) { return h.admit(r) })
	if err != nil {
		return transport.JoinResult{}, err
	}
	if a.proposal != nil {
		_, err := a.proposal.wait(ctx)
		if errors.Is(err, zone.ErrChanging) {
			err = notYet(zone.ErrChanging.Error())
		}
		if err != nil {
			return transport.JoinResult{}, fmt.Errorf("admit node %v: %w", r.Peer.Node, err)
		}
	}
	return ask(ctx, n, nexusraft.RootZone, func(h *hosted) (transport.JoinResult, error) {
		members := h.replica.Membership()
		for _, x := range members.Members {
			members = members.With(n.current(x))
		}
		return transport.JoinResult{Cluster: n.identity().Cluster, Zone: h.id, Replica: a.replica, Membership: members}, nil
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
	p := newProposal(h.id)
	p.conf = &zone.ConfChange{Set: []nexusraft.Member{m}}
	p.stage.Store(proposalTaken)
	h.proposeConf(p)
	return admission{replica: m.Replica, proposal: p}, nil
}

// admittedAgain says why a node that has a record can't have its admission once more. A
// member has had it: it was promoted for what its replica has acknowledged. If it asks, its
// disk was copied or rolled back, and its replica's word would no longer hold (I5).
func admittedAgain(m nexusraft.Member, want nexusraft.Role) error {
	if m.Role == nexusraft.RoleMember {
		return fmt.Errorf("%w: node %v is a member and asks to join: its data directory was copied or rolled back; clear it to join as a new node", nexusraft.ErrRefused, m.Node)
	}
	if (m.Role == nexusraft.RoleWitness) != (want == nexusraft.RoleWitness) {
		return fmt.Errorf("%w: node %v is in the zone as a %s", nexusraft.ErrRefused, m.Node, m.Role)
	}
	return nil
}

func (h *hosted) checkJoin(members nexusraft.Membership, r transport.JoinRequest) error {
	if members.IsRemovedNode(r.Peer.Node) {
		return fmt.Errorf("%w: node %v was removed from the cluster; clear its data directory to join as a new node", nexusraft.ErrRefused, r.Peer.Node)
	}
	for _, m := range members.Members {
		if r.Peer.Name != "" && m.Name == r.Peer.Name {
			return fmt.Errorf("%w: the name %q belongs to node %v; give --name another one", nexusraft.ErrRefused, m.Name, m.Node)
		}
	}
	if r.Role != nexusraft.RoleWitness {
		return nil
	}
	if have := members.Count(nexusraft.RoleWitness); have >= members.Shape.Witnesses {
		return fmt.Errorf("%w: the zone has its %d of %d witnesses already", nexusraft.ErrRefused, have, members.Shape.Witnesses)
	}
	if members.Count(nexusraft.RoleMember) < 2 {
		return notYet("a witness is admitted after the second member")
	}
	return nil
}

// tendMembership makes, on the leader, one change of the node's own accord at a time: a
// learner that has caught up becomes a member if the shape has room, and a record takes
// on the address that its node says it has now.
func (h *hosted) tendMembership() {
	if h.changing {
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

// change proposes one record. A refusal (another change is under way) is no news: the next
// tick tries again.
func (h *hosted) change(m nexusraft.Member) {
	p := newProposal(h.id)
	p.conf = &zone.ConfChange{Set: []nexusraft.Member{m}}
	p.stage.Store(proposalTaken)
	p.settled = func() { h.changing = false }
	h.changing = true
	h.proposeConf(p)
}
