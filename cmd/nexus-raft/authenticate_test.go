package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// A client of etcd's API that knows a name and a password logs in with an access token, and gets in with the answer.
func TestAuthenticate(t *testing.T) {
	m := serveSecurely(t)
	m.grant("reader", nexusraft.RootZone, nexusraft.AccessRead)
	m.grant("writer", nexusraft.RootZone, nexusraft.AccessWrite)
	reader, _ := m.token("reader", time.Hour)
	writer, _ := m.token("writer", time.Hour)
	revoked, info := m.token("reader", time.Hour)
	m.try(func(ctx context.Context) error { return m.node.Credentials().RevokeAccessToken(ctx, info.ID) })
	nobody := m.as(pki.Subject{}, "").conn
	auth := etcdserverpb.NewAuthClient(nobody)
	for name, tc := range map[string]struct{ user, password string }{
		"nothing": {}, "a name alone": {"reader", ""}, "a token alone": {"", reader}, "a word": {"reader", "secret"},
		"another's token": {"reader", writer}, "a revoked token": {"reader", revoked},
		"the name of one with the secret of another": {"reader", reader[:18] + writer[18:]},
		"one letter off": {"reader", reader[:len(reader)-2] + "zz"}, "an unknown name": {"root", reader},
		"a long name": {strings.Repeat("reader", 1000), reader},
	} {
		resp, err := auth.Authenticate(t.Context(), &etcdserverpb.AuthenticateRequest{Name: tc.user, Password: tc.password})
		if rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthFailed) || resp != nil ||
			len(status.Convert(err).Details()) > 0 {
			t.Errorf("%s: got %v, %v, want the one refusal", name, resp, err)
		}
	}
	resp, err := auth.Authenticate(t.Context(), &etcdserverpb.AuthenticateRequest{Name: "reader", Password: reader})
	if err != nil || resp.Token != reader || resp.Header.GetMemberId() == 0 {
		t.Fatalf("got %v, want the token", err)
	}
	for header, value := range map[string]string{"token": resp.Token, "authorization": resp.Token} {
		ctx := metadata.AppendToOutgoingContext(t.Context(), header, value)
		kvs := etcdserverpb.NewKVClient(nobody)
		if _, err := kvs.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte("k")}); err != nil {
			t.Errorf("%s: a reader reads: %v", header, err)
		}
		if _, err := kvs.Put(ctx, &etcdserverpb.PutRequest{Key: []byte("k")}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s: a reader writes: got %v, want PermissionDenied", header, err)
		}
	}
}

// Tries, and what is too large for a caller that nobody knows, cost nobody else anything.
func TestAuthenticateUnderAttack(t *testing.T) {
	m := serveSecurely(t)
	m.grant("reader", nexusraft.RootZone, nexusraft.AccessRead)
	reader := etcdserverpb.NewKVClient(m.as(pki.Subject{Client: "reader"}, "").conn)
	auth := etcdserverpb.NewAuthClient(m.as(pki.Subject{}, "").conn)
	large := &etcdserverpb.AuthenticateRequest{Name: "reader", Password: strings.Repeat("a", 1<<20)}
	began := time.Now()
	if _, err := auth.Authenticate(t.Context(), large); err == nil || rpctypes.ErrorDesc(err) == "" {
		t.Errorf("1 MiB: got %v, want a refusal", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("1 MiB took %v", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for range 8 {
		go func() {
			for ctx.Err() == nil {
				_, _ = auth.Authenticate(ctx, &etcdserverpb.AuthenticateRequest{Name: "reader", Password: "x"})
			}
		}()
	}
	for range 20 {
		if _, err := reader.Range(t.Context(), &etcdserverpb.RangeRequest{Key: []byte("k")}); err != nil {
			t.Errorf("another client meanwhile: %v", err)
		}
	}
}
