package node_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/authz/policy"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/witness"
)

// expiring is two members and a witness that go by one clock.
type expiring struct {
	t       *testing.T
	ahead   atomic.Int64 // how far their clock is ahead
	members []*member
	witness witness.Config
	stop    func() // of the witness
}

func (e *expiring) clock() time.Time { return time.Now().Add(time.Duration(e.ahead.Load())) }

func (e *expiring) config(name string) node.Config {
	c := secureConfig(e.t, name)
	c.Clock = e.clock
	return c
}

func newExpiring(t *testing.T) *expiring {
	t.Helper()
	e := &expiring{t: t}
	n1 := found(t, e.config("n1"))
	c := e.config("n2")
	c.JoinToken = newToken(t, n1, nexusraft.RoleMember)
	e.members = []*member{n1, join(t, c, n1)}
	lis := listen(t, "")
	e.witness = witness.Config{
		Dir: t.TempDir(), Name: "w1", ClusterTLS: true, JoinToken: newToken(t, n1, nexusraft.RoleWitness), Logger: c.Logger,
		Join: []string{n1.config.Advertise}, TickInterval: node.TestTick, Advertise: lis.Addr().String(),
		Clock: e.clock,
	}
	lis.Close()
	e.stop = runWitness(t, e.witness)
	n1.put("k", "v")
	e.witness.JoinToken = ""
	return e
}

// off stops all for a hundred days. The witness is the first, so that neither member commits
// without the other.
func (e *expiring) off() {
	e.t.Helper()
	e.stop()
	for _, m := range e.members {
		m.close()
	}
	e.ahead.Add(int64(100 * day))
}

// A cluster is off for longer than its certificates are good for, and one of its members never
// comes back: the other one signs for itself, and for the witness, without which there is no leader
// that it could ask.
func TestExpiredWhileOff(t *testing.T) {
	for _, lost := range []int{0, 1} {
		t.Run(fmt.Sprintf("n%d is lost", lost+1), func(t *testing.T) {
			t.Parallel()
			e := newExpiring(t)
			e.off()
			left := start(t, e.members[1-lost].config)
			runWitness(t, e.witness)
			left.put("k", "w")
			if got := left.get("k"); got != "w" {
				t.Errorf("got %q, want w", got)
			}
		})
	}
}

// The witness alone is off, and starts before the members: it asks again until one answers.
func TestExpiredWitnessStartsFirst(t *testing.T) {
	t.Parallel()
	e := newExpiring(t)
	e.off()
	runWitness(t, e.witness)
	first := start(t, e.members[0].config)
	first.put("k", "w")
	start(t, e.members[1].config).put("k", "x")
}

// agedFounder is the only member of a cluster that was founded 500 days ago.
func agedFounder(t *testing.T) *member {
	t.Helper()
	e := &expiring{t: t}
	e.ahead.Store(int64(-500 * day))
	c := e.config("n1")
	if _, err := node.Init(c); err != nil {
		t.Fatal(err)
	}
	e.ahead.Store(0)
	m := start(t, c)
	waitRenewed(t, m.config.Advertise)
	return m
}

// certificateOf is one that an authority has signed for s at a time, for 90 days.
func certificateOf(t *testing.T, ca pki.Pair, s pki.Subject, then time.Time) tls.Certificate {
	t.Helper()
	request, key, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	chain, err := pki.Sign(ca, request, s, then, 90*day)
	if err != nil {
		t.Fatal(err)
	}
	own, err := pki.Pair{Cert: chain, Key: key}.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	return own
}

// shownTo is a connection to a member, whoever that is, on which a certificate is shown.
func shownTo(t *testing.T, m *member, own tls.Certificate) *grpc.ClientConn {
	t.Helper()
	creds := credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
		Certificates: []tls.Certificate{own},
	})
	conn, err := grpc.NewClient("passthrough:///"+m.config.Advertise,
		append(transport.DialOptions(), grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func authorityOf(t *testing.T, m *member) pki.Pair {
	t.Helper()
	ca, err := m.node.Authority()
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func renewBy(t *testing.T, conn *grpc.ClientConn) error {
	t.Helper()
	request, _, err := pki.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	resp, err := pb.NewClusterClient(conn).Renew(t.Context(), &pb.RenewRequest{CertificateRequest: request})
	if err == nil && resp.GetError() != nil {
		err = wire.ErrorFromProto(resp.GetError())
	}
	return err
}

// Whose certificate has lapsed may renew it, if it is that of a node of this cluster, and nobody
// else may.
func TestLapsedCertificateRenews(t *testing.T) {
	t.Parallel()
	n1, other := agedFounder(t), agedFounder(t)
	c := secureConfig(t, "n2")
	c.JoinToken = newToken(t, n1, nexusraft.RoleMember)
	n2 := join(t, c, n1)
	c = secureConfig(t, "n3")
	c.JoinToken, c.Join = newToken(t, n1, nexusraft.RoleMember), []string{n1.config.Advertise}
	n3 := start(t, c)
	n3.zone()
	removed := n3.node.ID()
	ca, cluster, id, now := authorityOf(t, n1), n1.node.Cluster(), n1.node.ID(), time.Now()
	lapsed := now.Add(-91 * day)
	if err := renewBy(t, shownTo(t, n1, certificateOf(t, ca, pki.Subject{Cluster: cluster, Node: removed},
		lapsed))); err != nil {
		t.Errorf("of n3, before it is removed: got %v, want none", err)
	}
	n3.close()
	removeNode(t, removed, n1, n2)
	for name, tc := range map[string]struct {
		ca   pki.Pair
		s    pki.Subject
		then time.Time
		says string // "": it is renewed
	}{
		"expired":                {ca, pki.Subject{Cluster: cluster, Node: id}, lapsed, ""},
		"expired a year ago":     {ca, pki.Subject{Cluster: cluster, Node: id}, now.Add(-455 * day), ""},
		"of a clock a year on":   {ca, pki.Subject{Cluster: cluster, Node: id}, now.Add(365 * day), ""},
		"of a removed node":      {ca, pki.Subject{Cluster: cluster, Node: removed}, lapsed, "is not in the cluster"},
		"of a node that is none": {ca, pki.Subject{Cluster: cluster, Node: 7}, lapsed, "is not in the cluster"},
		"of a client":            {ca, pki.Subject{Cluster: cluster, Client: "admin"}, lapsed, "only a node"},
		"a client's, valid":      {ca, pki.Subject{Cluster: cluster, Client: "admin"}, now, "only a node"},
		"of another cluster":     {ca, pki.Subject{Cluster: cluster + 1, Node: id}, lapsed, "only a node"},
		"of another authority":   {authorityOf(t, other), pki.Subject{Cluster: cluster, Node: id}, lapsed, "only a node"},
	} {
		err := renewBy(t, shownTo(t, n1, certificateOf(t, tc.ca, tc.s, tc.then)))
		if (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %v, want %q", name, err, tc.says)
		}
	}
	unproved := certificateOf(t, ca, pki.Subject{Cluster: cluster, Node: id}, lapsed)
	unproved.PrivateKey = certificateOf(t, ca, pki.Subject{Cluster: cluster, Node: id}, lapsed).PrivateKey
	if err := renewBy(t, shownTo(t, n1, unproved)); status.Code(err) != codes.Unavailable {
		t.Errorf("for a key that was not proved: got %v, want no connection", err)
	}
}

// A lapsed certificate is good for no method but Renew: the others answer as they answer a caller
// without any.
func TestLapsedCertificateIsGoodForNothingElse(t *testing.T) {
	n1 := agedFounder(t)
	s := pki.Subject{Cluster: n1.node.Cluster(), Node: n1.node.ID()}
	lapsed := shownTo(t, n1, certificateOf(t, authorityOf(t, n1), s, time.Now().Add(-91*day)))
	tried := 0
	protoregistry.GlobalFiles.RangeFilesByPackage("nexusraft.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Services().Len() {
			methods := f.Services().Get(i).Methods()
			for j := range methods.Len() {
				m := methods.Get(j)
				name := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
				if policy.IsPublic(name) {
					continue
				}
				tried++
				if err := callEmpty(t.Context(), lapsed, name, m); status.Code(err) != codes.Unauthenticated &&
					status.Code(err) != codes.Unimplemented {
					t.Errorf("%s: got %v, want Unauthenticated", name, err)
				}
			}
		}
		return true
	})
	if tried < 10 {
		t.Errorf("%d methods were tried", tried)
	}
	join := &pb.JoinRequest{Role: pb.Role_ROLE_MEMBER, Hello: &pb.Hello{
		Protocol: transport.ProtocolVersion, NodeId: 7, ClusterId: uint64(s.Cluster), Incarnation: 1, Boot: 1,
		Address: "127.0.0.1:1",
	}}
	if resp, err := pb.NewClusterClient(lapsed).Join(t.Context(), join); err != nil || resp.GetError() == nil {
		t.Errorf("join: got %v, %v, want a refusal", resp, err)
	}
}

func callEmpty(ctx context.Context, conn *grpc.ClientConn, name string, m protoreflect.MethodDescriptor) error {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, name)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(dynamicpb.NewMessage(m.Input())); err != nil {
		return stream.RecvMsg(dynamicpb.NewMessage(m.Output()))
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return stream.RecvMsg(dynamicpb.NewMessage(m.Output()))
}

// A clock that is wrong by a year: what is refused says that a clock is wrong, and a member whose
// clock was corrected has a valid certificate soon after.
func TestClocksOfAnotherYear(t *testing.T) {
	for name, off := range map[string]time.Duration{"ahead": 365 * day, "behind": -365 * day} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := &expiring{t: t}
			n1 := found(t, secureConfig(t, "n1"))
			c := e.config("n2")
			c.JoinToken = newToken(t, n1, nexusraft.RoleMember)
			e.ahead.Store(int64(off))
			err := refusedToJoin(t, c, n1)
			if err == nil || !strings.Contains(err.Error(), "clock of") {
				t.Fatalf("got %v, want an error that names the clock", err)
			}
			e.ahead.Store(0)
			n2 := join(t, c, n1)
			n2.close()
			e.ahead.Store(int64(off))
			n2 = start(t, n2.config) // it signs for itself, if its certificate has lapsed by its clock
			eventually(t, "look at the certificate", func() error { return n2.node.RenewCertificate(t.Context(), e.clock()) })
			n2.close()
			e.ahead.Store(0)
			n2 = start(t, n2.config)
			n2.put("k", "v")
			if got := n1.get("k"); got != "v" {
				t.Errorf("got %q, want v", got)
			}
		})
	}
}
