package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// ZoneSpec says what a zone is to be.
type ZoneSpec struct {
	// Machine is which state machine it runs, by its name in Config.Machines, of every member.
	Machine string

	// Members and Witnesses are how many replicas it has: 1, 2+1, 3, 4+1 or 5. Those are placed on the nodes that
	// have the fewest. None of either: a replica on each node of the cluster, those that join later too.
	Members, Witnesses int

	Spare     bool             // another node takes the place of one that is lost; see Config.SpareAfter
	Preferred nexusraft.NodeID // leads it while it can, and has a replica; 0: any
}

func (s ZoneSpec) plan() nexusraft.ZonePlan {
	return nexusraft.ZonePlan{
		Shape: nexusraft.Shape{Members: s.Members, Witnesses: s.Witnesses}, Spare: s.Spare, Preferred: s.Preferred,
	}
}

// CreateZone makes a zone, and returns it once this node has its replica, if it is to have one; if there is one
// of this name and state machine, that, whatever its shape is. The zone is complete or there is none,
// whatever happens meanwhile: nodes that are away make their replicas when they come back. Its
// leader is elected in a moment; Propose waits for that.
//
// Names are as nexusraft.ValidateZoneName has them. Errors are those of Zone.Propose, and ErrRefused
// with the reason: the name, a state machine that this node does not have or another one than the
// zone's, a shape that no zone has or that needs more nodes, too many zones, or a node of an earlier release in the
// cluster.
func (n *Node) CreateZone(ctx context.Context, name string, spec ZoneSpec) (*Zone, error) {
	z, err := zoneKeeper{n}.Create(ctx, name, spec.Machine, spec.plan())
	if err != nil {
		return nil, err
	}
	for {
		changed := n.zonesChanged.Wait() // before the zone is looked for, so that nothing falls in between
		found, err := n.Zone(z.ID)
		if !errors.Is(err, nexusraft.ErrZoneNotFound) {
			return found, err
		}
		if err := n.deleted(z); err != nil {
			return nil, err
		}
		select {
		case <-changed:
		case <-n.ended:
			return nil, n.errEnded()
		case <-ctx.Done():
			return nil, fmt.Errorf("zone %q is made, and not on this node yet: %w: %w", name, nexusraft.ErrUncertain,
				context.Cause(ctx))
		}
	}
}

// ReshapeZone changes on which nodes a zone has replicas, or which one is to lead, and returns it as soon as that is
// decided: the zone's leader then adds learners, and once they have caught up makes one joint change. The zone goes on
// meanwhile. Zones says how far it is; asked again for the same, ReshapeZone changes nothing.
//
// Errors are those of Zone.Propose, and ErrRefused with the reason: a shape that no zone has or that needs more
// nodes, a change that is under way, no such zone, or the root zone.
func (n *Node) ReshapeZone(
	ctx context.Context, id nexusraft.ZoneID, name string, want nexusraft.ZoneReshape,
) (nexusraft.ZoneInfo, error) {
	return zoneKeeper{n}.Reshape(ctx, id, name, want)
}

// silent returns for how long the other nodes have not been heard of.
func (n *Node) silent() map[nexusraft.NodeID]time.Duration {
	silent := make(map[nexusraft.NodeID]time.Duration)
	for _, l := range n.server.Links(n.peers) {
		if l.HeardAt.Before(n.opened) {
			l.HeardAt = n.opened
		}
		silent[l.Node] = time.Since(l.HeardAt)
	}
	return silent
}

// deleted returns ErrZoneNotFound if a zone that was made is there no more, as far as this node knows.
func (n *Node) deleted(z nexusraft.ZoneInfo) error {
	gone := false
	err := n.readSystemLocal(nexusraft.RootZone, func(r nexusraft.Reader) error {
		table, err := system.ZoneTable(r)
		if err != nil || table.GetLastId() < uint64(z.ID) { // the record is still on its way
			return err
		}
		record, err := system.FindZone(r, z.ID)
		gone = record == nil
		return err
	})
	if err == nil && gone {
		err = fmt.Errorf("%w: zone %q was made, and deleted meanwhile", nexusraft.ErrZoneNotFound, z.Name)
	}
	return err
}

// DeleteZone deletes a zone and its data on all nodes, for ever; a node that is away does so when it comes back.
// The name is the zone's, so that the wrong one is not deleted. Calls that wait for the zone end with
// ErrZoneNotFound. Errors are those of Zone.Propose, and ErrRefused if there is no such zone, or it is
// the root zone.
func (n *Node) DeleteZone(ctx context.Context, id nexusraft.ZoneID, name string) error {
	return zoneKeeper{n}.Delete(ctx, id, name)
}

// Zones returns the cluster's zones but for the root zone, by ID, as a quorum of that knows them. Errors
// are those of Zone.Read.
func (n *Node) Zones(ctx context.Context) (all []nexusraft.ZoneInfo, err error) {
	for more := true; more; {
		var page []nexusraft.ZoneInfo
		after := nexusraft.RootZone
		if len(all) > 0 {
			after = all[len(all)-1].ID
		}
		if page, more, err = (zoneKeeper{n}).List(ctx, after, ""); err != nil {
			return nil, err
		}
		all = append(all, page...)
	}
	return all, nil
}

// zoneKeeper is what a node does about zones for callers of its own program and for clients.
type zoneKeeper struct{ *Node }

// Create implements rpc.ZoneKeeper.
func (n zoneKeeper) Create(
	ctx context.Context, name, machine string, plan nexusraft.ZonePlan,
) (nexusraft.ZoneInfo, error) {
	if n.config.Machines[machine] == nil {
		return nexusraft.ZoneInfo{}, fmt.Errorf("create zone %q: %w: this program has no state machine %q; it has %q",
			nexusraft.Printable(name), nexusraft.ErrRefused, nexusraft.Printable(machine), n.machines())
	}
	return n.registry.Create(ctx, name, machine, plan)
}

// Reshape implements rpc.ZoneKeeper.
func (n zoneKeeper) Reshape(
	ctx context.Context, id nexusraft.ZoneID, name string, want nexusraft.ZoneReshape,
) (nexusraft.ZoneInfo, error) {
	return n.registry.Reshape(ctx, id, name, want)
}

// Delete implements rpc.ZoneKeeper.
func (n zoneKeeper) Delete(ctx context.Context, id nexusraft.ZoneID, name string) error {
	return n.registry.Delete(ctx, id, name)
}

// List implements rpc.ZoneKeeper.
func (n zoneKeeper) List(
	ctx context.Context, after nexusraft.ZoneID, name string,
) ([]nexusraft.ZoneInfo, bool, error) {
	return n.registry.List(ctx, after, name)
}
