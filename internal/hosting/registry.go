package hosting

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Root is the root zone as its node has it. Its methods may be called from many goroutines.
type Root interface {
	// Command replicates a system command, by way of the leader if this node is not it, and returns
	// its answer. Errors are those of node.Zone.Propose, and what applying the command has refused.
	Command(ctx context.Context, c *pb.NodeCommand) ([]byte, error)

	// Read runs fn over the state once a quorum has confirmed it, as node.Zone.Read does. The Reader
	// is void when fn returns.
	Read(ctx context.Context, fn func(nexusraft.Reader) error) error

	// ReadLocal is Read over the state as this node has it, which may be behind.
	ReadLocal(fn func(nexusraft.Reader) error) error

	// Members returns the records of the zone's replicas as this node has them. If the zone has failed
	// on this node they come with its error.
	Members() (nexusraft.Membership, error)

	// LeadsIn returns the term in which this node leads the zone and has applied what was acknowledged before; 0 if it
	// does not.
	LeadsIn() nexusraft.Term
}

// Options are what a Registry needs of its node.
type Options struct {
	Zone   Root
	Logger *slog.Logger

	// Speaks returns which minor version of the protocol a node has said that it speaks since this one was
	// started, false if it has said nothing yet; see peering.Peering.Minor.
	Speaks func(nexusraft.NodeID) (uint32, bool)

	// TellWitness is transport.Peers.HostZones. nil: no witness is told of zones.
	TellWitness func(ctx context.Context, node nexusraft.NodeID, t transport.HostedZones) (version uint64, err error)

	// Silent returns for how long other nodes have not been heard of; those of which nothing is known are left out. nil:
	// none are silent.
	Silent func() map[nexusraft.NodeID]time.Duration

	// SpareAfter is for how long a node is silent until it counts as lost, and a zone that is to have a spare moves:
	// counted in looks of one leadership of the root zone.
	SpareAfter time.Duration
}

// Registry has the zones of a cluster, as the root zone keeps them. It implements rpc.ZoneKeeper. Its
// methods may be called from many goroutines.
type Registry struct {
	o Options

	// for Tend alone
	older   map[nexusraft.NodeID]uint32 // nodes below the cluster's version, and what they speak
	told    map[nexusraft.NodeID]*toldWitness
	records records // follow is anybody's
	asked   map[nexusraft.ZoneID]asked
	silence silence
	last    nexusraft.ZoneID // that the last look has changed, if it could not change all

	reported chan struct{} // has room for one
	mu       sync.Mutex    // guards reports
	reports  map[nexusraft.ZoneID]*pb.ReportZone
}

// New returns the registry of a node.
func New(o Options) *Registry {
	return &Registry{
		o: o, told: make(map[nexusraft.NodeID]*toldWitness), asked: make(map[nexusraft.ZoneID]asked),
		reported: make(chan struct{}, 1), reports: make(map[nexusraft.ZoneID]*pb.ReportZone),
	}
}

// Create makes a zone, and returns it; if there is one of this name and state machine, that. Errors are those of
// node.Zone.Propose, and ErrRefused with the reason: the name, another state machine, the plan, too few nodes for it,
// too many zones, or a node of an earlier release.
func (s *Registry) Create(
	ctx context.Context, name, machine string, plan nexusraft.ZonePlan,
) (nexusraft.ZoneInfo, error) {
	what := fmt.Sprintf("create zone %q", nexusraft.Printable(name))
	fail := func(err error) (nexusraft.ZoneInfo, error) {
		return nexusraft.ZoneInfo{}, fmt.Errorf("%s: %w", what, err)
	}
	err := cmp.Or(nexusraft.ValidateZoneName(name), nexusraft.ValidateMachineName(machine), plan.Validate())
	if err != nil {
		return fail(err)
	}
	members, err := s.members(ctx)
	if err != nil {
		return fail(err)
	}
	if err := cmp.Or(s.requireVersion(ctx, members), s.requireRoom(name)); err != nil {
		return fail(err)
	}
	c := &pb.CreateZone{
		Name: name, Machine: machine, Nodes: founders(members), Spare: plan.Spare, Preferred: uint64(plan.Preferred),
	}
	if plan.Shape != (nexusraft.Shape{}) {
		c.Shape, c.Nodes = wire.ShapeToProto(plan.Shape), s.audible(members)
	}
	z, err := s.changed(ctx, &pb.NodeCommand{Kind: &pb.NodeCommand_CreateZone{CreateZone: c}})
	if err != nil {
		return fail(err)
	}
	return z, nil
}

// changed makes a change that is answered by a zone's record.
func (s *Registry) changed(ctx context.Context, c *pb.NodeCommand) (nexusraft.ZoneInfo, error) {
	answer, err := s.o.Zone.Command(ctx, c)
	if err != nil {
		return nexusraft.ZoneInfo{}, err
	}
	z := &pb.ZoneRecord{}
	if err := proto.Unmarshal(answer, z); err != nil || z.GetId() == 0 {
		return nexusraft.ZoneInfo{}, fmt.Errorf("%w: the answer is no zone's record", nexusraft.ErrUncertain)
	}
	return infoOf(z), nil
}

// maxIdleZones is how many zones a cluster may have besides the root zone before no more are made. They
// sleep while they are idle; but when a node is lost all that it led elect a leader at once. On two processors, which
// both members and the witness shared, 10,000 were led again after 4 s, and after 13 s where others kept the
// processors busy. What is applied allows for nexusraft.MaxZones.
const maxIdleZones = 10_000

// requireRoom refuses one zone more than that, as far as this node knows.
func (s *Registry) requireRoom(name string) error {
	return s.o.Zone.ReadLocal(func(r nexusraft.Reader) error {
		t, err := system.ZoneTable(r)
		if err != nil || t.GetCount() < maxIdleZones {
			return err
		}
		old, err := system.ZoneNamed(r, name)
		if err == nil && old == nil {
			err = fmt.Errorf("%w: there are %d zones, and this release keeps no more: when a node is lost all of them elect "+
				"a leader at once; delete some", nexusraft.ErrRefused, t.GetCount())
		}
		return err
	})
}

// founders are the nodes that a zone begins on, ascending: the voters of the root zone. The others
// follow, as those that join later do.
func founders(root nexusraft.Membership) (nodes []*pb.Member) {
	return slices.DeleteFunc(nodesOf(root), func(m *pb.Member) bool { return m.GetRole() == pb.Role_ROLE_LEARNER })
}

// nodesOf are the cluster's nodes, ascending.
func nodesOf(root nexusraft.Membership) (nodes []*pb.Member) {
	for _, m := range wire.MembershipToProto(root).GetMembers() {
		m.Replica = 0
		nodes = append(nodes, m)
	}
	slices.SortFunc(nodes, func(a, b *pb.Member) int { return cmp.Compare(a.GetNode(), b.GetNode()) })
	return nodes
}

// Delete deletes a zone and its data, for ever. Errors are those of node.Zone.Propose, and ErrRefused
// if there is no zone of this ID and name, or it is the root zone.
func (s *Registry) Delete(ctx context.Context, id nexusraft.ZoneID, name string) error {
	_, err := s.o.Zone.Command(ctx, &pb.NodeCommand{Kind: &pb.NodeCommand_DeleteZone{
		DeleteZone: &pb.DeleteZone{Id: uint64(id), Name: name},
	}})
	if err != nil {
		return fmt.Errorf("delete zone %q: %w", nexusraft.Printable(name), err)
	}
	return nil
}

// PageZones is how many zones List returns at most.
const PageZones = 1000

// List returns the zones after one, by ID, PageZones at most, and whether there are more; the root zone
// is left out. A name asks for the zone that is called so. Errors are those of node.Zone.Read.
func (s *Registry) List(
	ctx context.Context, after nexusraft.ZoneID, name string,
) (zones []nexusraft.ZoneInfo, more bool, err error) {
	var found []*pb.ZoneRecord
	err = s.o.Zone.Read(ctx, func(r nexusraft.Reader) (err error) {
		if name == "" {
			found, err = system.Zones(r, after, PageZones+1)
			return err
		}
		z, err := system.ZoneNamed(r, name)
		if err == nil && z != nil && nexusraft.ZoneID(z.GetId()) > after {
			found = []*pb.ZoneRecord{z}
		}
		return err
	})
	if err != nil {
		return nil, false, fmt.Errorf("list zones: %w", err)
	}
	if more = len(found) > PageZones; more {
		found = found[:PageZones]
	}
	for _, z := range found {
		zones = append(zones, infoOf(z))
	}
	return zones, more, nil
}

func infoOf(z *pb.ZoneRecord) nexusraft.ZoneInfo {
	info := nexusraft.ZoneInfo{
		ID: nexusraft.ZoneID(z.GetId()), Name: z.GetName(), Machine: z.GetMachine(),
		Created:  time.Unix(0, z.GetCreatedNanos()).UTC(),
		ZonePlan: system.PlanOf(z), Placement: system.Placement(z), Moving: z.GetMoving(),
	}
	for _, p := range z.GetLeaving() {
		info.Leaving = append(info.Leaving, nexusraft.NodeID(p.GetNode()))
	}
	for _, node := range z.GetOff() {
		info.Off = append(info.Off, nexusraft.NodeID(node))
	}
	return info
}

// housekeeping is how often Tend looks whether there is something to do, besides when the zones change.
const housekeeping = time.Second

// Tend tells the witnesses of the zones, the log of nodes that an earlier program was put back on, and has zones leave
// nodes that are gone, while this node leads the root zone, until ctx ends. What Report was told it passes on in any
// case. changed returns a channel that the next change of the zones closes.
func (s *Registry) Tend(ctx context.Context, changed func() <-chan struct{}) {
	tick := time.NewTicker(housekeeping)
	defer tick.Stop()
	for {
		next := changed() // before the zones are looked at, so that nothing falls in between
		s.passOn(ctx)
		if term := s.o.Zone.LeadsIn(); term != 0 {
			s.tend(ctx, term)
		} else {
			s.records.forget()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-next:
		case <-s.reported:
		}
	}
}

// Follow takes over what commands have made of the zones' records once it is written, in their order; whole: what they
// have made is not known. It does not block, and may be called by any goroutine.
func (s *Registry) Follow(whole bool, changes []*system.ZoneChange) { s.records.follow(whole, changes) }

// tend is one look, in a term in which this node leads. What fails is tried again by the next one.
func (s *Registry) tend(ctx context.Context, term nexusraft.Term) {
	s.tendVersion()
	s.tellWitnesses(ctx)
	s.tendPlacements(ctx, term)
}
