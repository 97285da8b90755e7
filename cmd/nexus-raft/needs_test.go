package main

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/emptypb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// callersOf says which callers a method is for: all, nodes, or clients with a role.
var callersOf = map[string]string{
	"/grpc.health.v1.Health/Check": "all",
	"/grpc.health.v1.Health/List":  "all",
	"/grpc.health.v1.Health/Watch": "all",
	"/nexusraft.v1.Cluster/Join":   "all",

	"/etcdserverpb.Auth/Authenticate": "all", // it looks at a name and a token itself
	"/etcdserverpb.Auth/AuthStatus":   "any read",

	"/nexusraft.v1.RaftTransport/RequestVote":     "nodes",
	"/nexusraft.v1.RaftTransport/Exchange":        "nodes",
	"/nexusraft.v1.RaftTransport/InstallSnapshot": "nodes",
	"/nexusraft.v1.RaftTransport/SnapshotOffset":  "nodes",
	"/nexusraft.v1.Zones/Propose":                 "nodes",
	"/nexusraft.v1.Zones/AskLeader":               "nodes",
	"/nexusraft.v1.Cluster/Trust":                 "nodes",
	"/nexusraft.v1.Cluster/HostZones":             "nodes",
	// it asks for the certificate of a node itself, which may have expired
	"/nexusraft.v1.Cluster/Renew": "all",

	"/nexusraft.v1.Cluster/Status": "any read", // and nodes

	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      "any read",
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "any read",

	"/nexusraft.v1.Zones/ListZones": "any read",

	"/nexusraft.v1.Zones/Checksum":        "read",
	"/nexusraft.v1.EventStream/Subscribe": "read",
	"/nexusraft.v1.Keys/History":          "read",
	"/etcdserverpb.KV/Range":              "read",
	"/etcdserverpb.KV/RangeStream":        "read",
	"/etcdserverpb.Watch/Watch":           "read",
	"/etcdserverpb.KV/Txn":                "read", // if it has only ranges, or nothing: authz.TestRoleForATransaction
	"/etcdserverpb.Lease/LeaseTimeToLive": "read",
	"/etcdserverpb.Lease/LeaseLeases":     "read",
	"/etcdserverpb.Maintenance/Hash":      "read",
	"/etcdserverpb.Maintenance/HashKV":    "read",
	"/etcdserverpb.Maintenance/Status":    "read",
	"/etcdserverpb.Maintenance/Alarm":     "read",
	"/etcdserverpb.Cluster/MemberList":    "read",
	"/v3electionpb.Election/Leader":       "read",
	"/v3electionpb.Election/Observe":      "read",

	"/v3lockpb.Lock/Lock":                 "write",
	"/v3lockpb.Lock/Unlock":               "write",
	"/v3electionpb.Election/Campaign":     "write",
	"/v3electionpb.Election/Proclaim":     "write",
	"/v3electionpb.Election/Resign":       "write",
	"/nexusraft.v1.EventStream/Publish":   "write",
	"/nexusraft.v1.Zones/RegisterSession": "write",
	"/etcdserverpb.KV/Put":                "write",
	"/etcdserverpb.KV/DeleteRange":        "write",
	"/etcdserverpb.Lease/LeaseGrant":      "write",
	"/etcdserverpb.Lease/LeaseRevoke":     "write",
	"/etcdserverpb.Lease/LeaseKeepAlive":  "write",

	"/etcdserverpb.KV/Compact":             "admin",
	"/nexusraft.v1.Zones/ChangeMembership": "admin",
	"/nexusraft.v1.Zones/TransferLeader":   "admin",
	"/nexusraft.v1.EventStream/Retain":     "admin",

	"/etcdserverpb.Auth/AuthEnable":           "root admin",
	"/etcdserverpb.Auth/AuthDisable":          "root admin",
	"/etcdserverpb.Auth/UserAdd":              "root admin",
	"/etcdserverpb.Auth/UserGet":              "root admin",
	"/etcdserverpb.Auth/UserList":             "root admin",
	"/etcdserverpb.Auth/UserDelete":           "root admin",
	"/etcdserverpb.Auth/UserChangePassword":   "root admin",
	"/etcdserverpb.Auth/UserGrantRole":        "root admin",
	"/etcdserverpb.Auth/UserRevokeRole":       "root admin",
	"/etcdserverpb.Auth/RoleAdd":              "root admin",
	"/etcdserverpb.Auth/RoleGet":              "root admin",
	"/etcdserverpb.Auth/RoleList":             "root admin",
	"/etcdserverpb.Auth/RoleDelete":           "root admin",
	"/etcdserverpb.Auth/RoleGrantPermission":  "root admin",
	"/etcdserverpb.Auth/RoleRevokePermission": "root admin",

	"/nexusraft.v1.Zones/CreateZone":         "root admin",
	"/nexusraft.v1.Zones/DeleteZone":         "root admin",
	"/nexusraft.v1.Zones/ReshapeZone":        "root admin",
	"/nexusraft.v1.Tokens/CreateToken":       "root admin",
	"/nexusraft.v1.Tokens/ListTokens":        "root admin",
	"/nexusraft.v1.Tokens/RevokeToken":       "root admin",
	"/nexusraft.v1.Rotation/GetAuthority":    "root admin",
	"/nexusraft.v1.Rotation/RotateAuthority": "root admin",
	"/nexusraft.v1.Access/Grant":             "root admin",
	"/nexusraft.v1.Access/Revoke":            "root admin",
	"/nexusraft.v1.Access/ListAccess":        "root admin",
	"/nexusraft.v1.Access/CreateAccessToken": "root admin",
	"/nexusraft.v1.Access/RevokeAccessToken": "root admin",
	"/nexusraft.v1.Access/IssueCertificate":  "root admin",
}

// secureMember is a member as serve runs it, in this process.
type secureMember struct {
	t       *testing.T
	node    *node.Node
	address string
	server  *grpc.Server
	ahead   atomic.Int64 // what its clock is ahead, in nanoseconds
}

func serveSecurely(t *testing.T) *secureMember {
	t.Helper()
	m := &secureMember{t: t}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.address = lis.Addr().String()
	config := node.Config{
		Dir: t.TempDir(), Name: "n1", Advertise: m.address, ClusterTLS: true, StateMachine: kv.StateMachine{},
		TickInterval: 10 * time.Millisecond, ServerOptions: etcd.Options(), Permissions: etcd.Permissions(),
		Clock: func() time.Time { return time.Now().Add(time.Duration(m.ahead.Load())) },
	}
	if _, err := node.Init(config); err != nil {
		t.Fatal(err)
	}
	if m.node, err = node.Open(config); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- m.node.Run(ctx, lis, func(r grpc.ServiceRegistrar) {
			m.server = r.(*grpc.Server)
			etcd.Services(m.node)(r)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the node ended with %v", err)
		}
	})
	select {
	case <-m.node.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the node is not ready")
	}
	return m
}

// try repeats what a leader may refuse in its first moments.
func (m *secureMember) try(f func(context.Context) error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	eventually(m.t, "the leader takes it", func() bool {
		err := f(ctx)
		early := errors.Is(err, nexusraft.ErrNotLeader) || errors.Is(err, nexusraft.ErrNoQuorum)
		if err != nil && !early {
			m.t.Fatal(err)
		}
		return !early
	})
}

func (m *secureMember) grant(name string, zone nexusraft.ZoneID, role nexusraft.AccessRole) {
	m.t.Helper()
	m.try(func(ctx context.Context) error { return m.node.Credentials().SetRole(ctx, name, zone, role) })
}

func (m *secureMember) token(name string, life time.Duration) (text string, info nexusraft.AccessToken) {
	m.t.Helper()
	m.try(func(ctx context.Context) (err error) {
		text, info, err = m.node.Credentials().CreateAccessToken(ctx, name, life)
		return err
	})
	return text, info
}

// caller calls: by a certificate, by a token, by both or by neither.
type caller struct {
	conn      *grpc.ClientConn
	certified bool
	token     string
}

// as connects with a certificate of a subject; the zero one for none.
func (m *secureMember) as(s pki.Subject, token string) caller {
	m.t.Helper()
	request, key, err := pki.NewRequest()
	if err != nil {
		m.t.Fatal(err)
	}
	roots := m.certificate(request, pki.Subject{Client: "admin"})
	c, err := mtls.Issued(pki.Pair{Cert: roots, Key: key}, nil,
		pki.Subject{Cluster: m.node.Cluster(), Client: "admin"})
	if err != nil {
		m.t.Fatal(err)
	}
	if s == (pki.Subject{}) {
		c.Own = tls.Certificate{}
	} else {
		s.Cluster = m.node.Cluster()
		if c, err = mtls.Issued(pki.Pair{Cert: m.certificate(request, s), Key: key}, nil, s); err != nil {
			m.t.Fatal(err)
		}
	}
	security := mtls.NewTLS(func() (mtls.Certificates, error) { return c, nil })
	conn, err := grpc.NewClient("passthrough:///"+m.address, append(transport.DialOptions(),
		grpc.WithTransportCredentials(security.ClientCredentials(m.node.ID())))...)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { conn.Close() })
	return caller{conn, s != (pki.Subject{}), token}
}

func (m *secureMember) certificate(request []byte, s pki.Subject) (chain []byte) {
	m.t.Helper()
	m.try(func(ctx context.Context) (err error) {
		if s.Node != 0 {
			chain, err = m.nodeCertificate(ctx, request, s.Node)
		} else {
			chain, _, err = m.node.Credentials().IssueCertificate(ctx, s.Client, request, time.Hour)
		}
		return err
	})
	return chain
}

// nodeCertificate gets the certificate of a node that is in the cluster, by a join token.
func (m *secureMember) nodeCertificate(ctx context.Context, request []byte, id nexusraft.NodeID) ([]byte, error) {
	text, _, err := m.node.Credentials().CreateToken(ctx, nexusraft.RoleMember, time.Hour, 1)
	if err != nil {
		return nil, err
	}
	token, err := pki.ParseToken(text)
	if err != nil {
		return nil, err
	}
	security := mtls.NewTLS(func() (mtls.Certificates, error) {
		return mtls.Certificates{Pin: &token.CA}, nil
	})
	self := transport.Identity{Node: id, Incarnation: 1, Boot: 1, Address: "127.0.0.1:1"}
	peers := transport.NewPeers(func() transport.Identity { return self }, transport.PeersOptions{TLS: security})
	defer peers.Close()
	asks := transport.RenewRequest{Node: id, CertificateRequest: request, Token: token}
	renewal, err := peers.Renew(ctx, m.address, asks)
	return renewal.Certificate, err
}

// atOnce is a message that is answered at once: without a lease that there is not, a name that is too long, or
// something to ask, some methods wait. All others get an empty one.
func atOnce(method string) *emptypb.Empty {
	m := &emptypb.Empty{}
	switch method {
	case "/v3lockpb.Lock/Lock", "/v3electionpb.Election/Campaign":
		m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), 1))
	case "/etcdserverpb.Watch/Watch": // of its progress
		m.ProtoReflect().SetUnknown(protowire.AppendBytes(protowire.AppendTag(nil, 3, protowire.BytesType), nil))
	case "/v3electionpb.Election/Observe":
		name := protowire.AppendTag(nil, 1, protowire.BytesType)
		m.ProtoReflect().SetUnknown(protowire.AppendBytes(name, make([]byte, 8<<10)))
	}
	return m
}

// call calls a method with an empty message, and returns the code of what comes back first.
func (c caller) call(ctx context.Context, method string, streams bool) *status.Status {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if c.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
	}
	if !streams {
		return status.Convert(c.conn.Invoke(ctx, method, atOnce(method), &emptypb.Empty{}))
	}
	stream, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err == nil {
		err = errors.Join(stream.SendMsg(atOnce(method)), stream.CloseSend())
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = stream.RecvMsg(&emptypb.Empty{})
	}
	return status.Convert(err)
}

// methods are all that the member has registered, and whether they are streams.
func (m *secureMember) methods() map[string]bool {
	all := make(map[string]bool)
	for service, info := range m.server.GetServiceInfo() {
		for _, x := range info.Methods {
			all["/"+service+"/"+x.Name] = x.IsClientStream || x.IsServerStream
		}
	}
	return all
}

// TestEveryMethodHasANeed fails for a method that is new, or gone.
func TestEveryMethodHasANeed(t *testing.T) {
	got := slices.Sorted(maps.Keys(serveSecurely(t).methods()))
	if diff := cmp.Diff(slices.Sorted(maps.Keys(callersOf)), got); diff != "" {
		t.Errorf("-expected +registered:\n%s", diff)
	}
}

// TestWhoMayCallWhat calls every method as everybody.
func TestWhoMayCallWhat(t *testing.T) {
	m := serveSecurely(t)
	const root, other = nexusraft.RootZone, nexusraft.RootZone + 1
	for name, role := range map[string]nexusraft.AccessRole{
		"reader": nexusraft.AccessRead,
		"writer": nexusraft.AccessWrite, "boss": nexusraft.AccessAdmin,
	} {
		m.grant(name, root, role)
	}
	m.grant("elsewhere", other, nexusraft.AccessAdmin)
	m.grant("everywhere", 0, nexusraft.AccessRead)
	m.grant("gone", 0, nexusraft.AccessAdmin)
	gone := m.as(pki.Subject{Client: "gone"}, "")
	expired, _ := m.token("boss", time.Minute)
	m.ahead.Store(int64(2 * time.Minute))
	revoked, info := m.token("boss", time.Hour)
	m.try(func(ctx context.Context) error { return m.node.Credentials().RevokeAccessToken(ctx, info.ID) })
	orphan, _ := m.token("gone", time.Hour)
	m.try(func(ctx context.Context) error { return m.node.Credentials().RevokeAccess(ctx, "gone") })
	good := func(name string) string { text, _ := m.token(name, time.Hour); return text }

	const none, denied = codes.Unauthenticated, codes.PermissionDenied
	callers := []struct {
		name   string
		caller caller
		may    []string   // what it counts as
		code   codes.Code // of what it may not
		node   bool
	}{
		{"nobody", m.as(pki.Subject{}, ""), nil, none, false},
		{"a wrong token", m.as(pki.Subject{}, "nra1-"+strings.Repeat("a", 39)), nil, none, false},
		{"a token that is none", m.as(pki.Subject{}, "nra1-x"), nil, none, false},
		{"an expired token", m.as(pki.Subject{}, expired), nil, none, false},
		{"a revoked token", m.as(pki.Subject{}, revoked), nil, none, false},
		{"a token of a revoked client", m.as(pki.Subject{}, orphan), nil, none, false},
		{"a revoked token with a certificate", m.as(pki.Subject{Client: "boss"}, revoked), nil, none, false},
		{"a revoked client", gone, nil, denied, false},
		{"a node", m.as(pki.Subject{Node: m.node.ID()}, ""), []string{"nodes"}, denied, true},
		{"reader", m.as(pki.Subject{Client: "reader"}, ""), []string{"any read", "read"}, denied, false},
		{"reader's token", m.as(pki.Subject{}, good("reader")), []string{"any read", "read"}, denied, false},
		{
			"reader's token, boss's certificate", m.as(pki.Subject{Client: "boss"}, good("reader")),
			[]string{"any read", "read"},
			denied, false,
		},
		{"reader everywhere", m.as(pki.Subject{Client: "everywhere"}, ""), []string{"any read", "read"}, denied, false},
		{"writer", m.as(pki.Subject{Client: "writer"}, ""), []string{"any read", "read", "write"}, denied, false},
		{
			"boss", m.as(pki.Subject{Client: "boss"}, ""),
			[]string{"any read", "read", "write", "admin", "root admin"},
			denied,
			false,
		},
		{
			"boss's token", m.as(pki.Subject{}, good("boss")),
			[]string{"any read", "read", "write", "admin", "root admin"},
			denied, false,
		},
		{
			"the founder's admin", m.as(pki.Subject{Client: "admin"}, ""),
			[]string{"any read", "read", "write", "admin", "root admin"},
			denied, false,
		},
		{"admin of another zone", m.as(pki.Subject{Client: "elsewhere"}, ""), []string{"any read"}, denied, false},
	}
	for method, streams := range m.methods() {
		for _, c := range callers {
			want := callersOf[method] == "all" || slices.Contains(c.may, callersOf[method]) || c.node &&
				method == "/nexusraft.v1.Cluster/Status"
			code := c.code
			if callersOf[method] == "nodes" { // where only a certificate counts
				code = map[bool]codes.Code{true: denied, false: none}[c.caller.certified]
			}
			got := c.caller.call(t.Context(), method, streams)
			if got.Code() == codes.Unavailable { // the connection of one who is not known is closed after some refusals
				got = c.caller.call(t.Context(), method, streams)
			}
			switch guarded := strings.HasPrefix(got.Message(), nexusraft.ErrDenied.Error()); {
			case want && guarded:
				t.Errorf("%s by %s: got %v %q, want it let pass", method, c.name, got.Code(), got.Message())
			case !want && (!guarded || got.Code() != code || len(got.Details()) != 1):
				t.Errorf("%s by %s: got %v %q with %d details, want it refused with %v and one detail", method, c.name, got.Code(),
					got.Message(), len(got.Details()), code)
			}
		}
	}
}

// What a transaction needs is decided by what is in it, however deep (GHSA-rfx7-8w68-q57q): a reader's may have ranges
// and compares.
func TestReadersTransactions(t *testing.T) {
	m := serveSecurely(t)
	m.grant("reader", nexusraft.RootZone, nexusraft.AccessRead)
	client := etcdserverpb.NewKVClient(m.as(pki.Subject{Client: "reader"}, "").conn)
	get := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{
		RequestRange: &etcdserverpb.RangeRequest{Key: []byte("k")},
	}}
	put := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{
		RequestPut: &etcdserverpb.PutRequest{Key: []byte("k"), PrevKv: true},
	}}
	inside := func(op *etcdserverpb.RequestOp) *etcdserverpb.RequestOp {
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{
			RequestTxn: &etcdserverpb.TxnRequest{Failure: []*etcdserverpb.RequestOp{op}},
		}}
	}
	for name, tc := range map[string]struct {
		op   *etcdserverpb.RequestOp
		want codes.Code
	}{
		"get":              {get, codes.OK},
		"put":              {put, codes.PermissionDenied},
		"nested put":       {inside(put), codes.PermissionDenied},
		"put nested twice": {inside(inside(put)), codes.PermissionDenied},
	} {
		for _, req := range []*etcdserverpb.TxnRequest{
			{Success: []*etcdserverpb.RequestOp{tc.op}}, {Failure: []*etcdserverpb.RequestOp{get, tc.op}},
		} {
			if _, err := client.Txn(t.Context(), req); status.Code(err) != tc.want {
				t.Errorf("%s: got %v, want %v", name, err, tc.want)
			}
		}
	}
}

func TestBenchWithCredentials(t *testing.T) {
	m := serveSecurely(t)
	m.grant("reader", 0, nexusraft.AccessRead)
	file := func(name string) string {
		request, key, err := pki.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		chain := m.certificate(request, pki.Subject{Client: name})
		certs, err := pki.Certificates(chain)
		if err != nil {
			t.Fatal(err)
		}
		roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certs[len(certs)-1].Raw})
		return writeFile(t, pki.Bundle{Pair: pki.Pair{Cert: chain, Key: key}, Roots: roots}.PEM())
	}
	run := func(credentials string) (int, string, string) {
		return command(t, "bench", "--endpoints", m.address, "--credentials", credentials, "--duration", "100ms",
			"--key-space", "10", "--json")
	}
	if status, stdout, stderr := run(file("admin")); status != 0 || !strings.Contains(stdout, `"operations"`) {
		t.Errorf("as admin: got %d, %q, %q", status, stdout, stderr)
	}
	if status, _, stderr := run(file("reader")); status == 0 || !strings.Contains(stderr, "needs the role write") {
		t.Errorf("as reader: got %d, %q; want it refused", status, stderr)
	}
	if status, _, stderr := run(filepath.Join(t.TempDir(), "none")); status == 0 ||
		!strings.Contains(stderr, "--credentials") {
		t.Errorf("without the file: got %d, %q", status, stderr)
	}
}
