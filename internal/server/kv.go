package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/kv"
)

// copiesHeader is metadata of the answer to a write.
const copiesHeader = "nexus-copies"

// defaultTimeout bounds a request that comes without a deadline.
const defaultTimeout = 10 * time.Second

// Identity is what a node calls itself in the header of every answer.
type Identity struct {
	Cluster nexusraft.ClusterID
	Node    nexusraft.NodeID
}

// KV is etcd's KV service on the zones of one node: Range, Put and DeleteRange.
type KV struct {
	etcdserverpb.UnimplementedKVServer

	zones    Zones
	identity func() Identity
}

// NewKV returns the service on zones. Identity is asked for each answer, because a node
// that joins learns its cluster late; it must not wait.
func NewKV(zones Zones, identity func() Identity) *KV {
	return &KV{zones: zones, identity: identity}
}

// Register adds the service to a gRPC server.
func (s *KV) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(only(etcdserverpb.KV_ServiceDesc, "Range", "Put", "DeleteRange"), s)
}

// Range implements etcdserverpb.KVServer. With serializable it is answered from this
// node's state alone, otherwise it is linearizable.
func (s *KV) Range(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	resp, err := s.rangeOf(ctx, req)
	if err != nil {
		return nil, toStatus(err)
	}
	return resp, nil
}

func (s *KV) rangeOf(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	if err := kv.CheckRange(req); err != nil {
		return nil, err
	}
	z, err := s.zone(ctx)
	if err != nil {
		return nil, err
	}
	read := z.Read
	if req.Serializable {
		read = z.ReadLocal
	}
	var resp *etcdserverpb.RangeResponse
	err = read(ctx, func(r nexusraft.Reader) (err error) {
		resp, err = kv.Range(r, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	s.complete(resp.Header, z)
	return resp, nil
}

// Put implements etcdserverpb.KVServer.
func (s *KV) Put(ctx context.Context, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	command, err := kv.EncodePut(req)
	if err != nil {
		return nil, toStatus(err)
	}
	return write(ctx, s, command, kv.DecodePutResult)
}

// DeleteRange implements etcdserverpb.KVServer.
func (s *KV) DeleteRange(ctx context.Context, req *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error) {
	command, err := kv.EncodeDeleteRange(req)
	if err != nil {
		return nil, toStatus(err)
	}
	return write(ctx, s, command, kv.DecodeDeleteRangeResult)
}

// write proposes a command and makes its result the answer.
func write[R interface {
	comparable
	GetHeader() *etcdserverpb.ResponseHeader
}](ctx context.Context, s *KV, command []byte, decode func([]byte) (R, error)) (R, error) {
	var none R
	ctx, cancel := bounded(ctx)
	defer cancel()
	z, err := s.zone(ctx)
	if err != nil {
		return none, toStatus(err)
	}
	result, err := z.Propose(ctx, nexusraft.RequestID{}, command)
	if err != nil {
		return none, toStatus(proposeError(err))
	}
	resp, err := decode(result.Data)
	if err == nil && resp.GetHeader() == nil {
		err = fmt.Errorf("the result has no header: %w", nexusraft.ErrCorrupt)
	}
	if errors.Is(err, nexusraft.ErrCorrupt) {
		err = fmt.Errorf("%w: committed, but the answer is lost: %w", nexusraft.ErrUncertain, err)
	}
	if err != nil {
		return none, toStatus(err)
	}
	if err := grpc.SetHeader(ctx, metadata.Pairs(copiesHeader, strconv.Itoa(result.Copies))); err != nil {
		return none, toStatus(fmt.Errorf("%w: answer a write: %w", nexusraft.ErrUncertain, err))
	}
	s.complete(resp.GetHeader(), z)
	return resp, nil
}

// zone returns the zone that the request's metadata names.
func (s *KV) zone(ctx context.Context) (Zone, error) {
	id, err := zoneOf(ctx)
	if err != nil {
		return nil, err
	}
	return s.zones.Zone(id)
}

// zoneOf returns the zone that a request's metadata names.
func zoneOf(ctx context.Context) (nexusraft.ZoneID, error) {
	id, err := wire.ZoneOf(ctx)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errBadMetadata, err)
	}
	return id, nil
}

// complete fills in what the state machine does not know.
func (s *KV) complete(h *etcdserverpb.ResponseHeader, z Zone) {
	id := s.identity()
	h.ClusterId, h.MemberId, h.RaftTerm = uint64(id.Cluster), uint64(id.Node), uint64(z.Term())
}

// bounded returns ctx with a deadline if it has none.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, defaultTimeout)
}
