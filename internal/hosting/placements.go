package hosting

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// silentAfter is for how long a node is silent until no zone is placed on it any more.
const silentAfter = 5 * time.Second

// Reshape changes on which nodes a zone has replicas, or which one is to lead, and returns it; the zone's leader does
// what was decided. Asked again for the same it changes nothing. Errors are those of node.Zone.Propose, and ErrRefused
// with the reason: the plan, too few nodes for it, a change that is under way, no such zone, or the root zone.
func (s *Registry) Reshape(
	ctx context.Context, id nexusraft.ZoneID, name string, want nexusraft.ZoneReshape,
) (nexusraft.ZoneInfo, error) {
	fail := func(err error) (nexusraft.ZoneInfo, error) {
		return nexusraft.ZoneInfo{}, fmt.Errorf("reshape zone %q: %w", nexusraft.Printable(name), err)
	}
	if err := want.Validate(); err != nil {
		return fail(err)
	}
	members, err := s.members(ctx)
	if err != nil {
		return fail(err)
	}
	if want.With != 0 {
		if err := s.requireNamedPlace(ctx, members); err != nil {
			return fail(err)
		}
	}
	z, err := s.recordOf(id)
	if err != nil {
		return fail(err)
	}
	c := &pb.ReshapeZone{
		Id: uint64(id), Name: name, Nodes: nodesOf(members), Avoid: s.avoid(members, z),
		Changed: z.GetChanged(), Checked: true, Off: uint64(want.Off), Instead: want.Instead,
		With: uint64(want.With),
	}
	if want.Off == 0 {
		c.Shape, c.Spare, c.Preferred = wire.ShapeToProto(want.Shape), want.Spare, uint64(want.Preferred)
	}
	info, err := s.changed(ctx, reshaping(c))
	if err != nil {
		return fail(err)
	}
	return info, nil
}

func reshaping(c *pb.ReshapeZone) *pb.NodeCommand {
	return &pb.NodeCommand{Kind: &pb.NodeCommand_ReshapeZone{ReshapeZone: c}}
}

// recordOf returns the record of a zone that may be changed, as this node knows it.
func (s *Registry) recordOf(id nexusraft.ZoneID) (z *pb.ZoneRecord, err error) {
	err = s.o.Zone.ReadLocal(func(r nexusraft.Reader) (err error) {
		z, err = system.Reshapable(r, id)
		return err
	})
	return z, err
}

// audible are the nodes that a new zone may be placed on, ascending.
func (s *Registry) audible(root nexusraft.Membership) []*pb.Member {
	avoid := s.avoid(root, nil)
	return slices.DeleteFunc(nodesOf(root), func(m *pb.Member) bool { return slices.Contains(avoid, m.GetNode()) })
}

// avoid are the nodes that a zone is not placed on now, ascending: those that are silent and that it is not placed on.
func (s *Registry) avoid(root nexusraft.Membership, z *pb.ZoneRecord) (avoid []uint64) {
	silent := s.silent(silentAfter)
	for _, m := range nodesOf(root) {
		on := slices.ContainsFunc(z.GetPlacement(), func(p *pb.PlacedReplica) bool { return p.GetNode() == m.GetNode() })
		if !on && silent[nexusraft.NodeID(m.GetNode())] {
			avoid = append(avoid, m.GetNode())
		}
	}
	return avoid
}

// silent returns the nodes that have been silent for so long.
func (s *Registry) silent(least time.Duration) map[nexusraft.NodeID]bool {
	silent := make(map[nexusraft.NodeID]bool)
	if s.o.Silent == nil {
		return silent
	}
	for node, d := range s.o.Silent() {
		if d >= least {
			silent[node] = true
		}
	}
	return silent
}

// Report takes over what a zone under way to a placement has come to, as its leader on this node says: it has removed
// some replicas of the placement for ever, or, with none, is there. It does not block; Tend passes it on.
func (s *Registry) Report(id nexusraft.ZoneID, changed uint64, removed []nexusraft.ReplicaID) {
	c := &pb.ReportZone{Id: uint64(id), Changed: changed}
	for _, replica := range removed {
		c.Removed = append(c.Removed, uint64(replica))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports[id] = c
	select {
	case s.reported <- struct{}{}:
	default:
	}
}

// commandTimeout bounds a command that Tend makes. One that fails is asked for again, by the zone's leader or by the
// next look.
const commandTimeout = 2 * time.Second

// passOn proposes what zones have reported. Once one gets no answer the others are left to be said again: each would
// wait as long.
func (s *Registry) passOn(ctx context.Context) {
	s.mu.Lock()
	reports := s.reports
	s.reports = make(map[nexusraft.ZoneID]*pb.ReportZone)
	s.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(reports)) {
		if !s.command(ctx, &pb.NodeCommand{Kind: &pb.NodeCommand_ReportZone{ReportZone: reports[id]}}, id) {
			return
		}
	}
}

// command makes a change that nobody waits for, and reports whether it was answered in time.
func (s *Registry) command(ctx context.Context, c *pb.NodeCommand, id nexusraft.ZoneID) (answered bool) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	_, err := s.o.Zone.Command(ctx, c)
	if err != nil {
		s.o.Logger.Debug("a zone's placement is not changed", "zone", id, "err", err)
	}
	return err == nil || ctx.Err() == nil
}

// asked is when it was last tried to change a zone's placement.
type asked struct {
	at      time.Time
	changed uint64 // pb.ZoneRecord.changed then
}

// changesALook is how many zones a look changes at most. A second later the next one goes on: nodes that were taken for
// lost and are not, as after a partition, are heard of meanwhile.
const changesALook = 16

// tendPlacements has zones leave nodes that are gone, and fills places that are empty, for as long as this node leads
// the root zone in a term and is answered. It does nothing if the last look was just now.
func (s *Registry) tendPlacements(ctx context.Context, term nexusraft.Term) {
	if term == s.silence.term && time.Since(s.silence.at) < housekeeping/2 {
		return
	}
	if s.o.Silent != nil {
		s.silence.look(term, s.o.Silent())
	}
	members, err := s.o.Zone.Members()
	if err != nil || s.records.update(s.o.Zone.ReadLocal) != nil {
		return
	}
	maps.DeleteFunc(s.asked, func(_ nexusraft.ZoneID, a asked) bool { return time.Since(a.at) >= askAgain })
	changes := 0
	for c := range s.mending(members) {
		id := nexusraft.ZoneID(c.GetId())
		s.asked[id], s.last = asked{time.Now(), c.GetChanged()}, id
		answered := s.command(ctx, reshaping(c), id)
		if changes++; !answered || changes == changesALook || s.o.Zone.LeadsIn() != term {
			return
		}
	}
}

// askAgain is how long a change of the root zone leader's own accord that was not made is left alone: each costs an
// entry.
const askAgain = 30 * time.Second

// mending yields the changes that zones need, those after the zone that was changed last first: so none is left out
// where a look can't change all.
func (s *Registry) mending(members nexusraft.Membership) iter.Seq[*pb.ReshapeZone] {
	lost, silent := s.silence.lost(max(s.o.SpareAfter, silentAfter)), s.silent(silentAfter)
	next, _ := s.records.find(s.last + 1)
	all := s.records.all
	return func(yield func(*pb.ReshapeZone) bool) {
		for _, z := range slices.Concat(all[next:], all[:next]) {
			a, was := s.asked[nexusraft.ZoneID(z.GetId())]
			if z.GetShape() == nil || was && a.changed == z.GetChanged() {
				continue
			}
			c := mend(z, members, lost, silent)
			if c == nil {
				continue
			}
			if c.Nodes, c.Avoid = nodesOf(members), s.avoid(members, z); !yield(c) {
				return
			}
		}
	}
}

// mend returns the change that a zone's placement needs, but for its nodes; nil if it needs none.
func mend(z *pb.ZoneRecord, root nexusraft.Membership, lost, silent map[nexusraft.NodeID]bool) *pb.ReshapeZone {
	change := func() *pb.ReshapeZone {
		return &pb.ReshapeZone{Id: z.GetId(), Name: z.GetName(), Changed: z.GetChanged(), Checked: true}
	}
	for _, p := range z.GetPlacement() {
		node := nexusraft.NodeID(p.GetNode())
		_, in := root.Node(node)
		if !in || z.GetSpare() && lost[node] && free(z, root, silent, p.GetRole() == pb.Role_ROLE_WITNESS) {
			c := change()
			c.Off, c.Instead, c.Returns = p.GetNode(), true, true
			return c
		}
	}
	shape := wire.ShapeFromProto(z.GetShape())
	full := 0
	for _, p := range z.GetPlacement() {
		if p.GetRole() == pb.Role_ROLE_MEMBER {
			full++
		}
	}
	members, witnesses := full < shape.Members, len(z.GetPlacement())-full < shape.Witnesses
	if z.GetMoving() || !(members && free(z, root, silent, false) || witnesses && free(z, root, silent, true)) {
		return nil
	}
	c := change()
	c.Refill = true
	return c
}

// free reports whether a node could take a place of a zone.
func free(z *pb.ZoneRecord, root nexusraft.Membership, silent map[nexusraft.NodeID]bool, witness bool) bool {
	return slices.ContainsFunc(root.Members, func(m nexusraft.Member) bool {
		_, on := system.PlacedOn(z, m.Node)
		left := slices.Contains(z.GetOff(), uint64(m.Node))
		return !on && !left && !silent[m.Node] && (m.Role == nexusraft.RoleWitness) == witness
	})
}
