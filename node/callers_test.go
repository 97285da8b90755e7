package node_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/authz/policy"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/witness"
)

// callers are the columns of methodCallers. Those before the nodes name themselves as the member.
var callers = []string{
	"stranger", "expired", "other cluster", "other authority", "revoked", "reader", "writer", "admin",
	"removed", "unknown", "witness", "learner", "member",
}

// methodCallers is what each method that a member serves says to each caller, in its first answer:
//
//   - The call is let pass, and served or found wrong like anybody's.
//     ?  Unauthenticated: nobody knows the caller.
//   - PermissionDenied: the caller is known, and may not.
//     x  Refused by the method itself, which looks at the certificate, the handshake or the token.
//
// TestWhoMayCallWhat of the program has tokens, and clients of other zones.
var methodCallers = map[string]string{
	// The columns are strangers' (4), clients' (4) and nodes' (5).
	"/etcdserverpb.Auth/AuthDisable":                                 "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/AuthEnable":                                  "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/AuthStatus":                                  "? ? ? ? - + + + - - - - -",
	"/etcdserverpb.Auth/Authenticate":                                "+ + + + + + + + + + + + +",
	"/etcdserverpb.Auth/RoleAdd":                                     "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/RoleDelete":                                  "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/RoleGet":                                     "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/RoleGrantPermission":                         "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/RoleList":                                    "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/RoleRevokePermission":                        "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/UserAdd":                                     "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/UserChangePassword":                          "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/UserDelete":                                  "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/UserGet":                                     "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/UserGrantRole":                               "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/UserList":                                    "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Auth/UserRevokeRole":                              "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.Cluster/MemberList":                               "? ? ? ? - + + + - - - - -",
	"/etcdserverpb.KV/Compact":                                       "? ? ? ? - - - + - - - - -",
	"/etcdserverpb.KV/DeleteRange":                                   "? ? ? ? - - + + - - - - -",
	"/etcdserverpb.KV/Put":                                           "? ? ? ? - - + + - - - - -",
	"/etcdserverpb.KV/Range":                                         "? ? ? ? - + + + - - - - -",
	"/etcdserverpb.KV/RangeStream":                                   "? ? ? ? - + + + - - - - -",
	"/etcdserverpb.Watch/Watch":                                      "? ? ? ? - + + + - - - - -",
	"/etcdserverpb.KV/Txn":                                           "? ? ? ? - + + + - - - - -",
	"/etcdserverpb.Lease/LeaseGrant":                                 "? ? ? ? - - + + - - - - -",
	"/etcdserverpb.Lease/LeaseKeepAlive":                             "? ? ? ? - - + + - - - - -",
	"/etcdserverpb.Lease/LeaseLeases":                                "? ? ? ? - + + + - - - - -",
	"/etcdserverpb.Lease/LeaseRevoke":                                "? ? ? ? - - + + - - - - -",
	"/etcdserverpb.Lease/LeaseTimeToLive":                            "? ? ? ? - + + + - - - - -",
	"/etcdserverpb.Maintenance/Alarm":                                "? ? ? ? - + + + - - - - -",
	"/etcdserverpb.Maintenance/Hash":                                 "? ? ? ? - + + + - - - - -",
	"/etcdserverpb.Maintenance/HashKV":                               "? ? ? ? - + + + - - - - -",
	"/etcdserverpb.Maintenance/Status":                               "? ? ? ? - + + + - - - - -",
	"/grpc.health.v1.Health/Check":                                   "+ + + + + + + + + + + + +",
	"/grpc.health.v1.Health/List":                                    "+ + + + + + + + + + + + +",
	"/grpc.health.v1.Health/Watch":                                   "+ + + + + + + + + + + + +",
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":      "? ? ? ? - + + + - - - - -",
	"/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "? ? ? ? - + + + - - - - -",
	"/nexusraft.v1.Access/CreateAccessToken":                         "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Access/Grant":                                     "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Access/IssueCertificate":                          "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Access/ListAccess":                                "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Access/Revoke":                                    "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Access/RevokeAccessToken":                         "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Cluster/HostZones":                                "? ? ? ? - - - - x x x x x",
	"/nexusraft.v1.Cluster/Join":                                     "x x x x x x x x x + x + +",
	"/nexusraft.v1.Cluster/Renew":                                    "x + x x x x x x x x + + +",
	"/nexusraft.v1.Cluster/Status":                                   "? ? ? ? - + + + - + + + +",
	"/nexusraft.v1.Cluster/Trust":                                    "? ? ? ? - - - - x + + + +",
	"/nexusraft.v1.EventStream/Publish":                              "? ? ? ? - - + + - - - - -",
	"/nexusraft.v1.EventStream/Retain":                               "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.EventStream/Subscribe":                            "? ? ? ? - + + + - - - - -",
	"/nexusraft.v1.Keys/History":                                     "? ? ? ? - + + + - - - - -",
	"/nexusraft.v1.RaftTransport/Exchange":                           "? ? ? ? - - - - x + + + +",
	"/nexusraft.v1.RaftTransport/InstallSnapshot":                    "? ? ? ? - - - - x + + + +",
	"/nexusraft.v1.RaftTransport/RequestVote":                        "? ? ? ? - - - - x + + + +",
	"/nexusraft.v1.RaftTransport/SnapshotOffset":                     "? ? ? ? - - - - x + + + +",
	"/nexusraft.v1.Rotation/GetAuthority":                            "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Rotation/RotateAuthority":                         "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Tokens/CreateToken":                               "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Tokens/ListTokens":                                "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Tokens/RevokeToken":                               "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Zones/AskLeader":                                  "? ? ? ? - - - - x x x + +",
	"/nexusraft.v1.Zones/ChangeMembership":                           "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Zones/Checksum":                                   "? ? ? ? - + + + - - - - -",
	"/nexusraft.v1.Zones/CreateZone":                                 "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Zones/DeleteZone":                                 "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Zones/ReshapeZone":                                "? ? ? ? - - - + - - - - -",
	"/nexusraft.v1.Zones/ListZones":                                  "? ? ? ? - + + + - - - - -",
	"/nexusraft.v1.Zones/Propose":                                    "? ? ? ? - - - - x x x + +",
	"/nexusraft.v1.Zones/RegisterSession":                            "? ? ? ? - - + + - - - - -",
	"/nexusraft.v1.Zones/TransferLeader":                             "? ? ? ? - - - + - - - - -",
	"/v3electionpb.Election/Campaign":                                "? ? ? ? - - + + - - - - -",
	"/v3electionpb.Election/Leader":                                  "? ? ? ? - + + + - - - - -",
	"/v3electionpb.Election/Observe":                                 "? ? ? ? - + + + - - - - -",
	"/v3electionpb.Election/Proclaim":                                "? ? ? ? - - + + - - - - -",
	"/v3electionpb.Election/Resign":                                  "? ? ? ? - - + + - - - - -",
	"/v3lockpb.Lock/Lock":                                            "? ? ? ? - - + + - - - - -",
	"/v3lockpb.Lock/Unlock":                                          "? ? ? ? - - + + - - - - -",
}

// TestCallersOfEachMethod calls each method as each caller. One that is new needs a row.
func TestCallersOfEachMethod(t *testing.T) {
	t.Parallel()
	w := newCallersWorld(t)
	methods := slices.Sorted(maps.Keys(w.methods))
	if diff := cmp.Diff(slices.Sorted(maps.Keys(methodCallers)), methods); diff != "" {
		t.Errorf("methods with a row (-) and of the member (+) differ:\n%s", diff)
	}
	methods = slices.DeleteFunc(methods, func(m string) bool { return m == pb.Cluster_Join_FullMethodName })
	methods = append(methods, pb.Cluster_Join_FullMethodName) // last, as it makes a learner of who was unknown
	got := make(map[string][]string)
	for _, name := range callers {
		if name == "member" {
			w.second.close()
		}
		for _, method := range methods {
			got[method] = append(got[method], w.call(name, method))
		}
	}
	for _, method := range methods {
		if diff := cmp.Diff(strings.Fields(methodCallers[method]), got[method]); diff != "" {
			t.Errorf("%s for %v (-want +got):\n%s", method, callers, diff)
		}
	}
}

// Each method that a member serves has a policy, in the .proto or in the table beside it, and no other
// method has one.
func TestEachMethodHasAPolicy(t *testing.T) {
	w := &callersWorld{t: t, methods: make(map[string]bool)}
	w.serve()
	methods := slices.Concat(policy.Methods(), slices.Collect(maps.Keys(policy.OfEtcd())))
	slices.Sort(methods)
	if diff := cmp.Diff(methods, slices.Sorted(maps.Keys(w.methods))); diff != "" {
		t.Errorf("methods with a policy (-) and of the member (+) differ:\n%s", diff)
	}
	for _, method := range policy.Methods() {
		p, _ := policy.Of(method)
		role := p.Role != nexusraft.AccessNone
		clients := p.Callers == pb.Callers_CALLERS_CLIENTS || p.Callers == pb.Callers_CALLERS_CLIENTS_AND_NODES
		if p.Callers == pb.Callers_CALLERS_UNSPECIFIED || clients != role {
			t.Errorf("%s is for %v, with the role %q", method, p.Callers, p.Role)
		}
	}
}

// callersWorld is a member that leads a cluster with a node of each kind, and a connection of each
// caller.
type callersWorld struct {
	t              *testing.T
	member, second *member
	methods        map[string]bool // of the member, and whether they are streams
	conns          map[string]*grpc.ClientConn
	ids            map[string]nexusraft.NodeID // of the callers that are nodes
}

func newCallersWorld(t *testing.T) *callersWorld {
	t.Helper()
	w := &callersWorld{
		t: t, methods: make(map[string]bool), conns: make(map[string]*grpc.ClientConn),
		ids: map[string]nexusraft.NodeID{"unknown": 7},
	}
	w.serve()
	w.fill()
	w.connect()
	return w
}

func (w *callersWorld) config(name string) node.Config {
	c := secureConfig(w.t, name)
	c.ServerOptions, c.Permissions, c.StateMachine = etcd.Options(), etcd.Permissions(), kv.StateMachine{}
	c.Answer = func(context.Context, nexusraft.ZoneID, []byte) ([]byte, error) { return nil, nil }
	return c
}

// serve founds the cluster, on a member with the services of the program.
func (w *callersWorld) serve() {
	var ahead atomic.Int64
	ahead.Store(int64(-500 * day)) // an authority that has signed certificates which have expired
	c := w.config("n1")
	c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	if _, err := node.Init(c); err != nil {
		w.t.Fatal(err)
	}
	ahead.Store(0)
	registered := make(chan *grpc.Server, 1)
	w.member = startServing(w.t, c, func(n *node.Node) func(grpc.ServiceRegistrar) {
		return func(r grpc.ServiceRegistrar) {
			etcd.Services(n)(r)
			registered <- r.(*grpc.Server)
		}
	})
	w.member.zone()
	waitRenewed(w.t, w.member.config.Advertise)
	for service, info := range (<-registered).GetServiceInfo() {
		for _, m := range info.Methods {
			w.methods["/"+service+"/"+m.Name] = m.IsClientStream || m.IsServerStream
		}
	}
}

// fill lets nodes and clients in. The nodes that call have stopped, so that a later life of theirs
// is taken for them.
func (w *callersWorld) fill() {
	c := w.config("n2")
	c.JoinToken = newToken(w.t, w.member, nexusraft.RoleMember)
	w.second = join(w.t, c, w.member)
	runWitness(w.t, witness.Config{
		Dir: w.t.TempDir(), ClusterTLS: true, JoinToken: newToken(w.t, w.member, nexusraft.RoleWitness),
		Join: []string{w.member.config.Advertise}, TickInterval: node.TestTick,
	})()
	w.ids["witness"], w.ids["member"] = witnessOf(w.t, w.member), w.second.node.ID()
	for _, name := range []string{"learner", "removed"} {
		c := w.config("n-" + name)
		c.JoinToken, c.Join = newToken(w.t, w.member, nexusraft.RoleMember), []string{w.member.config.Advertise}
		m := start(w.t, c)
		m.zone()
		w.ids[name] = m.node.ID()
		m.close()
	}
	removeNode(w.t, w.ids["removed"], w.member, w.second)
	w.member.grant("reader", nexusraft.AccessRead)
	w.member.grant("writer", nexusraft.AccessWrite)
	w.member.grant("revoked", nexusraft.AccessAdmin)
	eventually(w.t, "revoke a client", func() error {
		return w.member.node.Credentials().RevokeAccess(w.t.Context(), "revoked")
	})
}

// connect gives each caller its certificate.
func (w *callersWorld) connect() {
	ca, cluster, now := authorityOf(w.t, w.member), w.member.node.Cluster(), time.Now()
	self := pki.Subject{Cluster: cluster, Node: w.ids["member"]}
	show := func(name string, ca pki.Pair, s pki.Subject, then time.Time) {
		w.conns[name] = shownTo(w.t, w.member, certificateOf(w.t, ca, s, then))
	}
	for _, name := range []string{"removed", "unknown", "witness", "learner", "member"} {
		show(name, ca, pki.Subject{Cluster: cluster, Node: w.ids[name]}, now)
	}
	for _, name := range []string{"revoked", "reader", "writer", "admin"} {
		show(name, ca, pki.Subject{Cluster: cluster, Client: name}, now)
	}
	show("expired", ca, self, now.Add(-91*day))
	show("other cluster", ca, pki.Subject{Cluster: cluster + 1, Node: self.Node}, now)
	show("other authority", authorityOf(w.t, found(w.t, secureConfig(w.t, "x1"))), self, now)
	w.conns["stranger"] = shownTo(w.t, w.member, tls.Certificate{})
	for _, name := range callers[:8] { // those that are no nodes use the member's name
		w.ids[name] = w.ids["member"]
	}
}

// request is what a caller sends: its handshake, where a method begins with one.
func (w *callersWorld) request(name, method string) proto.Message {
	h := &pb.Hello{
		Protocol: transport.ProtocolVersion, ClusterId: uint64(w.member.node.Cluster()), NodeId: uint64(w.ids[name]),
		ToNodeId: uint64(w.member.node.ID()), Incarnation: 1 << 20, Boot: 1,
		Address: "127.0.0.1:1", Witness: name == "witness", Minor: transport.MinorVersion,
	}
	header := &pb.SnapshotHeader{Hello: h, Zone: 7}
	switch method {
	case pb.Cluster_Join_FullMethodName:
		return &pb.JoinRequest{Hello: h, Role: pb.Role_ROLE_MEMBER}
	case pb.Cluster_Renew_FullMethodName:
		request, _, err := pki.NewRequest()
		if err != nil {
			w.t.Fatal(err)
		}
		return &pb.RenewRequest{CertificateRequest: request}
	case pb.Cluster_Trust_FullMethodName:
		return &pb.TrustRequest{Hello: h}
	case pb.Cluster_HostZones_FullMethodName:
		return &pb.HostZonesRequest{Hello: h}
	case pb.RaftTransport_RequestVote_FullMethodName:
		return &pb.RequestVoteRequest{Hello: h}
	case pb.RaftTransport_Exchange_FullMethodName:
		return &pb.ExchangeRequest{Kind: &pb.ExchangeRequest_Hello{Hello: h}}
	case pb.RaftTransport_InstallSnapshot_FullMethodName:
		return &pb.InstallSnapshotRequest{Kind: &pb.InstallSnapshotRequest_Header{Header: header}}
	case pb.RaftTransport_SnapshotOffset_FullMethodName:
		return &pb.SnapshotOffsetRequest{Header: header}
	case pb.Zones_Propose_FullMethodName:
		return &pb.ProposeRequest{Hello: h, Zone: 7}
	case pb.Zones_AskLeader_FullMethodName:
		return &pb.AskLeaderRequest{Hello: h, Zone: uint64(nexusraft.RootZone)}
	case etcdserverpb.Watch_Watch_FullMethodName:
		return &etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{
			ProgressRequest: &etcdserverpb.WatchProgressRequest{},
		}}
	}
	return answeredAtOnce(method)
}

// answeredAtOnce is a request of a client that is answered at once: without a lease that there is not, or a name that
// is too long, these methods wait.
func answeredAtOnce(method string) proto.Message {
	m := &emptypb.Empty{}
	switch method {
	case "/v3lockpb.Lock/Lock", "/v3electionpb.Election/Campaign":
		m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 2, protowire.VarintType), 1))
	case "/v3electionpb.Election/Observe":
		name := protowire.AppendTag(nil, 1, protowire.BytesType)
		m.ProtoReflect().SetUnknown(protowire.AppendBytes(name, make([]byte, 8<<10)))
	}
	return m
}

// answerTo is where a method's answer is read.
func answerTo(method string) proto.Message {
	switch method {
	case pb.Cluster_Join_FullMethodName:
		return &pb.JoinResponse{}
	case pb.Cluster_Renew_FullMethodName:
		return &pb.RenewResponse{}
	case pb.Cluster_Trust_FullMethodName:
		return &pb.TrustResponse{}
	case pb.Cluster_HostZones_FullMethodName:
		return &pb.HostZonesResponse{}
	case pb.RaftTransport_RequestVote_FullMethodName:
		return &pb.RequestVoteResponse{}
	case pb.RaftTransport_InstallSnapshot_FullMethodName:
		return &pb.InstallSnapshotResponse{}
	case pb.RaftTransport_SnapshotOffset_FullMethodName:
		return &pb.SnapshotOffsetResponse{}
	case pb.Zones_Propose_FullMethodName:
		return &pb.ProposeResponse{}
	case pb.Zones_AskLeader_FullMethodName:
		return &pb.AskLeaderResponse{}
	}
	return &emptypb.Empty{}
}

// call calls a method and returns the mark of methodCallers for what came of it.
func (w *callersWorld) call(name, method string) string {
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	resp := answerTo(method)
	err := callOnce(ctx, w.conns[name], method, w.methods[method], w.request(name, method), resp)
	if status.Code(err) == codes.Unavailable { // a stranger's connection is closed after some refusals
		err = callOnce(ctx, w.conns[name], method, w.methods[method], w.request(name, method), resp)
	}
	if r, ok := resp.(interface{ GetError() *pb.Error }); ok && r.GetError() != nil {
		err = wire.ErrorFromProto(r.GetError())
	}
	refused := status.Code(err) == codes.FailedPrecondition || errors.Is(err, nexusraft.ErrRefused) ||
		errors.Is(err, nexusraft.ErrFenced) || errors.Is(err, nexusraft.ErrOverloaded) // not known yet
	switch {
	case status.Code(err) == codes.Unauthenticated:
		return "?"
	case status.Code(err) == codes.PermissionDenied:
		return "-"
	case refused && (policy.IsPublic(method) || policy.IsBetweenNodes(method)):
		return "x"
	case status.Code(err) == codes.Unavailable || status.Code(err) == codes.DeadlineExceeded:
		return err.Error()
	}
	return "+"
}

// callOnce sends one request and receives the first answer.
func callOnce(ctx context.Context, conn *grpc.ClientConn, method string, streams bool, req, resp proto.Message) error {
	if !streams {
		return conn.Invoke(ctx, method, req, resp)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	if err := errors.Join(stream.SendMsg(req), stream.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return stream.RecvMsg(resp)
}
