package authority

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Authorities returns the cluster's authorities as a quorum knows them, and how far each node says
// that it is; it asks all of them. Errors are those of Zone.Read, and ErrRefused for a cluster that
// has no authority of its own.
func (s *Service) Authorities(ctx context.Context) (nexusraft.Authorities, error) {
	all, _, err := s.survey(ctx)
	if err != nil {
		return nexusraft.Authorities{}, fmt.Errorf("ask for the cluster's authorities: %w", err)
	}
	return all, nil
}

// RotateAuthority takes one step of replacing the cluster's authority, to the phase that follows.
// It is ErrRefused, with their names, if nodes are not ready for it: they would be cut off. Those
// in without are left behind: to come back they need a join token that was made afterwards. A step
// that was taken already is no error. Errors are those of Zone.Propose, too.
func (s *Service) RotateAuthority(
	ctx context.Context, to nexusraft.AuthorityPhase, without []nexusraft.NodeID,
) (nexusraft.Authorities, error) {
	if err := s.rotate(ctx, to, without); err != nil {
		return nexusraft.Authorities{}, fmt.Errorf("rotate the authority: %w", err)
	}
	return s.Authorities(ctx)
}

func (s *Service) rotate(ctx context.Context, to nexusraft.AuthorityPhase, without []nexusraft.NodeID) error {
	if s.o.Peering.Credentials() == nil {
		return fmt.Errorf("%w: this member is not served with a certificate of the cluster's own authority",
			nexusraft.ErrRefused)
	}
	all, step, err := s.survey(ctx)
	switch {
	case err != nil:
		return err
	case all.Phase == to && (to != nexusraft.AuthorityAlone || step > 0): // taken, and the answer was lost
		return nil
	case all.Phase.Next() != to:
		return errNextStep(all.Phase)
	}
	if err := ready(all, to, without); err != nil {
		return err
	}
	c := &pb.RotateAuthority{Step: step + 1}
	if to == nexusraft.AuthorityBelieved {
		ca, err := pki.NewCA(s.self().Cluster, s.o.Clock())
		if err != nil {
			return err
		}
		c.Certificate, c.Key = ca.Cert, ca.Key
	}
	return s.o.Zone.Propose(ctx, &pb.NodeCommand{Kind: &pb.NodeCommand_RotateAuthority{RotateAuthority: c}})
}

func errNextStep(now nexusraft.AuthorityPhase) error {
	next := map[nexusraft.AuthorityPhase]string{
		nexusraft.AuthorityAlone:    "none is under way: begin one with: nexus-raft authority rotate",
		nexusraft.AuthorityBelieved: "the next step is: nexus-raft authority switch",
		nexusraft.AuthoritySigns:    "the next step is: nexus-raft authority finish",
	}[now]
	return fmt.Errorf("%w: this is not the next step of a rotation; %s", nexusraft.ErrRefused, next)
}

// ready refuses a step for which nodes are not ready that are not in without.
func ready(a nexusraft.Authorities, to nexusraft.AuthorityPhase, without []nexusraft.NodeID) error {
	var lacking []string
	for _, id := range without {
		if !slices.ContainsFunc(a.Nodes, func(r nexusraft.AuthorityNode) bool { return r.Node == id }) {
			return fmt.Errorf("%w: node %v is not in the cluster", nexusraft.ErrRefused, id)
		}
	}
	for _, r := range a.Nodes {
		if why := r.Lacks(to); why != "" && !slices.Contains(without, r.Node) {
			lacking = append(lacking, fmt.Sprintf("%s (%v): %s", r.Name, r.Node, why))
		}
	}
	if len(lacking) == 0 {
		return nil
	}
	return fmt.Errorf("%w: not all nodes are ready: %s; start them and try again, or leave them behind with --without: "+
		"they need a new join token then", nexusraft.ErrRefused, strings.Join(lacking, "; "))
}

// survey asks all nodes how far they are, and tells the witnesses which to believe. It returns also
// the step.
func (s *Service) survey(ctx context.Context) (all nexusraft.Authorities, step uint64, err error) {
	var a *pb.Authority
	err = s.o.Zone.Read(ctx, func(r nexusraft.Reader) error {
		a, err = system.Authority(r)
		return err
	})
	if err != nil {
		return all, 0, err
	}
	members, err := s.o.Zone.Members()
	if err != nil {
		return all, 0, err
	}
	list := believedBy(a)
	all = nexusraft.Authorities{Phase: system.Phase(a), Certificates: list.Certificates}
	signer, err := pki.Fingerprint(a.GetCertificate())
	if err != nil {
		return all, 0, err
	}
	for _, m := range members.Members {
		row := nexusraft.AuthorityNode{Node: m.Node, Name: m.Name, Role: m.Role}
		t, err := s.trustOf(ctx, m.Node, list)
		if err != nil {
			row.Problem = err.Error()
		} else {
			row.Believes, row.Shows = t.Step == list.Step, bytes.Equal(t.Signer, signer[:])
		}
		all.Nodes = append(all.Nodes, row)
	}
	return all, list.Step, nil
}

func (s *Service) trustOf(
	ctx context.Context, node nexusraft.NodeID, a transport.CABundle,
) (transport.Trust, error) {
	if node == s.self().Node {
		return s.Trust(ctx, transport.Identity{}, a)
	}
	ctx, cancel := context.WithTimeout(ctx, trustTimeout)
	defer cancel()
	t, err := s.o.AskTrust(ctx, node, a)
	if errors.Is(err, transport.ErrUnreachable) {
		err = fmt.Errorf("it does not answer: %w", err)
	}
	return t, err
}
