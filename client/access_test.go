package client

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// fakeAccess answers the calls about access, or fails them all, and keeps what it was asked.
type fakeAccess struct {
	pb.UnimplementedAccessServer
	fails error
	list  *pb.ListAccessResponse
	sign  func(request []byte) []byte

	mu    sync.Mutex
	asked []proto.Message
}

func (f *fakeAccess) note(req proto.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, req)
	return f.fails
}

func (f *fakeAccess) last() proto.Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked[len(f.asked)-1]
}

func (f *fakeAccess) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

func (f *fakeAccess) Grant(_ context.Context, req *pb.GrantRequest) (*pb.GrantResponse, error) {
	return &pb.GrantResponse{}, f.note(req)
}

func (f *fakeAccess) Revoke(_ context.Context, req *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	return &pb.RevokeResponse{}, f.note(req)
}

func (f *fakeAccess) ListAccess(
	_ context.Context, req *pb.ListAccessRequest,
) (*pb.ListAccessResponse, error) {
	return f.list, f.note(req)
}

func (f *fakeAccess) CreateAccessToken(
	_ context.Context, req *pb.CreateAccessTokenRequest,
) (*pb.CreateAccessTokenResponse, error) {
	info := &pb.AccessTokenInfo{Id: "00000000000000aa", ExpiresNanos: req.GetTtlNanos()}
	return &pb.CreateAccessTokenResponse{Token: "nra1-secret", Info: info}, f.note(req)
}

func (f *fakeAccess) RevokeAccessToken(
	_ context.Context, req *pb.RevokeAccessTokenRequest,
) (*pb.RevokeAccessTokenResponse, error) {
	return &pb.RevokeAccessTokenResponse{}, f.note(req)
}

func (f *fakeAccess) IssueCertificate(
	_ context.Context, req *pb.IssueCertificateRequest,
) (*pb.IssueCertificateResponse, error) {
	if err := f.note(req); err != nil {
		return nil, err
	}
	return &pb.IssueCertificateResponse{Chain: f.sign(req.GetRequest())}, nil
}

// serveAccess runs a node that answers calls about access.
func serveAccess(t *testing.T, f *fakeAccess) (address string) {
	t.Helper()
	return start(t, func(n *fakeNode) { pb.RegisterAccessServer(n.server, f) }).address
}

// What each call asks for, and what it makes of the answer.
func TestAccessCalls(t *testing.T) {
	f := &fakeAccess{list: &pb.ListAccessResponse{Principals: []*pb.PrincipalInfo{
		{Name: "admin", Roles: []*pb.ZoneRole{{Role: pb.AccessRole_ACCESS_ROLE_ADMIN}}},
		{
			Name: "ann",
			Roles: []*pb.ZoneRole{
				{Zone: 1, Role: pb.AccessRole_ACCESS_ROLE_READ},
				{Zone: 2, Role: pb.AccessRole_ACCESS_ROLE_WRITE},
			},
			Tokens: []*pb.AccessTokenInfo{{Id: "00000000000000aa", ExpiresNanos: 5}},
		},
	}}}
	// A witness comes first, which has no such service; the client's own zone plays no part.
	witness := start(t, nil)
	c := connect(t, Options{Endpoints: []string{witness.address, serveAccess(t, f)}, Zone: 9})
	ctx := within(t)
	for _, tc := range []struct {
		name string
		call func() error
		want proto.Message
	}{
		{
			"grant", func() error { return c.Grant(ctx, "ann", 2, nexusraft.AccessWrite) },
			&pb.GrantRequest{Name: "ann", Role: &pb.ZoneRole{
				Zone: 2,
				Role: pb.AccessRole_ACCESS_ROLE_WRITE,
			}},
		},
		{
			"grant everywhere", func() error { return c.Grant(ctx, "ann", nexusraft.EveryZone, nexusraft.AccessAdmin) },
			&pb.GrantRequest{Name: "ann", Role: &pb.ZoneRole{Role: pb.AccessRole_ACCESS_ROLE_ADMIN}},
		},
		{"revoke", func() error { return c.Revoke(ctx, "ann", 2) }, &pb.RevokeRequest{Name: "ann", Zone: 2}},
		{
			"revoke all", func() error { return c.RevokeAll(ctx, "ann") },
			&pb.RevokeRequest{Name: "ann", Everything: true},
		},
		{"list", func() error {
			got, err := c.ListAccess(ctx)
			want := []nexusraft.Principal{
				{Name: "admin", Roles: []nexusraft.ZoneRole{{Role: nexusraft.AccessAdmin}}},
				{
					Name:   "ann",
					Roles:  []nexusraft.ZoneRole{{Zone: 1, Role: nexusraft.AccessRead}, {Zone: 2, Role: nexusraft.AccessWrite}},
					Tokens: []nexusraft.AccessToken{{ID: nexusraft.TokenID{7: 0xaa}, Expires: time.Unix(0, 5).UTC()}},
				},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("list (-want +got):\n%s", diff)
			}
			return err
		}, &pb.ListAccessRequest{}},
		{"create a token", func() error {
			text, info, err := c.CreateAccessToken(ctx, "ann", time.Hour)
			want := nexusraft.AccessToken{ID: nexusraft.TokenID{7: 0xaa}, Expires: time.Unix(3600, 0).UTC()}
			if text != "nra1-secret" || info != want {
				t.Errorf("got %q and %v, want %v", text, info, want)
			}
			return err
		}, &pb.CreateAccessTokenRequest{Name: "ann", TtlNanos: int64(time.Hour)}},
		{
			"revoke a token", func() error { return c.RevokeAccessToken(ctx, "00000000000000aa") },
			&pb.RevokeAccessTokenRequest{Id: "00000000000000aa"},
		},
	} {
		if err := tc.call(); err != nil {
			t.Errorf("%s: %v", tc.name, err)
		}
		if diff := cmp.Diff(tc.want, f.last(), protocmp.Transform()); diff != "" {
			t.Errorf("%s: the request (-want +got):\n%s", tc.name, diff)
		}
	}
}

// accessCalls are all that may fail.
var accessCalls = map[string]func(context.Context, *Client) error{
	"grant":        func(ctx context.Context, c *Client) error { return c.Grant(ctx, "ann", 1, nexusraft.AccessRead) },
	"revoke":       func(ctx context.Context, c *Client) error { return c.Revoke(ctx, "ann", 1) },
	"revoke all":   func(ctx context.Context, c *Client) error { return c.RevokeAll(ctx, "ann") },
	"revoke token": func(ctx context.Context, c *Client) error { return c.RevokeAccessToken(ctx, "aa") },
	"token": func(ctx context.Context, c *Client) error {
		text, info, err := c.CreateAccessToken(ctx, "ann", time.Hour)
		if text != "" || info != (nexusraft.AccessToken{}) {
			return errors.New("a token with an error")
		}
		return err
	},
	"list": func(ctx context.Context, c *Client) error { _, err := c.ListAccess(ctx); return err },
	"certificate": func(ctx context.Context, c *Client) error {
		_, err := c.IssueCertificate(ctx, "ann", time.Hour)
		return err
	},
}

// A refusal is final, and what was done is never done again where that is not known.
func TestAccessCallsFail(t *testing.T) {
	ca := newAuthority(t)
	for name, call := range accessCalls {
		for _, tc := range []struct {
			fails error
			is    error
			asked int
		}{
			{answer(nexusraft.ErrDenied, codes.PermissionDenied, "needs the role admin"), nexusraft.ErrDenied, 1},
			{answer(nexusraft.ErrRefused, codes.FailedPrecondition, "no such name"), nexusraft.ErrRefused, 1},
			{answer(nexusraft.ErrUncertain, codes.Unavailable, "lost"), nexusraft.ErrUncertain, 1},
			{status.Error(codes.Unavailable, "lost on the way"), nexusraft.ErrUncertain, 1},
		} {
			changes := name != "list" && name != "certificate"
			if errors.Is(tc.is, nexusraft.ErrUncertain) && !changes {
				continue
			}
			f := &fakeAccess{fails: tc.fails}
			c := connect(t, Options{Endpoints: []string{"http://" + serveAccess(t, f)}, Credentials: ca.Cert})
			if err := call(within(t), c); !errors.Is(err, tc.is) || strings.Contains(err.Error(), "rpc error") ||
				f.count() != tc.asked {
				t.Errorf("%s that fails with %v: got %v after %d requests, want %v and %d", name, tc.fails, err, f.count(), tc.is,
					tc.asked)
			}
		}
	}
}

// The credentials hold the key that was made here and believe the CA that the client believes;
// a certificate that is not what was asked for is not taken.
func TestIssueCertificate(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	signer := func(by authority, s pki.Subject, life time.Duration) func([]byte) []byte {
		return func(request []byte) []byte {
			chain, err := pki.Sign(by.Pair, request, s, time.Now(), life)
			if err != nil {
				t.Errorf("sign: %v", err)
			}
			return chain
		}
	}
	for name, tc := range map[string]struct {
		sign func([]byte) []byte
		says string // "": it is taken
	}{
		"as asked":         {signer(ca, ann, time.Hour), ""},
		"another name":     {signer(ca, pki.Subject{Cluster: 0xc1, Client: "bob"}, time.Hour), "not of client"},
		"a node's":         {signer(ca, aNode, time.Hour), "not of client"},
		"another CA's":     {signer(stranger, ann, time.Hour), "not believed"},
		"another key's":    {func([]byte) []byte { return ca.sign(t, ann).Cert }, "does not match"},
		"no certificate":   {func([]byte) []byte { return []byte("hello") }, "CERTIFICATE"},
		"nothing whatever": {func([]byte) []byte { return nil }, "CERTIFICATE"},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeAccess{sign: tc.sign}
			c := connect(t, Options{
				Endpoints:   []string{"http://" + serveAccess(t, f)},
				Credentials: pki.Bundle{Pair: ca.sign(t, ann), Roots: ca.Cert}.PEM(),
			})
			secret, err := c.IssueCertificate(within(t), "ann", time.Hour)
			if tc.says != "" {
				if err == nil || !strings.Contains(err.Error(), tc.says) || secret != nil {
					t.Errorf("got %v, want %q", err, tc.says)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			b, err := pki.ParseBundle(secret)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.Certificate(); err != nil || !bytes.Equal(b.Roots, ca.Cert) || b.Token != "" {
				t.Errorf("got %v and %q, want the pair and the CA", err, b.Roots)
			}
			req, ok := f.last().(*pb.IssueCertificateRequest)
			if !ok || req.GetName() != "ann" || req.GetTtlNanos() != int64(time.Hour) ||
				bytes.Contains(req.GetRequest(), []byte("PRIVATE")) {
				t.Errorf("got request %v", f.last())
			}
		})
	}
	c := connect(t, Options{Endpoints: []string{"127.0.0.1:1"}})
	if _, err := c.IssueCertificate(within(t), "ann", time.Hour); err == nil ||
		!strings.Contains(err.Error(), "which cluster to believe") {
		t.Errorf("without credentials: got %v, want why not", err)
	}
}
