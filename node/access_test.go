package node_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// grant gives a role through m, whoever leads.
func (m *member) grant(name string, role nexusraft.AccessRole) {
	m.t.Helper()
	eventually(m.t, "grant", func() error {
		return m.node.Credentials().SetRole(m.t.Context(), name, nexusraft.RootZone, role)
	})
}

// client connects to m as a client with a certificate.
func (m *member) client(name string) *grpc.ClientConn {
	m.t.Helper()
	request, key, err := pki.NewRequest()
	if err != nil {
		m.t.Fatal(err)
	}
	var chain []byte
	eventually(m.t, "issue a certificate", func() (err error) {
		chain, _, err = m.node.Credentials().IssueCertificate(m.t.Context(), name, request, time.Hour)
		return err
	})
	c, err := mtls.Issued(pki.Pair{Cert: chain, Key: key}, nil, pki.Subject{Cluster: m.node.Cluster(), Client: name})
	if err != nil {
		m.t.Fatal(err)
	}
	return secureConn(m.t, m, mtls.NewTLS(func() (mtls.Certificates, error) { return c, nil }))
}

func withToken(ctx context.Context, text string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+text)
}

func (m *member) accessToken(name string, life time.Duration) (text string, info nexusraft.AccessToken) {
	m.t.Helper()
	eventually(m.t, "create an access token", func() (err error) {
		text, info, err = m.node.Credentials().CreateAccessToken(m.t.Context(), name, life)
		return err
	})
	return text, info
}

// follow opens a subscription that is idle once follow returns.
func follow(ctx context.Context, t *testing.T, conn *grpc.ClientConn) grpc.ServerStreamingClient[pb.SubscribeResponse] {
	t.Helper()
	stream, err := pb.NewEventStreamClient(conn).Subscribe(ctx,
		&pb.SubscribeRequest{Zone: uint64(nexusraft.RootZone), Topics: []string{"app"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	return stream
}

// ends waits until a subscription has ended, with whatever it still gets before.
func ends(t *testing.T, stream grpc.ServerStreamingClient[pb.SubscribeResponse]) error {
	t.Helper()
	over := make(chan error, 1)
	go func() {
		for {
			if _, err := stream.Recv(); err != nil {
				over <- err
				return
			}
		}
	}()
	select {
	case err := <-over:
		return err
	case <-time.After(10 * time.Second):
		t.Fatal("the stream has not ended")
		return nil
	}
}

// A subscription that nothing is sent to ends when its caller may not have it any more.
func TestIdleStreamEndsWithItsRight(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	c := secureConfig(t, "n1")
	c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	m := found(t, c)
	for _, name := range []string{"revoked", "deleted", "stays", "token"} {
		m.grant(name, nexusraft.AccessRead)
	}
	stays := follow(t.Context(), t, m.client("stays"))
	admin := m.client("admin")
	text, info := m.accessToken("token", time.Hour)
	brief, _ := m.accessToken("token", time.Second)
	for _, x := range []struct {
		name   string
		stream grpc.ServerStreamingClient[pb.SubscribeResponse]
		end    func() error
		code   codes.Code
	}{
		{"its role was taken back", follow(t.Context(), t, m.client("revoked")), func() error {
			return m.node.Credentials().SetRole(t.Context(), "revoked", nexusraft.RootZone, nexusraft.AccessNone)
		}, codes.PermissionDenied},
		{
			"its name was revoked", follow(t.Context(), t, m.client("deleted")),
			func() error { return m.node.Credentials().RevokeAccess(t.Context(), "deleted") }, codes.PermissionDenied,
		},
		{
			"its token was revoked", follow(withToken(t.Context(), text), t, admin),
			func() error { return m.node.Credentials().RevokeAccessToken(t.Context(), info.ID) }, codes.Unauthenticated,
		},
		{
			"its token has expired", follow(withToken(t.Context(), brief), t, admin), func() error { return nil },
			codes.Unauthenticated,
		},
	} {
		eventually(t, x.name, x.end)
		if err := ends(t, x.stream); status.Code(err) != x.code ||
			!strings.Contains(err.Error(), nexusraft.ErrDenied.Error()) {
			t.Errorf("%s: got %v, want %v", x.name, err, x.code)
		}
	}
	zone, err := m.node.Zone(nexusraft.RootZone)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "publish", func() error { _, err := zone.Publish(t.Context(), "app/a", "t", nil); return err })
	for events := 0; events == 0; { // empty batches come while nothing happens
		resp, err := stays.Recv()
		if err != nil {
			t.Fatalf("one who may: got %v, want the event", err)
		}
		events = len(resp.GetEvents())
	}
}

// Who may do what is the same through a member that came to it by a snapshot, and changes there as
// it is applied.
func TestAccessThroughAnotherMember(t *testing.T) {
	t.Parallel()
	founder := found(t, secureConfig(t, "n1"))
	founder.grant("reader", nexusraft.AccessRead)
	c := secureConfig(t, "n2")
	c.JoinToken = newToken(t, founder, nexusraft.RoleMember)
	second := join(t, c, founder)
	reader := pb.NewZonesClient(second.client("reader"))
	sum := func() error {
		_, err := reader.Checksum(t.Context(), &pb.ChecksumRequest{Zone: uint64(nexusraft.RootZone)})
		return err
	}
	if err := sum(); err != nil {
		t.Errorf("by a reader: %v", err)
	}
	if err := founder.node.Credentials().RevokeAccess(t.Context(), "reader"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "hear of it", func() error {
		if err := sum(); status.Code(err) != codes.PermissionDenied {
			return fmt.Errorf("got %w, want PermissionDenied", err)
		}
		return nil
	})
	list, err := second.node.Credentials().Access(t.Context())
	all := nexusraft.ZoneRole{Zone: nexusraft.EveryZone, Role: nexusraft.AccessAdmin}
	if err != nil || len(list) != 1 || list[0].Name != "admin" || list[0].Roles[0] != all {
		t.Errorf("got %+v, %v; want admin alone", list, err)
	}
}

func TestAccessTokenOverAPlainConnection(t *testing.T) {
	t.Parallel()
	m := found(t, testConfig(t, "n1"))
	conn, err := grpc.NewClient("passthrough:///"+m.config.Advertise,
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	text, _ := m.accessToken("admin", time.Hour)
	status1 := func(ctx context.Context) error {
		_, err := pb.NewClusterClient(conn).Status(ctx, &pb.StatusRequest{})
		return err
	}
	if err := status1(withToken(t.Context(), text)); status.Code(err) != codes.Unauthenticated ||
		!strings.Contains(err.Error(), "revoke it") || strings.Contains(err.Error(), text) {
		t.Errorf("got %v, want it refused, and not repeated", err)
	}
	if err := status1(metadata.AppendToOutgoingContext(t.Context(), "authorization",
		"Bearer of-another-kind")); err != nil {
		t.Errorf("a token of an application: %v", err)
	}
	if err := status1(t.Context()); err != nil {
		t.Errorf("without a token: %v", err)
	}
}

// echo is an application's service beside the node's own.
var echo = grpc.ServiceDesc{
	ServiceName: "app.Echo", HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{echoMethod("Known"), echoMethod("Forgotten")},
}

func echoMethod(name string) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, decode func(any) error,
		interceptor grpc.UnaryServerInterceptor,
	) (any, error) {
		req := &emptypb.Empty{} // which names no zone
		if err := decode(req); err != nil {
			return nil, err
		}
		info := &grpc.UnaryServerInfo{FullMethod: "/app.Echo/" + name}
		return interceptor(ctx, req, info, func(context.Context, any) (any, error) { return &pb.StatusResponse{}, nil })
	}}
}

// An application says who may call its methods. What it forgets, nobody may.
func TestPermissionsOfAnApplication(t *testing.T) {
	t.Parallel()
	c := secureConfig(t, "n1")
	c.Permissions = map[string]nexusraft.Permission{"/app.Echo/Known": {Role: nexusraft.AccessWrite}}
	if _, err := node.Init(c); err != nil {
		t.Fatal(err)
	}
	m := startWith(t, c, func(r grpc.ServiceRegistrar) {
		r.RegisterService(&echo, nil)
		etcdserverpb.RegisterKVServer(r, etcdserverpb.UnimplementedKVServer{}) // the application's own
	})
	m.zone()
	m.grant("writer", nexusraft.AccessWrite)
	m.grant("reader", nexusraft.AccessRead)
	writer, reader := m.client("writer"), m.client("reader")
	for _, x := range []struct {
		conn   *grpc.ClientConn
		ctx    context.Context
		method string
		want   codes.Code
	}{
		{writer, t.Context(), "/app.Echo/Known", codes.OK},
		{reader, t.Context(), "/app.Echo/Known", codes.PermissionDenied},
		{
			writer, metadata.AppendToOutgoingContext(t.Context(), "nexus-zone", "0000000000000002"), "/app.Echo/Known",
			codes.PermissionDenied,
		},
		{m.client("admin"), t.Context(), "/app.Echo/Forgotten", codes.PermissionDenied},
		{m.client("admin"), t.Context(), "/etcdserverpb.KV/Range", codes.PermissionDenied},
		{reader, t.Context(), "/app.Echo/NotThere", codes.Unimplemented},
	} {
		if err := x.conn.Invoke(x.ctx, x.method, &emptypb.Empty{}, &pb.StatusResponse{}); status.Code(err) != x.want {
			t.Errorf("%s: got %v, want %v", x.method, err, x.want)
		}
	}
}

func TestBadPermissions(t *testing.T) {
	c := testConfig(t, "n1")
	c.Permissions = map[string]nexusraft.Permission{
		"/a/NoRole": {}, "/b/Role": {Role: "owner"}, "/c/Scope": {Role: nexusraft.AccessRead, In: "mars"},
		"/nexusraft.v1.Cluster/Status": {Role: nexusraft.AccessRead},
		"/nexusraft.v1.Cluster/Renew":  {Role: nexusraft.AccessRead},
	}
	_, err := node.Open(c)
	for _, want := range []string{
		"/a/NoRole", `"owner"`, `"mars"`, "Cluster/Status: it is one",
		"Cluster/Renew: it is one",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to say %s", err, want)
		}
	}
}

func TestIssueCertificateIsRefused(t *testing.T) {
	t.Parallel()
	m := found(t, secureConfig(t, "n1"))
	request, _, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	for what, x := range map[string]struct {
		name    string
		request []byte
		life    time.Duration
		want    error
		text    string
	}{
		"for nobody":  {"nobody", request, time.Hour, nexusraft.ErrRefused, "has no role"},
		"for ever":    {"admin", request, 367 * day, nexusraft.ErrRefused, "up to"},
		"for no time": {"admin", request, 0, nexusraft.ErrRefused, "up to"},
		"for a long key": {
			"admin", make([]byte, nexusraft.MaxCertificateRequestBytes+1), time.Hour, nexusraft.ErrTooLarge,
			"limit 4096",
		},
		"for no key":      {"admin", []byte("x"), time.Hour, nexusraft.ErrRefused, ""},
		"for a long name": {strings.Repeat("n", 1<<20), request, time.Hour, nexusraft.ErrRefused, ""},
	} {
		err := errors.New("none")
		eventually(t, what, func() error {
			_, _, err = m.node.Credentials().IssueCertificate(t.Context(), x.name, x.request, x.life)
			if errors.Is(err, nexusraft.ErrNoQuorum) || errors.Is(err, nexusraft.ErrNotLeader) {
				return err
			}
			return nil
		})
		if !errors.Is(err, x.want) || !strings.Contains(err.Error(), x.text) || len(err.Error()) > 1000 {
			t.Errorf("%s: got %.1000v, want %v with %q", what, err, x.want, x.text)
		}
	}
	own := stolen(t, m, m.node.ID())
	m.close()
	m.config.TLS = own // from files
	m = start(t, m.config)
	m.zone()
	if _, _, err := m.node.Credentials().IssueCertificate(t.Context(), "admin", request, time.Hour); !errors.Is(err,
		nexusraft.ErrRefused) || !strings.Contains(err.Error(), "come from files") {
		t.Errorf("with certificates from files: got %v, want ErrRefused", err)
	}
	_, _, err = m.node.Credentials().CreateAccessToken(t.Context(), "admin", 0)
	if !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("a token for no time: got %v", err)
	}
}

// Who has lost all credentials makes new ones on a member's machine.
func TestRecoverAccess(t *testing.T) {
	t.Parallel()
	m := found(t, secureConfig(t, "n1"))
	m.grant("reader", nexusraft.AccessRead)
	m.put("k", "v")
	if _, err := node.RecoverAccess(m.config, "admin", day); err == nil {
		t.Error("from a directory that is in use: got none, want an error")
	}
	m.close()
	for name, want := range map[string]string{"nobody": "are: admin", "a b": "the name of a client"} {
		if _, err := node.RecoverAccess(m.config, name, day); !errors.Is(err, nexusraft.ErrRefused) ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("for %q: got %v, want ErrRefused with %q", name, err, want)
		}
	}
	empty := testConfig(t, "n2")
	if _, err := node.RecoverAccess(empty, "admin", day); !errors.Is(err, nexusraft.ErrNotFounded) {
		t.Errorf("from an empty directory: got %v, want ErrNotFounded", err)
	}
	text, err := node.RecoverAccess(m.config, "admin", day)
	if err != nil {
		t.Fatal(err)
	}
	b, err := pki.ParseBundle(text)
	if err != nil {
		t.Fatal(err)
	}
	m = start(t, m.config)
	m.zone()
	c, err := mtls.Issued(pki.Pair{Cert: append(b.Cert, b.Roots...), Key: b.Key}, nil,
		pki.Subject{Cluster: m.node.Cluster(), Client: "admin"})
	if err != nil {
		t.Fatal(err)
	}
	conn := secureConn(t, m, mtls.NewTLS(func() (mtls.Certificates, error) { return c, nil }))
	if _, err := pb.NewZonesClient(conn).TransferLeader(t.Context(),
		&pb.TransferLeaderRequest{Zone: uint64(nexusraft.RootZone), To: 7}); err != nil {
		t.Errorf("what only an admin may: got %v, want an answer", err)
	}
}
