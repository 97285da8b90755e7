package authority

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

const (
	tellEvery = 100 // ticks between two attempts to tell the witnesses which authorities to believe

	// renewConfirm is how long a member waits for a quorum before it renews on the membership that it
	// knows.
	renewConfirm = 2 * time.Second
)

// Renew is transport.Handlers.Renew: a node that is in the cluster gets a new certificate. By a
// token it takes a quorum.
func (s *Service) Renew(ctx context.Context, r transport.RenewRequest) (transport.Renewal, error) {
	if r.Proof.ID == ([8]byte{}) {
		return s.renewShown(ctx, r.Node, r.CertificateRequest)
	}
	role, err := s.useForRenewal(ctx, r)
	if err != nil {
		return transport.Renewal{}, err
	}
	return s.Sign(r.CertificateRequest, r.Node, role)
}

// renewShown renews the certificate of a node that has shown it. Without a quorum the membership
// that this member knows decides: it may be a voter whose certificate has expired that the quorum
// lacks, and a certificate is no vote. A node that was removed meanwhile is refused by all that
// know of it. While an authority is on its way out it takes a quorum in any case: a thief of the
// old one's key may have made the certificate.
func (s *Service) renewShown(
	ctx context.Context, node nexusraft.NodeID, request []byte,
) (none transport.Renewal, err error) {
	if _, lapsed := mtls.LapsedCallerOf(ctx); lapsed && s.o.Peering.TLSMode() == peering.FromFiles {
		return none, fmt.Errorf("%w: the certificate of node %v has expired, and this member renews none of another "+
			"authority than the cluster's own", nexusraft.ErrRefused, node)
	}
	unconfirmed := s.confirmFor(ctx, renewConfirm)
	if errors.Is(unconfirmed, nexusraft.ErrClosed) || errors.Is(unconfirmed, nexusraft.ErrFenced) {
		return none, unconfirmed
	}
	members, err := s.o.Zone.Members()
	if err != nil {
		return none, err
	}
	a, err := s.record()
	if err != nil {
		return none, err
	}
	m, in := members.Node(node)
	switch {
	case unconfirmed != nil && system.Phase(a) == nexusraft.AuthoritySigns:
		return none, fmt.Errorf("while the cluster's authority is replaced, renewing takes a quorum: %w", unconfirmed)
	case !in && unconfirmed != nil && !members.IsRemovedNode(node):
		return none, fmt.Errorf("node %v is not known here, which may be behind: %w", node, unconfirmed)
	case !in:
		return none, fmt.Errorf("%w: node %v is not in the cluster", nexusraft.ErrFenced, node)
	case unconfirmed != nil:
		s.o.Logger.Warn("certificate renewed without a quorum", "peer", node, "err", unconfirmed)
	}
	return s.Sign(request, node, m.Role)
}

// confirmFor is confirm of the root zone, which gives up after a while.
func (s *Service) confirmFor(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return s.o.Zone.Confirm(ctx)
}

// Renewal says how this node, which can sign, renews its certificate, and tells the witnesses which
// authorities to believe.
func (s *Service) Renewal() peering.RenewalPlan {
	told := make(map[nexusraft.NodeID]uint64)
	return peering.RenewalPlan{
		Look: s.lookAtCertificate,
		After: func(ctx context.Context) time.Duration {
			if s.tellWitnesses(ctx, told) {
				return 0
			}
			return tellEvery * s.o.TickInterval
		},
		Changed: s.o.Changed,
	}
}

// lookAtCertificate does what is due. A token that is of no use keeps nothing else from being done.
func (s *Service) lookAtCertificate(ctx context.Context, now time.Time) (err error) {
	if s.o.Peering.LeftBehind() {
		if err = s.o.Peering.RenewByToken(ctx, now); err != nil {
			err = fmt.Errorf("by the join token, which is of an authority that is not known here: %w", err)
		}
	}
	if err := s.believeState(); err != nil {
		return err
	}
	return errors.Join(err, s.renewIfDue(now))
}

// renewIfDue gives the node a new key and certificate if the old one is due, or is of an earlier
// release and does not say that this is a full node.
func (s *Service) renewIfDue(now time.Time) error {
	if s.o.Peering.Credentials() == nil || !s.o.Peering.Due(now) && s.o.Peering.TLS().ProvesFull() {
		return nil
	}
	a, err := s.record()
	if err != nil {
		return err
	}
	return s.renewBy(a, now)
}
