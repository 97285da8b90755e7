package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/kv"
)

// copiesHeader is metadata of the answer to a write.
const copiesHeader = "nexus-copies"

// Identity is what a node calls itself in the header of every answer.
type Identity struct {
	Cluster nexusraft.ClusterID
	Node    nexusraft.NodeID
}

// KV is etcd's KV service on the zones of one node.
type KV struct {
	etcdserverpb.UnimplementedKVServer

	zones    Zones
	identity func() Identity
	config   Config
	turns    turns // of long scans
}

// NewKV returns the service on zones. Identity is asked for each answer, because a node
// that joins learns its cluster late; it must not wait.
func NewKV(zones Zones, identity func() Identity, c Config) *KV {
	return &KV{zones: zones, identity: identity, config: c.withDefaults(), turns: newTurns()}
}

// Register adds the service to a gRPC server.
func (s *KV) Register(r grpc.ServiceRegistrar) { r.RegisterService(&etcdserverpb.KV_ServiceDesc, s) }

// checkSize refuses a request over the limit, as etcd does.
func (s *KV) checkSize(req proto.Message) error {
	if proto.Size(req) > s.config.MaxRequestBytes {
		return kv.ErrRequestTooLarge
	}
	return nil
}

// Range implements etcdserverpb.KVServer. With serializable it is answered from this
// node's state alone, otherwise it is linearizable. Its count is exact, and costs a walk over the
// range; with the metadata nexus-page it is answered as kv.Page does.
func (s *KV) Range(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	ctx, cancel := rpc.Bounded(ctx)
	defer cancel()
	resp, err := s.rangeOf(ctx, req)
	if err != nil {
		return nil, toStatus(err)
	}
	return resp, nil
}

func (s *KV) rangeOf(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	if err := cmp.Or(s.checkSize(req), kv.CheckRange(req)); err != nil {
		return nil, err
	}
	z, err := s.zone(ctx)
	if err != nil {
		return nil, err
	}
	page := wire.WantsPage(ctx)
	resp, err := answer(ctx, s, z, readOf(z, req.Serializable), question[*etcdserverpb.RangeResponse]{
		past: isPast(req),
		within: func(r nexusraft.Reader, bytes int) (*etcdserverpb.RangeResponse, error) {
			return kv.Within(r, req, page, bytes)
		},
		measure: func(r nexusraft.Reader) (int, error) { return kv.Measure(r, req) },
	})
	if err != nil {
		return nil, err
	}
	s.complete(resp.Header, z)
	return resp, nil
}

// Put implements etcdserverpb.KVServer.
func (s *KV) Put(ctx context.Context, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if err := s.checkSize(req); err != nil {
		return nil, toStatus(err)
	}
	command, err := kv.EncodePut(req)
	if err != nil {
		return nil, toStatus(err)
	}
	held, done, err := reservationOfPut(req).take(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	defer done()
	return write(held, s, command, kv.DecodePutResult)
}

func reservationOfPut(req *etcdserverpb.PutRequest) (r reservation) {
	if req.GetPrevKv() {
		r = reservation{answer: kv.MaxRequestBytes, effects: kv.MaxRequestBytes}
	}
	if req.GetIgnoreValue() {
		r.effects = budget.SameValueBytes
	}
	return r
}

// DeleteRange implements etcdserverpb.KVServer.
func (s *KV) DeleteRange(
	ctx context.Context, req *etcdserverpb.DeleteRangeRequest,
) (*etcdserverpb.DeleteRangeResponse, error) {
	if err := s.checkSize(req); err != nil {
		return nil, toStatus(err)
	}
	command, err := kv.EncodeDeleteRange(req)
	if err != nil {
		return nil, toStatus(err)
	}
	if err := s.checkDeleteSize(ctx, req); err != nil {
		return nil, toStatus(err)
	}
	held, done, err := reservationOfDelete(req).take(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	defer done()
	return write(held, s, command, kv.DecodeDeleteRangeResult)
}

func reservationOfDelete(req *etcdserverpb.DeleteRangeRequest) (r reservation) {
	if req.GetPrevKv() {
		r = reservation{answer: kv.MaxPrevKVBytes, effects: kv.MaxPrevKVBytes}
	}
	if len(req.GetRangeEnd()) > 0 {
		r.effects = budget.DeleteRangeBytes
	}
	return r
}

// checkDeleteSize refuses what would take too long to apply.
func (s *KV) checkDeleteSize(ctx context.Context, req *etcdserverpb.DeleteRangeRequest) error {
	if len(req.RangeEnd) == 0 { // one key
		return nil
	}
	return s.checkCost(ctx, func(r nexusraft.Reader) error { return kv.CheckDeleteCost(r, req) })
}

// checkCost returns why a check of this replica's state finds a write too large (nexusraft.ErrTooLarge), and refuses
// one whose caller has gone before that is known. It leaves every other error to the proposal.
func (s *KV) checkCost(ctx context.Context, check func(nexusraft.Reader) error) error {
	z, err := s.zone(ctx)
	if err != nil {
		return err
	}
	err = z.ReadLocal(ctx, func(r nexusraft.Reader) error { return check(abortable{r, ctx, s.turns}) })
	switch {
	case errors.Is(err, nexusraft.ErrTooLarge):
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("%w: nothing was written: %w", nexusraft.ErrOverloaded, context.Cause(ctx))
	}
	return nil
}

// reservation is what a write takes that is small and makes as much as is there, in bytes.
type reservation struct {
	answer  int64 // what was there, as it goes to the caller
	effects int64 // what is made of it when the write is applied (I15)
}

// take takes it, for what done must follow. Nothing is written if that fails, and no write is
// answered by a context's own error.
//
// The context that it returns does not end with the caller's. The write is applied whether its
// caller waits or not, and holds what it has taken until then: otherwise a caller that gives up at
// once could have any number of writes under way.
func (r reservation) take(ctx context.Context) (held context.Context, done func(), err error) {
	if r.answer > 0 {
		err = budget.Reserve(ctx, 2*r.answer) // as the result, and encoded
	}
	if err == nil {
		done, err = budget.TakeEffects(ctx, r.effects)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: nothing was written: %w", nexusraft.ErrOverloaded, err)
	}
	if r == (reservation{}) {
		return ctx, done, nil
	}
	return context.WithoutCancel(ctx), done, nil
}

// write proposes a command and makes its result the answer.
func write[R interface {
	comparable
	GetHeader() *etcdserverpb.ResponseHeader
}](ctx context.Context, s *KV, command []byte, decode func([]byte) (R, error)) (R, error) {
	resp, _, err := writeAt(ctx, s, command, decode)
	return resp, err
}

// writeAt is write that says at which index the command was applied.
func writeAt[R interface {
	comparable
	GetHeader() *etcdserverpb.ResponseHeader
}](ctx context.Context, s *KV, command []byte, decode func([]byte) (R, error)) (R, nexusraft.Index, error) {
	var none R
	ctx, cancel := rpc.Bounded(ctx)
	defer cancel()
	z, err := s.zone(ctx)
	if err != nil {
		return none, 0, toStatus(err)
	}
	request, err := wire.RequestOf(ctx)
	if err != nil {
		return none, 0, toStatus(fmt.Errorf("%w: %w", errBadSession, err))
	}
	result, err := z.ProposeOnce(ctx, request, command)
	if err != nil {
		return none, 0, toStatus(proposeError(err))
	}
	resp, err := decode(result.Data)
	if err == nil && resp.GetHeader() == nil {
		err = fmt.Errorf("the result has no header: %w", nexusraft.ErrCorrupt)
	}
	if errors.Is(err, nexusraft.ErrCorrupt) {
		err = fmt.Errorf("%w: committed, but the answer is lost: %w", nexusraft.ErrUncertain, err)
	}
	if err != nil {
		return none, 0, toStatus(err)
	}
	if err := grpc.SetHeader(ctx, metadata.Pairs(copiesHeader, strconv.Itoa(result.Copies))); err != nil {
		return none, 0, toStatus(fmt.Errorf("%w: answer a write: %w", nexusraft.ErrUncertain, err))
	}
	s.complete(resp.GetHeader(), z)
	return resp, result.Index, nil
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

// bareHeader returns a header that says nothing of a zone.
func (s *KV) bareHeader() *etcdserverpb.ResponseHeader {
	id := s.identity()
	return &etcdserverpb.ResponseHeader{ClusterId: uint64(id.Cluster), MemberId: uint64(id.Node)}
}

// complete fills in what the state machine does not know.
func (s *KV) complete(h *etcdserverpb.ResponseHeader, z Zone) {
	id := s.identity()
	h.ClusterId, h.MemberId, h.RaftTerm = uint64(id.Cluster), uint64(id.Node), uint64(z.Term())
}
