package transport

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

func votes(f *fakeNode) *fakeNode {
	f.vote = func(context.Context, nexusraft.NodeID, []Vote) ([]VoteResult, error) { return nil, nil }
	return f
}

// Whoever has no certificate may ask to join, and nothing that it says of itself may count: not as
// a later life of a node that has one, nor as where that one is reached.
func TestJoinerWithoutCertificateLeavesNoTrace(t *testing.T) {
	ca := testCA(t)
	var mu sync.Mutex
	var met []Identity
	f := votes(&fakeNode{
		join: func(context.Context, JoinRequest) (JoinResult, error) { return JoinResult{}, nexusraft.ErrRefused },
		hello: func(peer Identity) error {
			mu.Lock()
			defer mu.Unlock()
			if peer.Cluster != 0 {
				met = append(met, peer)
			}
			return nil
		},
	})
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(nodeA))), f)
	for _, cluster := range []nexusraft.ClusterID{0, testCluster} {
		evil := Identity{Cluster: cluster, Node: nodeB, Incarnation: 1 << 40, Boot: 666, Address: "evil:1"}
		if err := join(t.Context(), dialWith(t, addr, anyServer()), hello(evil, 0)); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("as one of cluster %v: got %v, want ErrRefused", cluster, err)
		}
	}
	if len(met) > 0 {
		t.Errorf("the handler has met %+v", met)
	}
	b := dialWith(t, addr, testTLS(testCertificates(t, ca, subject(nodeB))).ClientCredentials(nodeA))
	if err := calls["RequestVote"](t.Context(), b, hello(identityB, nodeA)); err != nil {
		t.Errorf("the node itself: got %v, want none", err)
	}
}

func TestJoinIsAnsweredByTheCertificatesNode(t *testing.T) {
	ca := testCA(t)
	pin, err := pki.Fingerprint(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	admits := &fakeNode{join: func(context.Context, JoinRequest) (JoinResult, error) {
		return JoinResult{Cluster: testCluster, Zone: 1, Replica: 1}, nil
	}}
	addr := serveTLS(t, testTLS(testCertificates(t, ca, subject(0xd))), admits) // it says that it is node A
	joiner := Identity{Node: nodeB, Incarnation: 1, Boot: 1, Address: "b:1"}
	peers := peersOf(t, joiner, PeersOptions{TLS: testTLS(mtls.Certificates{Pin: &pin})})
	_, err = peers.Join(t.Context(), addr, JoinRequest{Role: nexusraft.RoleMember})
	if !errors.Is(err, nexusraft.ErrRefused) ||
		!strings.Contains(err.Error(), "with the certificate of node 000000000000000d") {
		t.Errorf("got %v, want ErrRefused", err)
	}
}

func TestJoinOfAnotherClusterIsRefusedAtOnce(t *testing.T) {
	addr := serveTLS(t, testTLS(testCertificates(t, testCA(t), subject(nodeA))), &fakeNode{})
	joiner := Identity{Node: nodeB, Incarnation: 1, Boot: 1, Address: "b:1"}
	peers := peersOf(t, joiner, PeersOptions{TLS: testTLS(mtls.Certificates{Pin: &[32]byte{1}})})
	_, err := peers.Join(t.Context(), addr, JoinRequest{Role: nexusraft.RoleMember})
	if !errors.Is(err, nexusraft.ErrRefused) || errors.Is(err, ErrUnreachable) ||
		!strings.Contains(err.Error(), "another cluster than the one that made the join token") {
		t.Errorf("got %v, want ErrRefused with the reason", err)
	}
}

// An address that comes from another node must not turn encryption off, nor give a token away.
func TestNodesAreNotDowngraded(t *testing.T) {
	ca := testCA(t)
	asked := make(chan struct{}, 1)
	addr, _ := serve(t, identityA, &fakeNode{join: func(context.Context, JoinRequest) (JoinResult, error) {
		asked <- struct{}{}
		return JoinResult{}, nexusraft.ErrRefused
	}})
	peers := peersOf(t, identityB, PeersOptions{TLS: testTLS(testCertificates(t, ca, subject(nodeB)))})
	_, err := peers.Join(t.Context(), "http://"+addr, JoinRequest{Role: nexusraft.RoleMember})
	if !errors.Is(err, nexusraft.ErrRefused) || len(asked) > 0 {
		t.Errorf("got %v and %d requests in the clear, want ErrRefused and none", err, len(asked))
	}
}
