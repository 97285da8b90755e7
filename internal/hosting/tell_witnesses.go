package hosting

import (
	"context"
	"fmt"
	"sort"
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
	for s.o.Zone.Leads() {
		table, err := s.table()
		switch {
		case err != nil || table == 0: // without any zone since the founding there is nothing to tell
			return err
		case w.asked && w.version > table && s.o.Zone.Leads(): // this replica has applied all that was acknowledged
			return fmt.Errorf("%w: witness %v knows version %d of the table of zones, and there are only %d: a node that "+
				"was not of this state has told it; remove it and let a new one join", nexusraft.ErrCorrupt, node, w.version, table)
		case w.asked && w.version >= table:
			return nil
		}
		var page transport.HostedZones // the question how much it knows
		if w.asked {
			if page, err = s.page(node, w.version); err != nil {
				return err
			}
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

func (s *Registry) table() (version uint64, err error) {
	err = s.o.Zone.ReadLocal(func(r nexusraft.Reader) error {
		t, err := system.ZoneTable(r)
		version = t.GetVersion()
		return err
	})
	return version, err
}

// page returns what a witness is to be told that knows a version of the table of zones: all, or as much
// as goes into one call.
func (s *Registry) page(node nexusraft.NodeID, knows uint64) (page transport.HostedZones, err error) {
	err = s.o.Zone.ReadLocal(func(r nexusraft.Reader) error {
		table, err := system.ZoneTable(r)
		if err != nil {
			return err
		}
		page.Version = table.GetVersion()
		if page.Live, err = system.ZoneIDs(r); err != nil {
			return err
		}
		first, err := firstAfter(r, page.Live, knows)
		if err != nil {
			return err
		}
		for i, bytes := first, 0; i < len(page.Live); i++ {
			z, err := record(r, page.Live[i])
			if err != nil {
				return err
			}
			made := len(page.Created)
			bytes += proto.Size(z)
			if made == transport.MaxCreatedZones || made > 0 && bytes > pageBytes {
				page.Version, page.Live = page.Created[made-1].Version, page.Live[:i]
				return nil
			}
			page.Created = append(page.Created, hostedZone(z, node))
		}
		return nil
	})
	return page, err
}

// firstAfter returns the position of the first zone that was made after a version: IDs and versions
// ascend alike.
func firstAfter(r nexusraft.Reader, ids []nexusraft.ZoneID, version uint64) (position int, err error) {
	position = sort.Search(len(ids), func(i int) bool {
		z, failed := record(r, ids[i])
		if failed != nil {
			err = failed
		}
		return z.GetVersion() > version
	})
	return position, err
}

// record returns the record of a zone that is there.
func record(r nexusraft.Reader, id nexusraft.ZoneID) (*pb.ZoneRecord, error) {
	z, err := system.FindZone(r, id)
	if err == nil && z == nil {
		err = fmt.Errorf("%w: zone %v has no record", nexusraft.ErrCorrupt, id)
	}
	return z, err
}

func hostedZone(z *pb.ZoneRecord, witness nexusraft.NodeID) transport.HostedZone {
	id := nexusraft.ZoneID(z.GetId())
	return transport.HostedZone{
		Zone: id, Version: z.GetVersion(), Replica: system.ReplicaOf(id, witness),
		Members: wire.MembershipFromProto(&pb.Membership{Members: z.GetMembers()}).Members,
	}
}
