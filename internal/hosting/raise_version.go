package hosting

import (
	"context"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// RequireVersion raises the cluster's version to the newest one that all nodes speak, if that is more than it has.
// Where it has less than zones, sessions and versions of state machines need, and stays there, it returns ErrRefused
// with the node that stands in the way. Errors are those of node.Zone.Propose, too.
func (s *Registry) RequireVersion(ctx context.Context) error {
	if now, err := s.version(); err != nil || now >= system.NewestVersion {
		return err
	}
	members, err := s.members(ctx)
	if err != nil {
		return err
	}
	return s.requireVersion(ctx, members)
}

// members returns the records of the cluster's nodes, no older than the call.
func (s *Registry) members(ctx context.Context) (nexusraft.Membership, error) {
	if err := s.o.Zone.Read(ctx, func(nexusraft.Reader) error { return nil }); err != nil {
		return nexusraft.Membership{}, err
	}
	return s.o.Zone.Members()
}

// requireVersion is RequireVersion with the cluster's nodes. Until a zone or a session is wanted the version stays, and
// an earlier program may be put back.
func (s *Registry) requireVersion(ctx context.Context, members nexusraft.Membership) error {
	now, err := s.version()
	if err != nil || now >= system.NewestVersion {
		return err
	}
	to, held := s.spoken(members)
	switch {
	case to > now:
		return s.raiseVersion(ctx, to)
	case now < system.ZonesVersion:
		return held
	}
	return nil
}

// requireNamedPlace is requireVersion for a change that names the node that takes a place.
func (s *Registry) requireNamedPlace(ctx context.Context, members nexusraft.Membership) error {
	if err := s.requireVersion(ctx, members); err != nil {
		return err
	}
	err := s.o.Zone.ReadLocal(system.RequireNamedPlace)
	if err == nil {
		return nil
	}
	if _, held := s.spoken(members); held != nil {
		err = fmt.Errorf("%w: %v", err, held)
	}
	return fmt.Errorf("%w; or let any node take the place: nexus-raft zone reshape NAME --off NODE", err)
}

// spoken returns the highest of the cluster's versions that each of its nodes has said that it speaks, 0 if there is
// none, and then which node stands in the way.
func (s *Registry) spoken(members nexusraft.Membership) (version uint32, held error) {
	version = system.NewestVersion
	for _, m := range members.Members {
		switch minor, heard := s.o.Speaks(m.Node); {
		case !heard:
			return 0, fmt.Errorf("%w: the first zone or session of a cluster that an earlier release has founded needs each "+
				"node to say once that its release knows of them, and %v has not been heard of since this node was started: start "+
				"it, or remove it", nexusraft.ErrRefused, m)
		case minor < system.ZonesVersion:
			return 0, fmt.Errorf("%w: zones and sessions need version %d of the protocol on all nodes, and %v speaks version "+
				"%d: install the newest release on it", nexusraft.ErrRefused, system.ZonesVersion, m, minor)
		case minor < system.BatchVersion:
			version = system.ZonesVersion
		}
	}
	return version, nil
}

func (s *Registry) raiseVersion(ctx context.Context, to uint32) error {
	_, err := s.o.Zone.Command(ctx, &pb.NodeCommand{Kind: &pb.NodeCommand_RaiseClusterVersion{
		RaiseClusterVersion: &pb.RaiseClusterVersion{Minor: to},
	}})
	if err != nil {
		return fmt.Errorf("raise the cluster's version: %w", err)
	}
	s.o.Logger.Info("cluster version raised", "version", to)
	return nil
}

// version is the cluster's, as this node knows it.
func (s *Registry) version() (now uint32, err error) {
	err = s.o.Zone.ReadLocal(func(r nexusraft.Reader) (err error) {
		now, err = system.ClusterVersion(r)
		return err
	})
	return now, err
}

// tendVersion warns of nodes that came to speak less than the cluster has.
func (s *Registry) tendVersion() {
	now, err := s.version()
	if err != nil || now < system.ZonesVersion { // the zone is closing; or the cluster is of all releases
		return
	}
	if members, err := s.o.Zone.Members(); err == nil {
		s.warnOfOlder(members, now)
	}
}

// warnOfOlder tells the log of nodes that speak less than the cluster has, once each: an earlier program was
// put back there. It goes on while it meets nothing new, and stops where it does, with a reason.
func (s *Registry) warnOfOlder(members nexusraft.Membership, now uint32) {
	older := make(map[nexusraft.NodeID]uint32)
	for _, m := range members.Members {
		minor, heard := s.o.Speaks(m.Node)
		if !heard || minor >= now {
			continue
		}
		older[m.Node] = minor
		if known, told := s.older[m.Node]; !told || known != minor {
			s.o.Logger.Warn("a node speaks a lower version than the cluster has: install the newest release on it",
				"peer", m.Node, "addr", m.Address, "minor", minor, "version", now)
		}
	}
	s.older = older
}
