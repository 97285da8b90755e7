package authority

import (
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/transport"
)

// certificateLife is how long a node's certificate is good; it is renewed when a third of it is left.
const certificateLife = 90 * 24 * time.Hour

// Sign gives a node a certificate for the key of its request, which says what the node's record
// does.
func (s *Service) Sign(request []byte, node nexusraft.NodeID, role nexusraft.Role) (transport.Renewal, error) {
	a, err := s.record()
	if err != nil {
		return transport.Renewal{}, err
	}
	if err := s.upToDate(a); err != nil {
		return transport.Renewal{}, err
	}
	subject := pki.Subject{Cluster: s.self().Cluster, Node: node}
	cert, err := pki.SignNode(system.SignerOfNodes(a), request, subject, role, s.o.Clock(), certificateLife)
	if err != nil {
		return transport.Renewal{}, fmt.Errorf("sign the certificate of node %v: %w", node, err)
	}
	return transport.Renewal{Certificate: cert, Authorities: believedBy(a)}, nil
}

// ProveFull has the node's certificate say that it is a full one before the first connection is made
// with it, or warns: those of earlier releases do not say so, and those from files may not.
// The node's zones are not open yet: stored runs a function over the root zone's state as it is in
// the store.
func (s *Service) ProveFull(stored func(func(nexusraft.Reader) error) error) {
	tls, files := s.o.Peering.TLS(), s.o.Peering.TLSMode() == peering.FromFiles
	switch {
	case tls == nil || s.self().Cluster == 0 && !files || tls.ProvesFull():
	case files:
		s.o.Logger.Warn("this node's certificate does not say that it is a full one: a replica that was away follows no " +
			"leader that came meanwhile by such a one; give it one with the URI nexus-raft-role:member besides")
	default:
		err := stored(func(r nexusraft.Reader) error {
			a, err := system.Authority(r)
			if err != nil {
				return err
			}
			return s.renewBy(a, s.o.Clock())
		})
		if err != nil {
			s.o.Logger.Warn("the node's certificate does not say that it is a full one", "err", err)
		}
	}
}

func (s *Service) renewBy(a *pb.Authority, now time.Time) error {
	if err := s.upToDate(a); err != nil {
		return err
	}
	own, err := nodePair(system.SignerOfNodes(a), pki.Subject{Cluster: s.self().Cluster, Node: s.self().Node}, now)
	if err != nil {
		return err
	}
	err = s.o.Peering.Change(func(c *peering.Credentials) error {
		c.Cert, c.Key = own.Cert, own.Key
		return nil
	})
	if err == nil {
		s.o.Logger.Info("certificate renewed", "until", s.o.Peering.TLS().Until())
	}
	return err
}

// signedPair makes a key and a certificate for it.
func signedPair(ca pki.Pair, s pki.Subject, now time.Time, life time.Duration) (pki.Pair, error) {
	request, key, err := pki.NewRequest()
	if err != nil {
		return pki.Pair{}, err
	}
	cert, err := pki.Sign(ca, request, s, now, life)
	return pki.Pair{Cert: cert, Key: key}, err
}

// nodePair is signedPair for the certificate of this node, which is a full one.
func nodePair(ca pki.Pair, s pki.Subject, now time.Time) (pki.Pair, error) {
	request, key, err := pki.NewRequest()
	if err != nil {
		return pki.Pair{}, err
	}
	cert, err := pki.SignNode(ca, request, s, nexusraft.RoleMember, now, certificateLife)
	return pki.Pair{Cert: cert, Key: key}, err
}
