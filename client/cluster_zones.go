package client

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// CreateZone makes a zone that runs a state machine, by the name that the nodes have for it, and returns it; the zero
// plan is a replica on each node of the cluster. If there is a zone of that name and that state
// machine, it is the answer, whatever its plan: so CreateZone tries again until ctx ends, also while the outcome of an
// earlier try is unknown.
//
// It, ReshapeZone and DeleteZone are for admins of the root zone, whatever the client's own zone is. If ctx ends while
// the outcome is unknown, the error is nexusraft.ErrUncertain; of any other error nothing was changed;
// nexusraft.ErrRefused says why.
func (c *Client) CreateZone(
	ctx context.Context, name, machine string, plan nexusraft.ZonePlan,
) (nexusraft.ZoneInfo, error) {
	var zone nexusraft.ZoneInfo
	if err := plan.Validate(); err != nil {
		return zone, fmt.Errorf("create zone %q: %w", nexusraft.Printable(name), err)
	}
	req := &pb.CreateZoneRequest{Name: name, Machine: machine}
	if plan != (nexusraft.ZonePlan{}) {
		req.Plan = wire.ZonePlanToProto(plan)
	}
	_, err := c.untilKnown(ctx, func(ctx context.Context, zones pb.ZonesClient) (*pb.Error, error) {
		resp, err := zones.CreateZone(ctx, req)
		zone = wire.ZoneInfoFromProto(resp.GetZone())
		return resp.GetError(), err
	})
	if err != nil {
		return nexusraft.ZoneInfo{}, fmt.Errorf("create zone %q: %w", nexusraft.Printable(name), err)
	}
	return zone, nil
}

// ReshapeZone changes on which nodes a zone has replicas, or which one is to lead, and returns it as soon as that is
// decided; Zone says how far it is. The name must be the zone's. Retries and errors are those of CreateZone: asked
// again for the same, it changes nothing.
func (c *Client) ReshapeZone(
	ctx context.Context, id nexusraft.ZoneID, name string, want nexusraft.ZoneReshape,
) (nexusraft.ZoneInfo, error) {
	var zone nexusraft.ZoneInfo
	if err := want.Validate(); err != nil {
		return zone, fmt.Errorf("reshape zone %q (%v): %w", nexusraft.Printable(name), id, err)
	}
	req := &pb.ReshapeZoneRequest{
		Zone: uint64(id), Name: name, Plan: wire.ZonePlanToProto(want.ZonePlan),
		Off: uint64(want.Off), With: uint64(want.With), Instead: want.Instead,
	}
	_, err := c.untilKnown(ctx, func(ctx context.Context, zones pb.ZonesClient) (*pb.Error, error) {
		resp, err := zones.ReshapeZone(ctx, req)
		zone = wire.ZoneInfoFromProto(resp.GetZone())
		return resp.GetError(), err
	})
	if err != nil {
		return nexusraft.ZoneInfo{}, fmt.Errorf("reshape zone %q (%v): %w", nexusraft.Printable(name), id, err)
	}
	return zone, nil
}

// DeleteZone deletes a zone and its data on all nodes, for ever. The name must be the zone's, so that the
// wrong one is not deleted. Retries and errors are those of CreateZone; a zone that is gone when
// the outcome of an earlier try was unknown counts as deleted.
func (c *Client) DeleteZone(ctx context.Context, id nexusraft.ZoneID, name string) error {
	req := &pb.DeleteZoneRequest{Zone: uint64(id), Name: name}
	repeated, err := c.untilKnown(ctx, func(ctx context.Context, zones pb.ZonesClient) (*pb.Error, error) {
		resp, err := zones.DeleteZone(ctx, req)
		return resp.GetError(), err
	})
	if repeated && errors.Is(err, nexusraft.ErrRefused) {
		switch _, unread := c.Zone(ctx, id); {
		case errors.Is(unread, nexusraft.ErrZoneNotFound):
			return nil
		case unread != nil:
			err = fmt.Errorf("%w: %w; and then: %w", nexusraft.ErrUncertain, err, unread)
		}
	}
	if err != nil {
		return fmt.Errorf("delete zone %q (%v): %w", nexusraft.Printable(name), id, err)
	}
	return nil
}

// Zones yields the cluster's zones but for the root zone, by ID, as a quorum of the root zone knows them.
// An error is yielded once and last.
//
// It reads page after page, each bounded by Options.PageTimeout and by ctx; the pages are not one snapshot.
// It, Zone and ZoneNamed are for clients with a role in any zone.
func (c *Client) Zones(ctx context.Context) iter.Seq2[nexusraft.ZoneInfo, error] {
	return func(yield func(nexusraft.ZoneInfo, error) bool) {
		for after := nexusraft.ZoneID(0); ; {
			page, more, err := c.listZones(ctx, after, "")
			if err != nil {
				yield(nexusraft.ZoneInfo{}, err)
				return
			}
			for _, z := range page {
				if z.ID <= after {
					yield(nexusraft.ZoneInfo{}, fmt.Errorf("client: list zones: zone %v came after zone %v", z.ID, after))
					return
				}
				after = z.ID
				if !yield(z, nil) {
					return
				}
			}
			if !more || len(page) == 0 {
				return
			}
		}
	}
}

// ZoneNamed returns the zone of a name, the root zone's too, as a quorum of the root zone knows it. The
// error is nexusraft.ErrZoneNotFound if there is none.
func (c *Client) ZoneNamed(ctx context.Context, name string) (nexusraft.ZoneInfo, error) {
	switch name {
	case nexusraft.RootZoneName:
		return rootZone, nil
	case "": // which asks for all
		return nexusraft.ZoneInfo{}, fmt.Errorf("client: %w: the name is empty", nexusraft.ErrZoneNotFound)
	}
	page, _, err := c.listZones(ctx, 0, name)
	if err != nil {
		return nexusraft.ZoneInfo{}, err
	}
	for _, z := range page {
		if z.Name == name {
			return z, nil
		}
	}
	return nexusraft.ZoneInfo{}, fmt.Errorf("client: %w: there is no zone %q", nexusraft.ErrZoneNotFound,
		nexusraft.Printable(name))
}

// Zone is ZoneNamed by the zone's ID.
func (c *Client) Zone(ctx context.Context, id nexusraft.ZoneID) (nexusraft.ZoneInfo, error) {
	switch id {
	case nexusraft.RootZone:
		return rootZone, nil
	case 0:
		return nexusraft.ZoneInfo{}, fmt.Errorf("client: %w: 0 is no zone", nexusraft.ErrZoneNotFound)
	}
	page, _, err := c.listZones(ctx, id-1, "")
	if err != nil {
		return nexusraft.ZoneInfo{}, err
	}
	if len(page) > 0 && page[0].ID == id {
		return page[0], nil
	}
	return nexusraft.ZoneInfo{}, fmt.Errorf("client: %w: there is no zone %v", nexusraft.ErrZoneNotFound, id)
}

// rootZone is all that is kept of the root zone.
var rootZone = nexusraft.ZoneInfo{ID: nexusraft.RootZone, Name: nexusraft.RootZoneName}

// listZones returns a page of zones, and whether there are more.
func (c *Client) listZones(
	ctx context.Context, after nexusraft.ZoneID, name string,
) (page []nexusraft.ZoneInfo, more bool, err error) {
	if c.opts.PageTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.opts.PageTimeout)
		defer cancel()
	}
	var list *pb.ZoneList
	err = c.read(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := pb.NewZonesClient(conn).ListZones(ctx, &pb.ListZonesRequest{After: uint64(after), Name: name})
		list = resp.GetZones()
		return answered(resp.GetError(), err)
	})
	if err != nil {
		return nil, false, fmt.Errorf("list zones: %w", err)
	}
	for _, z := range list.GetZones() {
		page = append(page, wire.ZoneInfoFromProto(z))
	}
	return page, list.GetMore(), nil
}

// answered returns the error of a call whose answer may hold one, as gRPC's.
func answered(answer *pb.Error, err error) error {
	if err != nil || answer == nil {
		return err
	}
	return wire.Status(wire.ErrorFromProto(answer))
}

// untilKnown makes a change that may be asked for again, and does so until ctx ends while nobody knows
// whether it was made; the error is then, and if a later try fails without saying that it was not,
// nexusraft.ErrUncertain. Repeated says whether it was unknown once.
func (c *Client) untilKnown(ctx context.Context, call leaderCall) (repeated bool, err error) {
	var unknown error
	for w := c.waiting(); ; {
		err := c.write(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
			return answered(call(ctx, pb.NewZonesClient(conn)))
		})
		switch {
		case errors.Is(err, nexusraft.ErrUncertain):
			unknown = err
			if w.wait(ctx, err) != nil {
				return true, unknown
			}
			continue
		case err == nil || unknown == nil || errors.Is(err, nexusraft.ErrRefused):
			return unknown != nil, err
		}
		return true, fmt.Errorf("%w; and then: %w", unknown, err)
	}
}
