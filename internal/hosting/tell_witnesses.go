package hosting

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/transport"
)

const (
	tellTimeout = 2 * time.Second // for one call; a witness that takes longer has got on by the next one
	pageBytes   = 2 << 20         // of the records of the zones in one call, about
)

// toldWitness is what is known of a witness. A witness never knows less than it did.
type toldWitness struct {
	asked   bool
	version uint64 // of the table of zones that it knows, once it was asked
	failing bool   // the last call failed, and the log says so
}

// tellWitnesses tells each witness of the root zone which zones there are, if it has not confirmed that it
// knows. It has no copy of the root zone's state to go by. What fails is tried again by the next look.
func (s *Registry) tellWitnesses(ctx context.Context) {
	if s.o.TellWitness == nil {
		return
	}
	members, err := s.o.Zone.Members()
	if err != nil {
		return // the root zone has failed on this node, which says so
	}
	for node := range s.told {
		if m, ok := members.Node(node); !ok || m.Role != nexusraft.RoleWitness {
			delete(s.told, node)
		}
	}
	for _, m := range members.Members {
		if m.Role != nexusraft.RoleWitness {
			continue
		}
		w := s.told[m.Node]
		if w == nil {
			w = &toldWitness{}
			s.told[m.Node] = w
		}
		err := s.tellWitness(ctx, m.Node, w)
		if err != nil && !w.failing && ctx.Err() == nil {
			s.o.Logger.Warn("a witness is not told which zones there are; it is tried again", "peer", m.Node, "err", err)
		}
		w.failing = err != nil
	}
}

// tellWitness tells a witness all that it does not know.
func (s *Registry) tellWitness(ctx context.Context, node nexusraft.NodeID, w *toldWitness) error {
	for s.o.Zone.LeadsIn() != 0 {
		if err := s.records.update(s.o.Zone.ReadLocal); err != nil {
			return err
		}
		table := s.records.version
		switch {
		case table == 0: // without any zone since the founding there is nothing to tell
			return nil
		case w.asked && w.version > table && s.o.Zone.LeadsIn() != 0: // this replica has applied all that was acknowledged
			return fmt.Errorf("%w: witness %v knows version %d of the table of zones, and there are only %d: a node that "+
				"was not of this state has told it; remove it and let a new one join", nexusraft.ErrCorrupt, node, w.version, table)
		case w.asked && w.version >= table:
			return nil
		}
		var page transport.HostedZones // the question how much it knows
		if w.asked {
			page = s.page(node, w.version)
		}
		before := *w
		if err := s.tell(ctx, node, w, page); err != nil {
			return err
		}
		if before.asked && w.version <= before.version {
			return fmt.Errorf("%w: told of version %d of the table of zones, witness %v still knows version %d",
				nexusraft.ErrRefused, page.Version, node, w.version)
		}
	}
	return nil
}

// tell makes one call. After an error the witness is asked again how much it knows.
func (s *Registry) tell(ctx context.Context, node nexusraft.NodeID, w *toldWitness, page transport.HostedZones) error {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	version, err := s.o.TellWitness(ctx, node, page)
	w.asked, w.version = err == nil, version
	return err
}

// page returns what a witness is to be told that knows a version of the table of zones: all, or as much
// as goes into one call.
func (s *Registry) page(node nexusraft.NodeID, knows uint64) (page transport.HostedZones) {
	live, news := witnessedBy(s.records.all, node, knows)
	page.Version, page.Created = created(news, s.records.version, knows)
	later := make(map[nexusraft.ZoneID]bool)
	for _, z := range news {
		later[nexusraft.ZoneID(z.record.GetId())] = z.version > page.Version
	}
	page.Live = slices.DeleteFunc(live, func(id nexusraft.ZoneID) bool { return later[id] })
	return page
}

// witnessed is a zone that a witness is to host.
type witnessed struct {
	record  *pb.ZoneRecord
	version uint64 // of the table of zones, from which on it has the replica
	replica nexusraft.ReplicaID
	witness nexusraft.NodeID
}

// witnessedBy returns the zones that a witness is to host, of all, ascending, and those of them that it does not know,
// as it knows a version of the table. Without those that were placed later, their versions ascend, too.
func witnessedBy(
	all []*pb.ZoneRecord, witness nexusraft.NodeID, knows uint64,
) (live []nexusraft.ZoneID, news []witnessed) {
	live = make([]nexusraft.ZoneID, 0, len(all))
	for _, z := range all {
		replica, version, ok := system.HostedBy(z, witness)
		if !ok {
			continue
		}
		if live = append(live, nexusraft.ZoneID(z.GetId())); version > knows {
			news = append(news, witnessed{z, version, replica, witness})
		}
	}
	return live, news
}

// later reports whether the replica was placed after the zone was made.
func (z witnessed) later() bool { return z.version != z.record.GetVersion() }

// zone is what the witness is told of it.
func (z witnessed) zone() transport.HostedZone {
	members := wire.MembershipFromProto(&pb.Membership{Members: z.record.GetMembers()}).Members
	if z.later() {
		members = system.KnownTo(z.record, z.witness)
	}
	return transport.HostedZone{
		Zone: nexusraft.ZoneID(z.record.GetId()), Version: z.version, Replica: z.replica, Members: members,
	}
}

// created returns the next version that a witness is to know that knows one, and those of the zones that it does not
// know to make until then. One that was placed
// later comes alone: its version and its ID are not in one order with the others'. What comes before that is told
// before, so that an earlier replica of the witness is gone by then.
func created(zones []witnessed, table, knows uint64) (version uint64, made []transport.HostedZone) {
	version = table
	for _, z := range zones {
		switch {
		case !z.later() || z.version > version:
		case z.version == knows+1:
			return z.version, []transport.HostedZone{z.zone()}
		default:
			version = z.version - 1
		}
	}
	bytes := 0
	for _, z := range zones {
		if z.later() || z.version > version {
			continue
		}
		bytes += proto.Size(z.record)
		if n := len(made); n == transport.MaxCreatedZones || n > 0 && bytes > pageBytes {
			return made[n-1].Version, made
		}
		made = append(made, z.zone())
	}
	return version, made
}
