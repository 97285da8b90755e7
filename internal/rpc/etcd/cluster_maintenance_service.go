package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/kv"
)

// etcdVersion is the version of etcd whose API the services speak; etcd's clients tell from
// it what they may use.
const etcdVersion = "3.7.0"

// Node is what a node knows of itself. Its methods may be called from any number of
// goroutines.
type Node interface {
	// Status returns the node's view of itself and of its zones.
	Status(ctx context.Context) (nexusraft.NodeStatus, error)

	// Encrypted reports whether the node speaks TLS, as then all nodes of the cluster do.
	Encrypted() bool

	// Room returns nil, or nexusraft.ErrDiskFull where the node has no room for writes.
	Room() error
}

// Operator is what etcd's operators read, of etcd's services Maintenance and Cluster:
// Status, the list of alarms, checksums, and MemberList. A member's ID is its NodeID.
type Operator struct {
	etcdserverpb.UnimplementedMaintenanceServer
	etcdserverpb.UnimplementedClusterServer

	keys    *KV
	node    Node
	summing chan struct{} // has room for the one checksum that is computed at a time: it reads a whole state
}

// NewOperator returns the services on a node and the zones of its KV service.
func NewOperator(keys *KV, node Node) *Operator {
	return &Operator{keys: keys, node: node, summing: make(chan struct{}, 1)}
}

// Register adds the services to a gRPC server.
func (s *Operator) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(only(etcdserverpb.Maintenance_ServiceDesc, "Status", "Alarm", "Hash", "HashKV"), s)
	r.RegisterService(only(etcdserverpb.Cluster_ServiceDesc, "MemberList"), s)
}

// view is a node's and a zone's status at one time.
type view struct {
	node     nexusraft.NodeStatus
	zone     nexusraft.ZoneStatus // of no replica while the zone's worker does not answer
	revision int64
}

func (v view) header() *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{
		ClusterId: uint64(v.node.Cluster), MemberId: uint64(v.node.Node),
		RaftTerm: uint64(v.zone.Term), Revision: v.revision,
	}
}

// Status implements etcdserverpb.MaintenanceServer. The database is the node's whole
// directory, all zones together.
func (s *Operator) Status(ctx context.Context, _ *etcdserverpb.StatusRequest) (*etcdserverpb.StatusResponse, error) {
	v, err := s.look(ctx, false)
	if err != nil {
		return nil, toStatus(err)
	}
	leader, _ := v.zone.Membership.Replica(v.zone.Leader)
	size := max(v.node.DiskBytes, 1) // etcdctl divides by it
	resp := &etcdserverpb.StatusResponse{
		Header:           v.header(),
		Version:          etcdVersion,
		DbSize:           size,
		DbSizeInUse:      size,
		Leader:           uint64(leader.Node),
		RaftIndex:        uint64(v.zone.Commit),
		RaftTerm:         uint64(v.zone.Term),
		RaftAppliedIndex: uint64(v.zone.Applied),
		IsLearner:        v.zone.Role == nexusraft.RoleLearner,
	}
	if v.node.Problem != "" {
		resp.Errors = append(resp.Errors, v.node.Problem)
	}
	if err := s.node.Room(); err != nil {
		resp.Errors = append(resp.Errors, err.Error())
	}
	return resp, nil
}

// Alarm implements etcdserverpb.MaintenanceServer as far as it only reads: a node raises
// NOSPACE for itself while it has no room, and no client can raise or disarm an alarm.
func (s *Operator) Alarm(ctx context.Context, req *etcdserverpb.AlarmRequest) (*etcdserverpb.AlarmResponse, error) {
	if req.Action != etcdserverpb.AlarmRequest_GET {
		return nil, notOffered(etcdserverpb.Maintenance_Alarm_FullMethodName + " with action " + req.Action.String())
	}
	v, err := s.look(ctx, false)
	if err != nil {
		return nil, toStatus(err)
	}
	resp := &etcdserverpb.AlarmResponse{Header: v.header()}
	asked := (req.MemberID == 0 || req.MemberID == uint64(v.node.Node)) &&
		(req.Alarm == etcdserverpb.AlarmType_NONE || req.Alarm == etcdserverpb.AlarmType_NOSPACE)
	if asked && errors.Is(s.node.Room(), nexusraft.ErrDiskFull) {
		resp.Alarms = []*etcdserverpb.AlarmMember{{MemberID: uint64(v.node.Node), Alarm: etcdserverpb.AlarmType_NOSPACE}}
	}
	return resp, nil
}

// MemberList implements etcdserverpb.ClusterServer: the replicas of the request's zone.
// Witnesses are among them, with an address for peers and none for clients, so that a
// client that follows the list never asks one for data.
func (s *Operator) MemberList(
	ctx context.Context, req *etcdserverpb.MemberListRequest,
) (*etcdserverpb.MemberListResponse, error) {
	v, err := s.look(ctx, req.Linearizable)
	if err != nil {
		return nil, toStatus(err)
	}
	if v.zone.Replica == 0 {
		return nil, toStatus(fmt.Errorf("%w: list the members: %s", nexusraft.ErrNoQuorum, v.node.Problem))
	}
	resp := &etcdserverpb.MemberListResponse{Header: v.header()}
	for _, m := range v.zone.Membership.Members {
		resp.Members = append(resp.Members, newMember(m, s.scheme()))
	}
	return resp, nil
}

// scheme is that of the members' addresses, however this call has come.
func (s *Operator) scheme() string {
	if s.node.Encrypted() {
		return "https://"
	}
	return "http://"
}

func newMember(m nexusraft.Member, scheme string) *etcdserverpb.Member {
	out := &etcdserverpb.Member{ID: uint64(m.Node), Name: m.Name, IsLearner: m.Role == nexusraft.RoleLearner}
	if out.Name == "" {
		out.Name = m.Node.String() // etcd's clients take one without a name for not started
	}
	out.PeerURLs = []string{scheme + m.Address}
	if m.Role.Full() {
		out.ClientURLs = out.PeerURLs
	}
	return out
}

// look returns what there is to see of the zone that the request's metadata names; if
// linearizable, not older than the request.
func (s *Operator) look(ctx context.Context, linearizable bool) (view, error) {
	ctx, cancel := rpc.Bounded(ctx)
	defer cancel()
	id, err := zoneOf(ctx)
	if err != nil {
		return view{}, err
	}
	z, err := s.keys.zones.Zone(id)
	if err != nil {
		return view{}, err
	}
	read := z.ReadLocal
	if linearizable {
		read = z.Read
	}
	var v view
	err = read(ctx, func(r nexusraft.Reader) error {
		resp, err := kv.Range(r, &etcdserverpb.RangeRequest{Key: []byte{0}, CountOnly: true}) // for its revision
		v.revision = resp.GetHeader().GetRevision()
		return err
	})
	if err != nil {
		return view{}, err
	}
	if v.node, err = s.node.Status(ctx); err != nil {
		return view{}, err
	}
	for _, status := range v.node.Zones {
		if status.Zone == id {
			v.zone = status
		}
	}
	if v.zone.Term == 0 {
		v.zone.Term = z.Term()
	}
	return v, nil
}
