package transport

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// MaxCreatedZones is how many zones one HostedZones may have made, a count.
const MaxCreatedZones = 1000

// HostedZones are a cluster's zones but for the root zone, as of one version of the root zone's table
// of them. The zero value asks how much of that table a witness knows.
type HostedZones struct {
	// Version is the table's, or, if Created has not all of them, that of the last one there: then
	// nothing here is of zones that were made later.
	Version uint64

	// Live are the zones that were made up to Version and are there, ascending; at most
	// nexusraft.MaxZones.
	Live []nexusraft.ZoneID

	// Created are those of Live that were made after the version that the witness knows, ascending
	// by version and by ID, which are given in one order; at most MaxCreatedZones.
	Created []HostedZone
}

// HostedZone is what a witness needs to know to begin as a zone's replica.
type HostedZone struct {
	Zone    nexusraft.ZoneID
	Version uint64              // of the table, as the zone's creation made it
	Members []nexusraft.Member  // the voters that the zone begins with, ascending by replica
	Replica nexusraft.ReplicaID // the witness's, one of Members or not
}

// Validate returns what can't be: ErrTooLarge for more than there may be, else ErrRefused.
func (t HostedZones) Validate() error {
	switch {
	case len(t.Live) > nexusraft.MaxZones:
		return fmt.Errorf("%w: %d zones, limit %d", nexusraft.ErrTooLarge, len(t.Live), nexusraft.MaxZones)
	case len(t.Created) > MaxCreatedZones:
		return fmt.Errorf("%w: %d zones were made, limit %d", nexusraft.ErrTooLarge, len(t.Created), MaxCreatedZones)
	case t.Version == 0 && len(t.Live)+len(t.Created) > 0:
		return fmt.Errorf("%w: zones of a table of version 0", nexusraft.ErrRefused)
	}
	last := nexusraft.RootZone
	for _, id := range t.Live {
		if id <= last {
			return fmt.Errorf("%w: zone %v follows zone %v: the zones that are there do not ascend", nexusraft.ErrRefused, id,
				last)
		}
		last = id
	}
	prev := HostedZone{}
	for _, z := range t.Created {
		if z.Zone <= prev.Zone || z.Version <= prev.Version || z.Version > t.Version {
			return fmt.Errorf("%w: zone %v of version %d follows zone %v of version %d, in a table of version %d",
				nexusraft.ErrRefused, z.Zone, z.Version, prev.Zone, prev.Version, t.Version)
		}
		if _, live := slices.BinarySearch(t.Live, z.Zone); !live {
			return fmt.Errorf("%w: zone %v was made and is not there", nexusraft.ErrRefused, z.Zone)
		}
		if err := z.validate(); err != nil {
			return err
		}
		prev = z
	}
	return nil
}

func (z HostedZone) validate() error {
	if z.Replica == 0 || z.Replica >= ^nexusraft.ReplicaID(0)-1 {
		return fmt.Errorf("%w: replica ID %v of zone %v is reserved", nexusraft.ErrRefused, z.Replica, z.Zone)
	}
	if len(z.Members) > nexusraft.MaxMembers {
		return fmt.Errorf("%w: zone %v has %d members, limit %d", nexusraft.ErrTooLarge, z.Zone, len(z.Members),
			nexusraft.MaxMembers)
	}
	if err := (nexusraft.Membership{Members: z.Members}).Validate(); err != nil {
		return fmt.Errorf("%w: zone %v: %w", nexusraft.ErrRefused, z.Zone, err)
	}
	for _, m := range z.Members {
		if !m.Role.Voter() {
			return fmt.Errorf("%w: zone %v begins with replica %v, a %s: voters alone are there then", nexusraft.ErrRefused,
				z.Zone, m.Replica, m.Role)
		}
	}
	return nil
}

func hostedZonesToProto(hello *pb.Hello, t HostedZones) *pb.HostZonesRequest {
	req := &pb.HostZonesRequest{Hello: hello, Version: t.Version, Live: make([]uint64, len(t.Live))}
	last := nexusraft.ZoneID(0)
	for i, id := range t.Live {
		req.Live[i], last = uint64(id-last), id
	}
	for _, z := range t.Created {
		req.Created = append(req.Created, &pb.HostedZone{
			Id: uint64(z.Zone), Version: z.Version, Replica: uint64(z.Replica),
			Members: wire.MembershipToProto(nexusraft.Membership{Members: z.Members}).GetMembers(),
		})
	}
	return req
}

// hostedZonesFromProto counts before it makes anything; see HostedZones.Validate.
func hostedZonesFromProto(req *pb.HostZonesRequest) (t HostedZones, err error) {
	live, created := len(req.GetLive()), len(req.GetCreated())
	if live > nexusraft.MaxZones || created > MaxCreatedZones {
		return t, fmt.Errorf("%w: %d zones, limit %d, and %d that were made, limit %d", nexusraft.ErrTooLarge, live,
			nexusraft.MaxZones, created, MaxCreatedZones)
	}
	t = HostedZones{
		Version: req.GetVersion(), Live: make([]nexusraft.ZoneID, live), Created: make([]HostedZone, created),
	}
	last := uint64(0)
	for i, distance := range req.GetLive() {
		last += distance // Validate finds one that wraps around: it does not ascend
		t.Live[i] = nexusraft.ZoneID(last)
	}
	for i, z := range req.GetCreated() {
		if n := len(z.GetMembers()); n > nexusraft.MaxMembers {
			return HostedZones{}, fmt.Errorf("%w: zone %v has %d members, limit %d", nexusraft.ErrTooLarge,
				nexusraft.ZoneID(z.GetId()), n, nexusraft.MaxMembers)
		}
		t.Created[i] = HostedZone{
			Zone: nexusraft.ZoneID(z.GetId()), Version: z.GetVersion(), Replica: nexusraft.ReplicaID(z.GetReplica()),
			Members: wire.MembershipFromProto(&pb.Membership{Members: z.GetMembers()}).Members,
		}
	}
	if err := t.Validate(); err != nil {
		return HostedZones{}, err
	}
	return t, nil
}

// HostZones implements pb.ClusterServer.
func (c clusterService) HostZones(ctx context.Context, req *pb.HostZonesRequest) (*pb.HostZonesResponse, error) {
	resp := &pb.HostZonesResponse{}
	if version, err := c.s.hostZones(ctx, req); err != nil {
		resp.Result = &pb.HostZonesResponse_Error{Error: wire.ErrorToProto(err)}
	} else {
		resp.Result = &pb.HostZonesResponse_Version{Version: version}
	}
	resp.Hello = c.s.hello(req.GetHello())
	return resp, nil
}

func (s *Server) hostZones(ctx context.Context, req *pb.HostZonesRequest) (version uint64, err error) {
	if s.h.HostZones == nil {
		return 0, fmt.Errorf("%w: this node is no witness: it knows the zones by its copy of the root zone",
			nexusraft.ErrRefused)
	}
	from, err := s.greet(ctx, req.GetHello(), false)
	if err != nil {
		return 0, err
	}
	t, err := hostedZonesFromProto(req)
	if err != nil {
		return 0, fmt.Errorf("read zones: %w", err)
	}
	return s.h.HostZones(ctx, from, t)
}

// HostZones tells a witness which zones there are, and returns the version of the root zone's table
// that it knows then, on its disk. It may be lower than t's: the witness takes zones over step by step.
// ErrUnreachable: there is no answer, and the witness may take over more; ErrRefused: it does not take
// them over, or runs a release that can't; ErrOverloaded: not yet. It borrows t's slices until it
// returns.
func (p *Peers) HostZones(ctx context.Context, to nexusraft.NodeID, t HostedZones) (version uint64, err error) {
	if err := t.Validate(); err != nil {
		return 0, fmt.Errorf("tell node %v of zones: %w", to, err)
	}
	x := p.peer(to)
	if x == nil {
		return 0, p.errUnknown(to)
	}
	client, err := x.awaitUp(ctx)
	if err != nil {
		return 0, err
	}
	return client.hostZones(ctx, t)
}

func (c *Client) hostZones(ctx context.Context, t HostedZones) (version uint64, err error) {
	ctx, end, err := c.beginCall(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	self := c.pool.self()
	resp, err := pb.NewClusterClient(c.conn).HostZones(ctx, hostedZonesToProto(hello(self, c.addr.ID), t))
	switch {
	case status.Code(err) == codes.Unimplemented:
		return 0, fmt.Errorf("%w: node %v runs an earlier release, which knows no zone but the root zone; update it first",
			nexusraft.ErrRefused, c.addr.ID)
	case err != nil:
		return 0, fmt.Errorf("%w: %w", ErrUnreachable, forPeople(reason(ctx, err)))
	case resp.GetError() != nil:
		return 0, wire.ErrorFromProto(resp.GetError())
	}
	if err := c.pool.accept(self, resp.GetHello(), c.addr.ID); err != nil {
		return 0, err
	}
	return resp.GetVersion(), nil
}
