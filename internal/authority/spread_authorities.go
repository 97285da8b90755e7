package authority

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Which authorities a node believes is on its own disk, synced, before it says so: what it has
// applied may be forgotten in a crash, and a node that has forgotten the new authority refuses the
// certificates of all that could tell it again.

// Trust is transport.Handlers.Trust. Which authorities this node believes its state says, and no
// peer; one that knows others after as many steps is told so.
func (s *Service) Trust(_ context.Context, _ transport.Identity, a transport.CABundle) (transport.Trust, error) {
	c := s.o.Peering.Credentials()
	if c != nil && a.Step == c.Step && len(a.Certificates) > 0 && !c.Believes(a.Certificates) {
		return transport.Trust{}, fmt.Errorf("%w: node %v believes other authorities after as many steps",
			nexusraft.ErrRefused, s.self().Node)
	}
	return s.o.Peering.Trust()
}

// upToDate refuses a record that is older than what this node believes: the state is on its way.
func (s *Service) upToDate(a *pb.Authority) error {
	if c := s.o.Peering.Credentials(); c != nil && a.GetStep() < c.Step {
		return fmt.Errorf("%w: the state of node %v is behind the cluster's authorities: try again, or another member",
			nexusraft.ErrOverloaded, s.self().Node)
	}
	return nil
}

// believeState takes over which authorities the state says to believe, if that is new.
func (s *Service) believeState() error {
	c := s.o.Peering.Credentials()
	if c == nil {
		return nil
	}
	a, err := s.record()
	if errors.Is(err, nexusraft.ErrZoneNotFound) || errors.Is(err, system.ErrNoAuthority) ||
		err == nil && a.GetStep() < c.Step {
		return nil // the state is still on its way to this node
	}
	if err != nil {
		return err
	}
	list := believedBy(a)
	if list.Step == c.Step && c.Believes(list.Certificates) {
		return nil
	}
	return s.o.Peering.Follow(list) // the same step, too: the member that let this node in may have lied
}

// tellWitnesses tells the witnesses that are not in told with the latest step which authorities to
// believe. It reports whether there is none left.
func (s *Service) tellWitnesses(ctx context.Context, told map[nexusraft.NodeID]uint64) bool {
	p := s.o.Peering.Credentials()
	if p == nil || p.Step == 0 {
		return true
	}
	members, _ := s.o.Zone.Members() // those of a zone that has failed, too
	all := true
	for _, m := range members.Members {
		if m.Role != nexusraft.RoleWitness || told[m.Node] >= p.Step {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, trustTimeout)
		t, err := s.o.AskTrust(ctx, m.Node, transport.CABundle{Step: p.Step, Certificates: p.Roots})
		cancel()
		if err == nil && t.Step >= p.Step {
			told[m.Node] = t.Step
			continue
		}
		all = false
	}
	return all
}

// trustTimeout is how long a node may take to say which authorities it believes.
const trustTimeout = 2 * time.Second
