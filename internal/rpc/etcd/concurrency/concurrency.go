package concurrency

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/feed"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd/concurrency/v3electionpb"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd/concurrency/v3lockpb"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/kv"
)

// maxWaiting is how many calls of a node may wait at a time, of all callers together: a call without a deadline waits
// for as long as it has to.
const maxWaiting = 10_000

// KeyCalls are etcd's KV service, with gRPC statuses as errors. Its methods may be called from many goroutines.
type KeyCalls interface {
	Range(context.Context, *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error)
	DeleteRange(context.Context, *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error)
	Txn(context.Context, *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error)
}

// LeaseCalls make and revoke leases for callers without one, with gRPC statuses as errors.
type LeaseCalls interface {
	LeaseGrant(context.Context, *etcdserverpb.LeaseGrantRequest) (*etcdserverpb.LeaseGrantResponse, error)
	LeaseRevoke(context.Context, *etcdserverpb.LeaseRevokeRequest) (*etcdserverpb.LeaseRevokeResponse, error)
}

// ChangeReader is feed.Feeds.
type ChangeReader interface {
	Next(ctx context.Context, zone nexusraft.ZoneID, after int64, w feed.Want) (feed.Batch, error)
}

// Options are what a Concurrency is over.
type Options struct {
	Keys    KeyCalls
	Leases  LeaseCalls
	Changes ChangeReader

	// Status returns the gRPC status that an error is answered with.
	Status func(error) error

	// Header returns the header of an answer about a zone at a revision.
	Header func(zone nexusraft.ZoneID, revision int64) *etcdserverpb.ResponseHeader
}

// Concurrency is etcd's Lock and Election. Its methods may be called from many goroutines.
type Concurrency struct {
	v3lockpb.UnimplementedLockServer
	v3electionpb.UnimplementedElectionServer

	o       Options
	bells   bells
	waiting atomic.Int64
}

// New returns the services.
func New(o Options) *Concurrency {
	return &Concurrency{o: o, bells: bells{changes: o.Changes, zones: make(map[nexusraft.ZoneID]*bell)}}
}

// Register adds the services to a gRPC server.
func (s *Concurrency) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(&v3lockpb.Lock_ServiceDesc, s)
	r.RegisterService(&v3electionpb.Election_ServiceDesc, s)
}

// What etcd answers in its own words, and with this code: its clients know them by the text.
var (
	errExpired   = status.Error(codes.Unknown, "mutex: session is expired")
	errNotLeader = status.Error(codes.Unknown, "election: not leader")
	errNoLeader  = status.Error(codes.Unknown, "election: no leader")
	errNoKey     = status.Error(codes.Unknown, `"leader" field must be provided`)
)

// enter counts a call that may wait, for which leave must follow.
func (s *Concurrency) enter() (leave func(), err error) {
	if s.waiting.Add(1) > maxWaiting {
		s.waiting.Add(-1)
		return nil, s.o.Status(fmt.Errorf("%w: %d calls of Lock, Campaign and Observe wait at this node, as many as may",
			nexusraft.ErrOverloaded, maxWaiting))
	}
	return func() { s.waiting.Add(-1) }, nil
}

// inside returns the context of the calls that a call of ours makes, and its zone. They are of the same caller, and no
// part of its session: each would be answered as the first. Their headers are no part of our answer.
func (s *Concurrency) inside(ctx context.Context) (context.Context, nexusraft.ZoneID, error) {
	md := metadata.MD{}
	if zones := metadata.ValueFromIncomingContext(ctx, wire.ZoneHeader); len(zones) > 0 {
		md[wire.ZoneHeader] = zones
	}
	ctx = grpc.NewContextWithServerTransportStream(metadata.NewIncomingContext(ctx, md), silent{})
	zone, err := wire.ZoneOf(ctx)
	if err != nil {
		return nil, 0, status.Errorf(codes.InvalidArgument, "nexusraft: %v", err)
	}
	return ctx, zone, nil
}

// silent takes headers and drops them.
type silent struct{}

func (silent) Method() string               { return "" }
func (silent) SetHeader(metadata.MD) error  { return nil }
func (silent) SendHeader(metadata.MD) error { return nil }
func (silent) SetTrailer(metadata.MD) error { return nil }

// under returns the range of the keys of a name.
func under(name []byte) (start, end []byte) {
	start = append(slices.Clone(name), '/')
	return start, append(slices.Clone(name), '/'+1)
}

// checkName refuses a name under which there can be no key: to wait for one would be for ever.
func (s *Concurrency) checkName(name []byte) error {
	if most := kv.MaxKeyBytes - len("/1"); len(name) > most {
		return s.o.Status(fmt.Errorf("%w: a name of %d bytes, limit %d", nexusraft.ErrTooLarge, len(name), most))
	}
	return nil
}

// oldest asks for the oldest key of a name, without its value.
func oldest(name []byte) *etcdserverpb.RangeRequest {
	start, end := under(name)
	return &etcdserverpb.RangeRequest{
		Key: start, RangeEnd: end, Limit: 1, KeysOnly: true,
		SortTarget: etcdserverpb.RangeRequest_CREATE, SortOrder: etcdserverpb.RangeRequest_ASCEND,
	}
}

func opRange(r *etcdserverpb.RangeRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: r}}
}

func opPut(r *etcdserverpb.PutRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: r}}
}

func opDelete(key []byte) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: key},
	}}
}

// createdAt compares the revision at which a key was created.
func createdAt(key []byte, rev int64) *etcdserverpb.Compare {
	return &etcdserverpb.Compare{
		Key: key, Target: etcdserverpb.Compare_CREATE, Result: etcdserverpb.Compare_EQUAL,
		TargetUnion: &etcdserverpb.Compare_CreateRevision{CreateRevision: rev},
	}
}

// noneBefore compares the revisions at which the keys of a name were created: none was before rev.
func noneBefore(name []byte, rev int64) *etcdserverpb.Compare {
	start, end := under(name)
	return &etcdserverpb.Compare{
		Key: start, RangeEnd: end, Target: etcdserverpb.Compare_CREATE, Result: etcdserverpb.Compare_GREATER,
		TargetUnion: &etcdserverpb.Compare_CreateRevision{CreateRevision: rev - 1},
	}
}

// writtenAt compares the revision at which a key was last written.
func writtenAt(key []byte, rev int64) *etcdserverpb.Compare {
	return &etcdserverpb.Compare{
		Key: key, Target: etcdserverpb.Compare_MOD, Result: etcdserverpb.Compare_EQUAL,
		TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: rev},
	}
}
