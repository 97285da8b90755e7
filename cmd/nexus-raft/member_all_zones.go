package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// A change of the root zone's replicas is one of the cluster's nodes: it is made in all other zones
// first, one after the other. As soon as a node is out of the root zone its program ends, and with it
// what a zone has on its disk alone.

// changeOthers makes a change in each zone besides the root zone in which there is something to do,
// and returns in how many it did. It may be called again after an error: what is done is left alone.
func (r *remote) changeOthers(
	ctx context.Context, s streams, change nexusraft.MembershipChange,
) (done int, err error) {
	zones, err := r.allZones(ctx)
	if err != nil {
		return 0, err
	}
	for _, info := range zones {
		changed, err := r.changeIn(ctx, s, info, change)
		if err != nil {
			return done, fmt.Errorf("zone %s (%v): %w; what is done in other zones stays, give the command again",
				info.Name, info.ID, err)
		}
		if changed {
			done++
		}
	}
	return done, nil
}

// allZones returns the zones besides the root zone; a cluster of an earlier release has none.
func (r *remote) allZones(ctx context.Context) (all []nexusraft.ZoneInfo, err error) {
	conn, ctx, end, err := r.connect(ctx, client.Options{})
	if err != nil {
		return nil, err
	}
	defer end()
	for info, err := range conn.Zones(ctx) {
		if status.Code(err) == codes.Unimplemented {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, info)
	}
	return all, nil
}

// changeIn makes a change in one zone, if there is something to do there. Leadership is moved away from
// a node that goes, and a learner that is still to come is waited for.
func (r *remote) changeIn(
	ctx context.Context, s streams, info nexusraft.ZoneInfo, change nexusraft.MembershipChange,
) (changed bool, err error) {
	if info.Shape != (nexusraft.Shape{}) {
		return r.moveOff(ctx, s, info, change)
	}
	one := *r
	one.Zone = zoneFlag{id: info.ID}
	conn, ctx, end, err := one.connect(ctx, client.Options{OnWait: sayWhy(s.err)})
	if err != nil {
		return false, err
	}
	defer end()
	for {
		zone, err := conn.Members(ctx)
		if err != nil {
			return false, err
		}
		switch need := needIn(zone, change); need {
		case nothingNeeded:
			return false, nil
		case changeNeeded:
			_, err := conn.ChangeMembership(ctx, change)
			return err == nil, err
		case transferNeeded:
			if _, err := conn.TransferLeader(ctx, 0); err != nil {
				return false, err
			}
		case learnerNeeded:
			sleep(ctx, 100*time.Millisecond)
			if ctx.Err() != nil {
				return false, fmt.Errorf("node %v has no replica there yet: %w", change.Promote|change.With, ctx.Err())
			}
		}
	}
}

// need is what a zone needs for a change.
type need int

const (
	nothingNeeded  need = iota // it is made, or about no replica of the zone
	changeNeeded               // the change
	transferNeeded             // another leader first
	learnerNeeded              // the node's replica first
)

// needIn returns what a zone needs for a change, by its leader's view.
func needIn(zone nexusraft.ZoneStatus, change nexusraft.MembershipChange) need {
	m := zone.Membership
	goes, going := m.Node(change.Remove | change.Replace)
	comes, there := m.Node(change.Promote | change.With)
	switch {
	case change.Promote != 0 && there && comes.Role != nexusraft.RoleLearner:
		return nothingNeeded
	case change.Promote == 0 && !going:
		return nothingNeeded
	case change.Remove == 0 && !there:
		return learnerNeeded
	case going && goes.Replica == zone.Leader:
		return transferNeeded
	}
	return changeNeeded
}
