package etcd

import (
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

// KV is etcd's KV service on the zones of one node: Range, Put and DeleteRange.
type KV struct {
	etcdserverpb.UnimplementedKVServer

	zones    Zones
	identity func() Identity
	turns    turns // of long scans
}

// NewKV returns the service on zones. Identity is asked for each answer, because a node
// that joins learns its cluster late; it must not wait.
func NewKV(zones Zones, identity func() Identity) *KV {
	return &KV{zones: zones, identity: identity, turns: newTurns()}
}

// Register adds the service to a gRPC server.
func (s *KV) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(only(etcdserverpb.KV_ServiceDesc, "Range", "Put", "DeleteRange"), s)
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
	resp, err := s.readWithin(ctx, read, req, answerSteps[0])
	for _, step := range answerSteps[1:] {
		if !errors.Is(err, kv.ErrResponseTooLarge) {
			break
		}
		if err := budget.Reserve(ctx, 2*int64(step)); err != nil { // as pairs, and encoded
			return nil, rpc.OverBudget(err)
		}
		resp, err = s.readWithin(ctx, z.ReadLocal, req, step) // confirmed before, so at least as new as asked for
	}
	if err != nil {
		return nil, err
	}
	budget.ShrinkAnswer(ctx, 2*int64(proto.Size(resp)))
	s.complete(resp.Header, z)
	return resp, nil
}

// answerSteps are how large a Range's answer may become before it is begun anew with more memory
// reserved: small ones reserve nothing, and no call waits for memory while it holds some.
var answerSteps = [...]int{budget.AnswerBytesFree, 2 << 20, kv.MaxRangeBytes}

type readFunc func(context.Context, func(nexusraft.Reader) error) error

// readWithin answers from one read, up to some bytes, or returns kv.ErrResponseTooLarge.
func (s *KV) readWithin(
	ctx context.Context, read readFunc, req *etcdserverpb.RangeRequest, bytes int,
) (resp *etcdserverpb.RangeResponse, err error) {
	page := wire.WantsPage(ctx)
	err = read(ctx, func(r nexusraft.Reader) (err error) {
		resp, err = kv.Within(abortable{r, ctx, s.turns}, req, page, bytes)
		return err
	})
	return resp, err
}

// Put implements etcdserverpb.KVServer.
func (s *KV) Put(ctx context.Context, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	command, err := kv.EncodePut(req)
	if err != nil {
		return nil, toStatus(err)
	}
	if !req.PrevKv && !req.IgnoreValue {
		return write(ctx, s, command, kv.DecodePutResult)
	}
	r := reservation{effects: kv.MaxRequestBytes}
	if req.IgnoreValue {
		r.effects = budget.SameValueBytes
	}
	if req.PrevKv {
		r.answer = kv.MaxRequestBytes
	}
	ctx, done, err := r.take(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	defer done()
	return write(ctx, s, command, kv.DecodePutResult)
}

// DeleteRange implements etcdserverpb.KVServer.
func (s *KV) DeleteRange(
	ctx context.Context, req *etcdserverpb.DeleteRangeRequest,
) (*etcdserverpb.DeleteRangeResponse, error) {
	command, err := kv.EncodeDeleteRange(req)
	if err != nil {
		return nil, toStatus(err)
	}
	if err := s.checkDeleteSize(ctx, req); err != nil {
		return nil, toStatus(err)
	}
	var r reservation
	if req.PrevKv {
		r = reservation{answer: kv.MaxPrevKVBytes, effects: kv.MaxPrevKVBytes}
	}
	if len(req.RangeEnd) > 0 {
		r.effects = budget.DeleteRangeBytes
	}
	held, done, err := r.take(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	defer done()
	return write(held, s, command, kv.DecodeDeleteRangeResult)
}

// checkDeleteSize refuses what would take too long to apply, by this replica's state, and a delete
// whose caller has gone before that is known. It leaves every other error to the proposal.
func (s *KV) checkDeleteSize(ctx context.Context, req *etcdserverpb.DeleteRangeRequest) error {
	if len(req.RangeEnd) == 0 { // one key
		return nil
	}
	z, err := s.zone(ctx)
	if err != nil {
		return err
	}
	err = z.ReadLocal(ctx, func(r nexusraft.Reader) error {
		return kv.CheckDeleteCost(abortable{r, ctx, s.turns}, req)
	})
	switch {
	case errors.Is(err, kv.ErrTooManyKeys):
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
	var none R
	ctx, cancel := rpc.Bounded(ctx)
	defer cancel()
	z, err := s.zone(ctx)
	if err != nil {
		return none, toStatus(err)
	}
	request, err := wire.RequestOf(ctx)
	if err != nil {
		return none, toStatus(fmt.Errorf("%w: %w", errBadSession, err))
	}
	result, err := z.ProposeOnce(ctx, request, command)
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
