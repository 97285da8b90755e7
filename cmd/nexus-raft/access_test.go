package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// accessServer answers calls about access, for a cluster of its own. It refuses the name mallory.
type accessServer struct {
	pb.UnimplementedAccessServer
	address string
	ca      pki.Pair

	mu   sync.Mutex
	last proto.Message
}

func serveAccess(t *testing.T) *accessServer {
	t.Helper()
	ca, err := pki.NewCA(0xc1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &accessServer{address: l.Addr().String(), ca: ca}
	server := grpc.NewServer()
	pb.RegisterAccessServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

func (s *accessServer) note(req proto.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = req
	if named, ok := req.(interface{ GetName() string }); ok && named.GetName() == "mallory" {
		return status.Error(codes.FailedPrecondition, `"mallory" has no role`)
	}
	return nil
}

// asked returns the last request since the last call, nil for none.
func (s *accessServer) asked() proto.Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.last
	s.last = nil
	return last
}

func (s *accessServer) Grant(_ context.Context, req *pb.GrantRequest) (*pb.GrantResponse, error) {
	return &pb.GrantResponse{}, s.note(req)
}

func (s *accessServer) Revoke(_ context.Context, req *pb.RevokeRequest) (*pb.RevokeResponse, error) {
	return &pb.RevokeResponse{}, s.note(req)
}

func (s *accessServer) ListAccess(
	_ context.Context, req *pb.ListAccessRequest,
) (*pb.ListAccessResponse, error) {
	return &pb.ListAccessResponse{Principals: []*pb.PrincipalInfo{
		{Name: "admin", Roles: []*pb.ZoneRole{{Role: pb.AccessRole_ACCESS_ROLE_ADMIN}}},
		{
			Name: "ann",
			Roles: []*pb.ZoneRole{
				{Zone: 1, Role: pb.AccessRole_ACCESS_ROLE_READ},
				{Zone: 0x1f, Role: pb.AccessRole_ACCESS_ROLE_WRITE},
			},
			Tokens: []*pb.AccessTokenInfo{tokenInfo},
		},
	}}, s.note(req)
}

const tokenID = "00000000000000aa"

var tokenInfo = &pb.AccessTokenInfo{Id: tokenID, ExpiresNanos: int64(time.Hour)}

func (s *accessServer) CreateAccessToken(
	_ context.Context, req *pb.CreateAccessTokenRequest,
) (*pb.CreateAccessTokenResponse, error) {
	return &pb.CreateAccessTokenResponse{Token: "nra1-secret", Info: tokenInfo}, s.note(req)
}

func (s *accessServer) RevokeAccessToken(
	_ context.Context, req *pb.RevokeAccessTokenRequest,
) (*pb.RevokeAccessTokenResponse, error) {
	return &pb.RevokeAccessTokenResponse{}, s.note(req)
}

func (s *accessServer) IssueCertificate(
	_ context.Context, req *pb.IssueCertificateRequest,
) (*pb.IssueCertificateResponse, error) {
	if err := s.note(req); err != nil {
		return nil, err
	}
	chain, err := pki.Sign(s.ca, req.GetRequest(), pki.Subject{Cluster: 0xc1, Client: req.GetName()}, time.Now(),
		time.Duration(req.GetTtlNanos()))
	return &pb.IssueCertificateResponse{Chain: chain}, err
}

// writeFile makes a file in a directory of its own.
func writeFile(t *testing.T, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// What the command lines ask for, and what they print.
func TestAccessCommands(t *testing.T) {
	t.Setenv("NEXUS_RAFT_ZONE", "7") // which zone's keys are asked for says nothing here
	s := serveAccess(t)
	zoneRole := func(zone uint64, role pb.AccessRole) *pb.ZoneRole {
		return &pb.ZoneRole{Zone: zone, Role: role}
	}
	const read, write = pb.AccessRole_ACCESS_ROLE_READ, pb.AccessRole_ACCESS_ROLE_WRITE
	for _, tc := range []struct {
		args []string
		want proto.Message
		out  string
	}{
		{
			[]string{"grant", "ann", "--role", "write"},
			&pb.GrantRequest{Name: "ann", Role: zoneRole(0, write)},
			"ann has the role write in all zones\n",
		},
		{
			[]string{"grant", "ann", "--role", "read", "--zone", "1f"},
			&pb.GrantRequest{Name: "ann", Role: zoneRole(0x1f, read)},
			"ann has the role read in zone 1f\n",
		},
		{
			[]string{"grant", "ann", "--role", "read", "--zone", "all", "--json"},
			&pb.GrantRequest{Name: "ann", Role: zoneRole(0, read)},
			`{"name":"ann","role":"read"}` + "\n",
		},
		{
			[]string{"grant", "ann", "--role", "read", "--zone", "1", "--json"},
			&pb.GrantRequest{Name: "ann", Role: zoneRole(1, read)},
			`{"name":"ann","zone":"1","role":"read"}` + "\n",
		},
		{[]string{"revoke", "ann"}, &pb.RevokeRequest{Name: "ann", Everything: true}, "revoked all roles and " +
			"tokens of ann\n"},
		{
			[]string{"revoke", "ann", "--zone", "1f"},
			&pb.RevokeRequest{Name: "ann", Zone: 0x1f},
			"revoked the role of ann in zone 1f\n",
		},
		{[]string{"revoke", "ann", "--zone", "all"}, &pb.RevokeRequest{Name: "ann"}, "revoked the role of ann in " +
			"all zones\n"},
		{
			[]string{"revoke", "ann", "--json"},
			&pb.RevokeRequest{Name: "ann", Everything: true},
			`{"name":"ann","everything":true}` + "\n",
		},
		{
			[]string{"revoke", "ann", "--zone", "1", "--json"},
			&pb.RevokeRequest{Name: "ann", Zone: 1},
			`{"name":"ann","zone":"1","everything":false}` + "\n",
		},
		{[]string{"list"}, &pb.ListAccessRequest{}, `NAME   ROLE   IN
admin  admin  all zones
ann    read   zone 1
ann    write  zone 1f

TOKEN             OF   EXPIRES
00000000000000aa  ann  1970-01-01T01:00:00Z
`},
		{[]string{"list", "--json"}, &pb.ListAccessRequest{}, `{"name":"admin","roles":[{"role":"admin"}]}
{"name":"ann","roles":[{"zone":"1","role":"read"},{"zone":"1f","role":"write"}],` +
			`"tokens":[{"id":"00000000000000aa","expires":"1970-01-01T01:00:00Z"}]}` + "\n"},
		{
			[]string{"token", "ann"},
			&pb.CreateAccessTokenRequest{Name: "ann", TtlNanos: int64(720 * time.Hour)},
			"nra1-secret\n",
		},
		{
			[]string{"token", "ann", "--ttl", "1m", "--json"},
			&pb.CreateAccessTokenRequest{Name: "ann", TtlNanos: int64(time.Minute)},
			`{"token":"nra1-secret","id":"00000000000000aa","expires":"1970-01-01T01:00:00Z"}` + "\n",
		},
		{
			[]string{"revoke-token", tokenID},
			&pb.RevokeAccessTokenRequest{Id: tokenID},
			"revoked token 00000000000000aa\n",
		},
		{
			[]string{"revoke-token", tokenID, "--json"},
			&pb.RevokeAccessTokenRequest{Id: tokenID},
			`{"id":"00000000000000aa"}` + "\n",
		},
	} {
		status, stdout, stderr := command(t, slices.Concat([]string{"access"}, tc.args,
			[]string{"--endpoints", s.address})...)
		if status != exitOK || stdout != tc.out || strings.Contains(stderr, "nra1-secret") {
			t.Errorf("%q: got status %d, %q, %q; want %q", tc.args, status, stdout, stderr, tc.out)
		}
		if diff := cmp.Diff(tc.want, s.asked(), protocmp.Transform()); diff != "" {
			t.Errorf("%q: the request (-want +got):\n%s", tc.args, diff)
		}
	}
}

// secretIn returns what a file of credentials holds, which only its owner may read.
func secretIn(t *testing.T, name string) pki.Bundle {
	t.Helper()
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o600 && runtime.GOOS != "windows" {
		t.Errorf("%s has mode %o, want 600", name, mode)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	b, err := pki.ParseBundle(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Secrets go to new files that only their owner can read, and nowhere else.
func TestAccessSecretsInFiles(t *testing.T) {
	s := serveAccess(t)
	for _, tc := range []struct {
		args []string
		json bool
		out  string // FILE stands for the file
		has  func(pki.Bundle) bool
	}{
		{
			[]string{"token", "ann"},
			false, "token 00000000000000aa of ann, good until 1970-01-01T01:00:00Z, is in FILE: show it with --credentials, " +
				"and keep it secret\n",
			func(b pki.Bundle) bool { return b.Token == "nra1-secret" && b.Key == nil },
		},
		{
			[]string{"token", "ann"},
			true, `{"id":"00000000000000aa","expires":"1970-01-01T01:00:00Z","file":"FILE"}` + "\n",
			func(b pki.Bundle) bool { return b.Token == "nra1-secret" && b.Key == nil },
		},
		{
			[]string{"cert", "ann"},
			false, "certificate and key of ann are in FILE: show them with --credentials, and keep them secret\n",
			func(b pki.Bundle) bool { return b.Token == "" && b.Key != nil },
		},
		{
			[]string{"cert", "ann", "--ttl", "1h"},
			true, `{"name":"ann","file":"FILE"}` + "\n",
			func(b pki.Bundle) bool { return b.Token == "" && b.Key != nil },
		},
	} {
		file := filepath.Join(t.TempDir(), "new.pem")
		args := slices.Concat([]string{"access"}, tc.args, []string{
			"--endpoints", "http://" + s.address, "--credentials",
			writeFile(t, s.ca.Cert), "--out", file,
		})
		if tc.json {
			args = append(args, "--json")
		}
		status, stdout, stderr := command(t, args...)
		if want := strings.ReplaceAll(tc.out, "FILE", file); status != exitOK || stdout != want || stderr != "" {
			t.Errorf("%q: got status %d, %q, %q; want %q", args, status, stdout, stderr, want)
			continue
		}
		if b := secretIn(t, file); !tc.has(b) || string(b.Roots) != string(s.ca.Cert) {
			t.Errorf("%q: the file holds something else", args)
		}
		before := listing(t, filepath.Dir(file))
		s.asked()
		if status, _, stderr := command(t, args...); status != exitFailed || !strings.Contains(stderr, "--out: ") ||
			!strings.Contains(stderr, "exists") || s.asked() != nil {
			t.Errorf("%q again: got status %d, %q; want the file kept and nothing asked", args, status, stderr)
		}
		if after := listing(t, filepath.Dir(file)); after != before {
			t.Errorf("%q again: the file has changed", args)
		}
	}
}

func TestAccessCommandsFail(t *testing.T) {
	t.Parallel()
	s := serveAccess(t)
	at := []string{"--endpoints", "http://" + s.address}
	ca := append([]string{"--credentials", writeFile(t, s.ca.Cert)}, at...)
	secure := []string{"--credentials", ca[1], "--endpoints", s.address}
	file := filepath.Join(t.TempDir(), "new.pem")
	token := writeFile(t, []byte("nra1-secret\n"))
	for _, tc := range []struct {
		args []string
		more []string
		code int
		says string
	}{
		{[]string{"access"}, nil, exitUsage, "expected one of"},
		{[]string{"access", "grant", "ann"}, at, exitUsage, "--role"},
		{[]string{"access", "grant", "ann", "--role", "owner"}, at, exitUsage, "--role"},
		{[]string{"access", "grant", "ann", "--role", "read", "--zone", "0"}, at, exitUsage, "--zone: 0 is no zone"},
		{[]string{"access", "grant", "ann", "--role", "read", "--zone", "XYZ"}, at, exitUsage, "--zone: "},
		{[]string{"access", "revoke", "ann", "--zone", "0"}, at, exitUsage, "--zone: 0 is no zone"},
		{[]string{"access", "revoke", "mallory"}, at, exitFailed, `"mallory" has no role`},
		{[]string{"access", "grant", "mallory", "--role", "read"}, at, exitFailed, `"mallory" has no role`},
		{[]string{"access", "token", "ann", "--ttl", "0s"}, at, exitUsage, "--ttl 0s"},
		{[]string{"access", "token", "ann", "--out", file}, at, exitUsage, "--out needs --credentials"},
		{[]string{"access", "token", "mallory"}, at, exitFailed, `"mallory" has no role`},
		{[]string{"access", "token", "mallory", "--out", file}, ca, exitFailed, `"mallory" has no role`},
		{[]string{"access", "cert", "ann"}, ca, exitUsage, "--out"},
		{[]string{"access", "cert", "ann", "--out", ""}, ca, exitUsage, "--out is empty"},
		{[]string{"access", "cert", "ann", "--ttl=-1s", "--out", file}, ca, exitUsage, "--ttl -1s"},
		{[]string{"access", "cert", "ann", "--out", file}, at, exitFailed, "without credentials"},
		{[]string{"access", "cert", "mallory", "--out", file}, ca, exitFailed, `"mallory" has no role`},
		{[]string{"access", "cert", "ann", "--out", filepath.Join(file, "x")}, ca, exitFailed, "--out: "},
		{[]string{"access", "cert", "ann", "--out", file, "--timeout", "1s"}, secure, exitFailed, "does not speak TLS"},
		{[]string{"access", "ca"}, nil, exitUsage, "--credentials"},
		{[]string{"access", "ca", "--credentials", token}, nil, exitUsage, "--credentials " + token},
		{[]string{"access", "ca", "--credentials", token + "x"}, nil, exitUsage, "--credentials: open"},
		{
			[]string{"get", "k", "--access-token-file", token},
			[]string{"--endpoints", s.address},
			exitUsage,
			"--access-token-file needs --credentials",
		},
		{[]string{"get", "k", "--access-token-file", token}, ca, exitUsage, "is not encrypted"},
		{[]string{"get", "k", "--access-token-file", token + "x"}, ca, exitUsage, "--access-token-file: open"},
		{[]string{"get", "k", "--access-token-file", ca[1]}, ca, exitUsage, "--access-token-file holds no access token"},
		{
			[]string{"status", "--access-token-file", writeFile(t, []byte("nra1-secret 2"))},
			secure, exitUsage,
			"visible ASCII",
		},
	} {
		code, stdout, stderr := command(t, append(tc.args, tc.more...)...)
		if code != tc.code || stdout != "" || !strings.Contains(stderr, tc.says) || strings.Contains(stderr, "secret 2") ||
			strings.Contains(stderr, "nra1-secret") {
			t.Errorf("%q: got status %d, %q, %q; want %d and %q", tc.args, code, stdout, stderr, tc.code, tc.says)
		}
		if _, err := os.Lstat(file); !os.IsNotExist(err) {
			t.Fatalf("%q: left %s behind: %v", tc.args, file, err)
		}
	}
}

// The CA's certificate is there without what is secret.
func TestAccessCA(t *testing.T) {
	s := serveAccess(t)
	text := pki.Bundle{Roots: s.ca.Cert, Token: "nra1-secret"}.PEM()
	if status, stdout, stderr := command(t, "access", "ca", "--credentials", writeFile(t, text)); status != exitOK ||
		stdout != string(s.ca.Cert) {
		t.Errorf("got status %d, %q, %q; want the CA's certificate", status, stdout, stderr)
	}
}

// The environment may hold the token itself, for every command that asks.
func TestAccessTokenFromEnvironment(t *testing.T) {
	for value, says := range map[string]string{
		"nra1-secret": "$NEXUS_RAFT_ACCESS_TOKEN needs --credentials",
		"nrj1-secret": "$NEXUS_RAFT_ACCESS_TOKEN holds no access token",
		"":            "$NEXUS_RAFT_ACCESS_TOKEN holds no access token",
	} {
		t.Setenv("NEXUS_RAFT_ACCESS_TOKEN", value)
		for _, args := range [][]string{
			{"get", "k"},
			{"status"},
			{"events"},
			{"access", "list"},
			{"member", "list"},
			{"token", "list"},
			{"bench"},
		} {
			if code, _, stderr := command(t, args...); code != exitUsage || !strings.Contains(stderr, says) ||
				strings.Contains(stderr, "secret") {
				t.Errorf("%q with %q: got status %d, %q; want %q", args, value, code, stderr, says)
			}
		}
	}
}
