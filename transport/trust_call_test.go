package transport

import (
	"context"
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// trusting is a node with certificates of the cluster's own authority.
type trusting struct {
	*fakeNode
	told chan CABundle
}

func (n trusting) handlers() Handlers {
	h := n.fakeNode.handlers()
	h.Trust = n.Trust
	return h
}

func (n trusting) Trust(_ context.Context, from Identity, a CABundle) (Trust, error) {
	if from.Node != nodeB {
		return Trust{}, nexusraft.ErrRefused
	}
	n.told <- a
	return Trust{Step: a.Step, Signer: []byte{1}}, nil
}

// withoutTrust registers what a node of an earlier release does, but for the service that Trust is
// a part of.
type withoutTrust struct{ *grpc.Server }

func (s withoutTrust) RegisterService(d *grpc.ServiceDesc, impl any) {
	if d.ServiceName != "nexusraft.v1.Cluster" {
		s.Server.RegisterService(d, impl)
	}
}

func TestTrust(t *testing.T) {
	ask := func(register func(*grpc.Server), a CABundle) (Trust, error) {
		t.Helper()
		peers := peersOf(t, identityB, PeersOptions{})
		peers.SetAddress(nodeA, serveOnly(t, nil, register))
		return peers.Trust(t.Context(), nodeA, a)
	}
	told := make(chan CABundle, 1)
	got, err := ask(func(s *grpc.Server) {
		NewServer(as(identityA), trusting{&fakeNode{}, told}.handlers()).Register(s)
	}, CABundle{Step: 3, Certificates: []byte("x")})
	if err != nil || got.Step != 3 || len(got.Signer) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
	if a := <-told; a.Step != 3 || string(a.Certificates) != "x" {
		t.Errorf("it was told %+v", a)
	}
	for says, register := range map[string]func(*grpc.Server){
		"runs an earlier release": func(s *grpc.Server) {
			NewServer(as(identityA), (&fakeNode{}).handlers()).Register(withoutTrust{s})
		},
		"has no certificates": func(s *grpc.Server) { NewServer(as(identityA), (&fakeNode{}).handlers()).Register(s) },
	} {
		if _, err := ask(register, CABundle{}); !errors.Is(err, nexusraft.ErrRefused) ||
			!strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want a refusal with %q", err, says)
		}
	}
	_, err = ask(func(s *grpc.Server) { NewServer(as(identityA), trusting{&fakeNode{}, told}.handlers()).Register(s) },
		CABundle{Certificates: make([]byte, pki.MaxAuthoritiesBytes+1)})
	if !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("with too long a list: got %v, want ErrTooLarge", err)
	}
}
