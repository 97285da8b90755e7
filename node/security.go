package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// A node's certificate is good for certificateLife and is renewed when a third of it is left.
const (
	certificateLife = 90 * 24 * time.Hour
	renewBefore     = certificateLife / 3
	renewEvery      = time.Hour // between two looks at it, at most
)

// adminName is the client that the founder is given a certificate for. Nothing renews it, and without it
// nobody could make tokens: it is good for as long as the authority.
const (
	adminName = "admin"
	adminLife = 10 * 366 * 24 * time.Hour
)

var certificateKey = []byte("certificate")

// ownPair is a node's certificate and key, a record in the tree "node". The key never leaves it.
type ownPair struct {
	Cert []byte `json:"cert"` // PEM, the cluster's authority last
	Key  []byte `json:"key"`  // PEM
}

// foundSecurity makes the cluster's authority, stages it with the founder's certificate, and
// returns the credentials of the client that may do everything, as is stored, too.
func foundSecurity(b *storage.Batch, trees trees, state *storage.Tree, id identity, now time.Time) (admin []byte, err error) {
	ca, err := pki.NewCA(id.Cluster, now)
	if err != nil {
		return nil, err
	}
	record, err := proto.Marshal(&pb.Authority{Certificate: ca.Cert, Key: ca.Key})
	if err != nil {
		return nil, fmt.Errorf("encode the cluster's authority: %w", err)
	}
	if err := b.Set(state, authorityKey, record); err != nil {
		return nil, err
	}
	if record, err = encodeRecord(founding()); err != nil {
		return nil, err
	}
	if err := b.Set(state, principalKey(adminName), record); err != nil {
		return nil, err
	}
	own, err := signedPair(ca, pki.Subject{Cluster: id.Cluster, Node: id.Node}, now, certificateLife)
	if err != nil {
		return nil, err
	}
	if err := stagePair(b, trees.node, own); err != nil {
		return nil, err
	}
	client, err := signedPair(ca, pki.Subject{Cluster: id.Cluster, Client: adminName}, now, adminLife)
	if err != nil {
		return nil, err
	}
	return pki.Bundle{Pair: pki.Pair(client), Roots: ca.Cert}.PEM(), nil
}

// signedPair makes a key and a certificate for it.
func signedPair(ca pki.Pair, s pki.Subject, now time.Time, life time.Duration) (ownPair, error) {
	request, key, err := pki.NewRequest()
	if err != nil {
		return ownPair{}, err
	}
	cert, err := ca.Sign(request, s, now, life)
	return ownPair{Cert: cert, Key: key}, err
}

func stagePair(b *storage.Batch, t *storage.Tree, p ownPair) error {
	record, err := json.Marshal(p)
	if err != nil {
		return errors.New("encode the node's certificate")
	}
	return b.Set(t, certificateKey, record)
}

// openSecurity settles with what this node's connections are encrypted: Config.TLS, or what
// the cluster itself has signed, or nothing.
func (n *Node) openSecurity() error {
	if n.config.TLS != nil {
		n.tls = n.config.TLS.Admitting(n.admits).Telling(n.logger)
		return n.tls.CheckOwn(n.self().Cluster, n.self().Node)
	}
	if !n.config.ClusterTLS {
		return nil
	}
	n.tls = transport.NewTLS(func() (transport.Certificates, error) { return *n.certificates.Load(), nil }).Admitting(n.admits).Telling(n.logger)
	if n.self().Cluster == 0 {
		return n.openToken()
	}
	record, ok, err := n.trees.node.Get(certificateKey)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: node %v has no certificate, because it joined without TLS: give it one with --tls-cert, --tls-key and --tls-ca, or clear %s and join with a token", nexusraft.ErrRefused, n.ID(), n.config.Dir)
	}
	var p ownPair
	if json.Unmarshal(record, &p) != nil {
		return fmt.Errorf("%w: the record of the node's certificate can't be read", nexusraft.ErrCorrupt)
	}
	return n.useCertificate(p)
}

// openToken makes the first contact believe the cluster that has made the token.
func (n *Node) openToken() error {
	if n.config.JoinToken == "" {
		return fmt.Errorf("%w: %w", nexusraft.ErrRefused, errNeedsToken)
	}
	t, err := pki.ParseToken(n.config.JoinToken)
	if err != nil {
		return fmt.Errorf("%w: %w", nexusraft.ErrRefused, err)
	}
	n.certificates.Store(&transport.Certificates{Pin: &t.CA})
	return nil
}

// useCertificate shows a certificate from now on, and believes the authority at its end.
func (n *Node) useCertificate(p ownPair) error {
	c, err := transport.Issued(pki.Pair(p), pki.Subject{Cluster: n.self().Cluster, Node: n.ID()})
	if err != nil {
		return err
	}
	n.certificates.Store(&c)
	return nil
}

// joinRequest is what this node asks with, and the key that stays here. Without the cluster's
// TLS there is none.
func (n *Node) joinRequest() (r transport.JoinRequest, key []byte, err error) {
	r.Role = nexusraft.RoleMember
	if !n.config.ClusterTLS || n.config.TLS != nil {
		return r, nil, nil
	}
	r.Token, err = pki.ParseToken(n.config.JoinToken)
	if err != nil {
		return r, nil, fmt.Errorf("%w: %w", nexusraft.ErrRefused, err)
	}
	r.CertificateRequest, key, err = pki.NewRequest()
	return r, key, err
}

// admits refuses the certificate of a node that was removed, however long it is good for, and
// that of a witness for what is not a witness's: with a token or a change of the membership it could let a
// member of its own in, and so get at all that is kept from it.
func (n *Node) admits(c transport.Caller, method string) error {
	switch {
	case c.Node == 0 || method == pb.Cluster_Renew_FullMethodName: // Renew asks a quorum
		return nil
	case n.wasRemoved(c.Node):
		return fmt.Errorf("%w: node %v was removed from the cluster", nexusraft.ErrFenced, c.Node)
	case n.isWitness(c.Node) && method != pb.Cluster_Status_FullMethodName:
		return fmt.Errorf("%w: node %v is a witness, and its certificate is for what witnesses do", nexusraft.ErrRefused, c.Node)
	}
	return nil
}

// mayPropose refuses commands of a witness, which never has any to pass on; see admits.
func (n *Node) mayPropose(ctx context.Context) error {
	if c, ok := transport.CallerOf(ctx); ok && c.Node != 0 && n.isWitness(c.Node) {
		return fmt.Errorf("%w: node %v is a witness and proposes nothing", nexusraft.ErrRefused, c.Node)
	}
	return nil
}

func (n *Node) isWitness(id nexusraft.NodeID) bool {
	n.stateMu.RLock()
	defer n.stateMu.RUnlock()
	m, ok := n.states[nexusraft.RootZone].members.Node(id)
	return ok && m.Role == nexusraft.RoleWitness
}

// authorize lets a node that asks to join go on: over TLS it needs a join token, unless it
// shows a certificate. A token is used only for a node that can be admitted.
func (n *Node) authorize(ctx context.Context, r transport.JoinRequest) error {
	if !transport.Encrypted(ctx) {
		if r.CertificateRequest != nil {
			return fmt.Errorf("%w: this node gives no certificates over a connection that is not encrypted: start it with --tls", nexusraft.ErrRefused)
		}
		return nil
	}
	if _, ok := transport.CallerOf(ctx); ok {
		return nil
	}
	if r.Token == (pki.Token{}) {
		return fmt.Errorf("%w: %w", nexusraft.ErrRefused, errNeedsToken)
	}
	hash := r.Token.Hash()
	use := &pb.UseJoinToken{Id: r.Token.ID[:], Hash: hash[:], Node: uint64(r.Peer.Node), Role: wire.RoleToProto(r.Role)}
	standing, err := ask(ctx, n, nexusraft.RootZone, func(h *hosted) (standing, error) { return h.standing(r) })
	if err != nil {
		return err
	}
	used := false
	// A wrong token costs no entry of the log. Every token that was ever made is known here,
	// in a leader's first moments, too.
	err = n.readOwn(ctx, nexusraft.RootZone, func(reader nexusraft.Reader) error {
		t, err := readToken(reader, use.GetId())
		if err == nil {
			used, err = tokenAllows(t, n.config.Clock().UnixNano(), use)
		}
		return err
	})
	switch {
	case err != nil || used:
		return err
	case standing.in:
		return fmt.Errorf("%w: node %v is in the cluster already, and did not join with this token: remove it with nexus-raft member remove, and join as a new node", nexusraft.ErrRefused, r.Peer.Node)
	case standing.refusal != nil:
		return standing.refusal
	}
	_, err = n.proposeOwn(ctx, nexusraft.RootZone, &pb.NodeCommand{Kind: &pb.NodeCommand_UseJoinToken{UseJoinToken: use}})
	return err
}

// standing is what the leader knows of a node that asks to join, before its token is looked at.
type standing struct {
	in      bool  // it has a record
	refusal error // why it would not be admitted
}

func (h *hosted) standing(r transport.JoinRequest) (standing, error) {
	if _, self := h.replica.Leader(); !self {
		return standing{}, h.hint()
	}
	members := h.replica.Membership()
	if _, in := members.Node(r.Peer.Node); in {
		return standing{in: true}, nil
	}
	return standing{refusal: h.checkJoin(members, r)}, nil
}

// sign gives a node a certificate for the key of its request.
func (n *Node) sign(request []byte, node nexusraft.NodeID) ([]byte, error) {
	ca, err := n.authority()
	if err != nil {
		return nil, err
	}
	cert, err := ca.Sign(request, pki.Subject{Cluster: n.Cluster(), Node: node}, n.config.Clock(), certificateLife)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of node %v: %w", node, err)
	}
	return cert, nil
}

// Renew implements transport.Renewer: a node that is in the cluster gets a new certificate.
func (n *Node) Renew(ctx context.Context, node nexusraft.NodeID, request []byte) ([]byte, error) {
	if err := n.confirm(ctx, nexusraft.RootZone); err != nil {
		return nil, err
	}
	p, err := n.view(nexusraft.RootZone)
	if err != nil {
		return nil, err
	}
	if _, ok := p.members.Node(node); !ok {
		return nil, fmt.Errorf("%w: node %v is not in the cluster", nexusraft.ErrFenced, node)
	}
	return n.sign(request, node)
}

// keepCertificate renews the node's certificate in time, or warns in time if it comes from files, until ctx
// ends. Another try after a failure comes as late as any look at it: weeks are left.
func (n *Node) keepCertificate(ctx context.Context) {
	if n.tls == nil {
		return
	}
	for {
		if err := n.renew(n.config.Clock()); err != nil {
			n.logger.Error("certificate not renewed", "until", n.tls.Until(), "err", err)
		} else if p := n.tls.Problem(n.config.Clock()); p != "" {
			n.logger.Warn(p)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(renewEvery/2 + rand.N(renewEvery/2)):
		}
	}
}

// renew gives the node a new key and certificate if a third of the old one's life is left.
func (n *Node) renew(now time.Time) error {
	if n.certificates.Load() == nil || n.tls.Until().Sub(now) > renewBefore {
		return nil
	}
	ca, err := n.authority()
	if err != nil {
		return err
	}
	own, err := signedPair(ca, pki.Subject{Cluster: n.Cluster(), Node: n.ID()}, now, certificateLife)
	if err != nil {
		return err
	}
	b := n.store.NewBatch()
	defer b.Close()
	b.UseReserve() // a node goes on with a full disk
	if err := stagePair(b, n.trees.node, own); err != nil {
		return err
	}
	if err := b.Commit(true); err != nil {
		return fmt.Errorf("store the node's certificate: %w", err)
	}
	if err := n.useCertificate(own); err != nil {
		return err
	}
	n.logger.Info("certificate renewed", "until", n.tls.Until())
	return nil
}
