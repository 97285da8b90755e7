package authority

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/transport"
)

// RootZone is the root zone as its node has it. Its methods may be called from many goroutines.
type RootZone interface {
	// Propose replicates a system command, by way of the leader if this node is not it. Errors are
	// those of node.Zone.Propose, and what applying the command has refused.
	Propose(ctx context.Context, c *pb.NodeCommand) error

	// Read runs fn over the state once a quorum has confirmed it, as node.Zone.Read does. The Reader
	// is void when fn returns.
	Read(ctx context.Context, fn func(nexusraft.Reader) error) error

	// ReadLocal is Read over the state as this node has it, which may be behind.
	ReadLocal(fn func(nexusraft.Reader) error) error

	// Confirm returns once this node's state includes every write that was acknowledged before.
	Confirm(ctx context.Context) error

	// Members returns the records of the zone's replicas as this node has them. If the zone has failed
	// on this node they come with its error.
	Members() (nexusraft.Membership, error)

	// MayJoin returns why the zone would not admit a node, as refusal; nil if it would, or has. Any
	// error of the call itself, ErrNotLeader among them, is err.
	MayJoin(ctx context.Context, r transport.JoinRequest) (refusal, err error)
}

// Options are what a Service needs of its node.
type Options struct {
	Zone    RootZone
	Peering *peering.Peering // which is secured; see peering.Peering.Secure

	// AskTrust is transport.Peers.Trust.
	AskTrust func(ctx context.Context, node nexusraft.NodeID, a transport.CABundle) (transport.Trust, error)

	// Changed returns a channel that is closed at the next change of what the root zone says of access.
	Changed func() <-chan struct{}

	TickInterval time.Duration
	Clock        func() time.Time
	Logger       *slog.Logger
}

// Service issues credentials for its cluster. It implements nexusraft.Credentials, and with that
// rpc.Granter and rpc.Issuer, and rpc.Rotator. Its methods may be called from many goroutines.
type Service struct {
	o       Options
	version atomic.Uint32 // the cluster's, as it was read last
}

// New returns the service of a node.
func New(o Options) *Service { return &Service{o: o} }

func (s *Service) self() transport.Identity { return s.o.Peering.Self() }

// propose replicates a system command; an error begins with what was to be done.
func (s *Service) propose(ctx context.Context, what string, c *pb.NodeCommand) error {
	if err := s.o.Zone.Propose(ctx, c); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// record returns the record of the cluster's authority as this node has it.
func (s *Service) record() (a *pb.Authority, err error) {
	err = s.o.Zone.ReadLocal(func(r nexusraft.Reader) error {
		a, err = system.Authority(r)
		return err
	})
	return a, err
}

// ClusterVersion returns the cluster's version as this node has it, which may be behind; 0 if it has none.
// It reads no more once the version is the highest that there is: a status must not wait for a disk.
func (s *Service) ClusterVersion() uint32 {
	version := s.version.Load()
	if version >= system.NewestVersion {
		return version
	}
	_ = s.o.Zone.ReadLocal(func(r nexusraft.Reader) (err error) { // a zone that has failed is told of elsewhere
		version, err = system.ClusterVersion(r)
		return err
	})
	s.version.Store(version)
	return version
}

// believedBy returns the authorities that the nodes are to believe by a record.
func believedBy(a *pb.Authority) transport.CABundle {
	return transport.CABundle{Step: a.GetStep(), Certificates: system.Believed(a)}
}
