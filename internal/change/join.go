package change

import (
	"context"
	"errors"
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// MayJoin returns why a node would not be admitted, nil if it would; err is why this node can't say.
func (x Changer) MayJoin(ctx context.Context, node nexusraft.Member) (refusal, err error) {
	var why error // looked at only if Use has returned nil
	err = x.Zone.Use(ctx, func(h Handle) error {
		_, _, err := zone.PlanJoin(h.Replica(), node, x.Current)
		if errors.Is(err, nexusraft.ErrNotLeader) {
			return h.Hinted(err)
		}
		why = err
		return nil
	})
	if err != nil {
		return nil, err
	}
	return why, nil
}

// Admit admits a node, if this node leads the zone, and returns the node's record. node is as zone.PlanJoin
// wants it. Asked again for the same node, it answers as before. A voter is known to the other members that
// are there when it returns, or they have had time enough.
func (x Changer) Admit(ctx context.Context, node nexusraft.Member) (nexusraft.Member, error) {
	var m nexusraft.Member
	var wait func(context.Context) error
	err := x.Zone.Use(ctx, func(h Handle) (err error) {
		var isIn bool
		if m, isIn, err = zone.PlanJoin(h.Replica(), node, x.Current); err == nil && !isIn {
			wait = h.Propose(zone.ConfChange{Set: []nexusraft.Member{m}})
		}
		return h.Hinted(err)
	})
	if err != nil {
		return nexusraft.Member{}, err
	}
	if wait == nil {
		return m, nil
	}
	if err := wait(ctx); err != nil {
		return m, fmt.Errorf("admit node %v: %w", m.Node, err)
	}
	if m.Role.Voter() {
		x.awaitKnown(ctx, m.Node)
	}
	return m, nil
}

// knownElections is how many election timeouts a new voter waits for its answer at most while
// members don't know of it: a round trip that is as long as elections allow takes three.
const knownElections = 10

// awaitKnown waits until the other members that are there have applied the admission of a voter, or
// some election timeouts have passed. The follower of two members that has not wants the vote of
// the leader for an election; a caller that is told of the witness may count on it.
func (x Changer) awaitKnown(ctx context.Context, voter nexusraft.NodeID) {
	ctx, cancel := context.WithTimeout(ctx, knownElections*x.ElectionTimeout)
	defer cancel()
	var replicas []nexusraft.ReplicaStatus
	var id nexusraft.ZoneID
	err := x.Zone.Use(ctx, func(h Handle) error {
		s := h.Replica().Status()
		id, replicas = s.Zone, s.Replicas
		return nil
	})
	if err != nil {
		return
	}
	for _, m := range replicas {
		if m.Role != nexusraft.RoleMember || !m.Active || m.Node == x.Node {
			continue
		}
		_ = x.poll(ctx, func() (bool, error) { // what keeps a member from answering is no reason to wait for it
			s, err := x.Status(ctx, m.Node, id)
			return knowsVoter(s, id, voter), err
		})
	}
}

// knowsVoter reports whether a node has applied the admission of a voter to a zone.
func knowsVoter(s nexusraft.NodeStatus, id nexusraft.ZoneID, voter nexusraft.NodeID) bool {
	return slices.ContainsFunc(s.Zones, func(z nexusraft.ZoneStatus) bool {
		m, ok := z.Membership.Node(voter)
		return z.Zone == id && ok && m.Role.Voter()
	})
}
