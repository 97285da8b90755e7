package node_test

import (
	"slices"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// thief returns what speaks to the witness as a full node, by a certificate that the key of an
// authority has made.
func thief(t *testing.T, e *expiring, ca pki.Pair, id nexusraft.NodeID) *transport.Peers {
	t.Helper()
	cluster := e.members[0].node.Cluster()
	request, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	subject := pki.Subject{Cluster: cluster, Node: id}
	chain, err := pki.SignNode(ca, request, subject, nexusraft.RoleMember, time.Now(), 90*day)
	if err != nil {
		t.Fatal(err)
	}
	all, err := e.members[0].node.Issuer().Authorities(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	own, err := mtls.Issued(pki.Pair{Cert: chain, Key: key}, slices.Concat(all.Certificates, ca.Cert), subject)
	if err != nil {
		t.Fatal(err)
	}
	self := transport.Identity{Cluster: cluster, Node: id, Incarnation: 1, Boot: 1, Address: "127.0.0.1:1"}
	p := transport.NewPeers(func() transport.Identity { return self }, transport.PeersOptions{
		TLS: mtls.NewTLS(func() (mtls.Certificates, error) { return own, nil }),
	})
	t.Cleanup(p.Close)
	p.SetAddress(witnessOf(t, e.members[0]), e.witness.Advertise)
	return p
}

// Whoever has the old key tells the witness of an authority of his own before the members tell of
// the last step, under that step's number. The members see that the witness believes another list,
// and have it believe no more than theirs.
func TestAuthorityOfAThief(t *testing.T) {
	t.Parallel()
	e := newExpiring(t)
	n1, w := e.members[0], witnessOf(t, e.members[0])
	old := authorityOf(t, n1)
	evil, err := pki.NewCA(n1.node.Cluster(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	rotate(t, n1, nexusraft.AuthorityBelieved)
	rotate(t, n1, nexusraft.AuthoritySigns)
	now := authorityOf(t, n1)
	list := transport.CABundle{Step: 3, Certificates: slices.Concat(now.Cert, evil.Cert)}
	_, told := thief(t, e, old, 8).Trust(t.Context(), w, list) // the witness may end the connection as it believes it
	mallory := certificateOf(t, evil, pki.Subject{Cluster: n1.node.Cluster(), Client: "admin"}, time.Now())
	conn := shownTo(t, at(e.witness.Advertise), mallory)
	if err := asked(t, conn); err != nil {
		t.Fatalf("the thief is not heard: %v, %v", told, err)
	}
	notReady(t, n1, nexusraft.AuthorityAlone, "w1", "does not believe")
	rotate(t, n1, nexusraft.AuthorityAlone, w)
	followed(t, n1, nexusraft.AuthorityAlone)
	unknown(t, "by the thief's authority, at the witness", conn)
}
