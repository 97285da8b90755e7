package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// stepLimit bounds one request. A request that takes longer is no outcome.
const stepLimit = 10 * time.Second

// outcome is what a request came to: an answer or a gRPC status.
type outcome struct {
	answer proto.Message
	code   codes.Code
	text   string
}

func (o outcome) String() string {
	if o.answer == nil {
		return fmt.Sprintf("%v: %s", o.code, o.text)
	}
	return prototext.MarshalOptions{}.Format(o.answer)
}

// passing says whether the outcome is one of the moment and says nothing about the request.
func (o outcome) passing() bool {
	return slices.Contains([]codes.Code{
		codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown, codes.ResourceExhausted,
	}, o.code)
}

// store is an etcd or a cluster of ours, by plain gRPC: etcd's client refuses by itself much of what
// the servers shall refuse, and repeats.
type store struct {
	name    string
	ours    bool
	members []*grpc.ClientConn // one or two
	current int                // the member that certainly has the last write; −1 for all
	// plant changes an outcome, for tests of the comparison.
	plant func(s step, o *outcome)
}

func newStore(name string, ours bool, addresses ...string) (*store, error) {
	st := &store{name: name, ours: ours, current: -1}
	for _, address := range addresses {
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
		if err != nil {
			st.close()
			return nil, err
		}
		st.members = append(st.members, conn)
	}
	return st, nil
}

func (st *store) close() {
	for _, conn := range st.members {
		conn.Close()
	}
}

// empty removes all keys and, if the kinds have them, leases and the past, and returns the revision that
// is origin now.
func (st *store) empty(ctx context.Context, k kinds) (base int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	if k.lease {
		if err := revokeAll(ctx, st.members[0]); err != nil {
			return 0, err
		}
	}
	kv := etcdserverpb.NewKVClient(st.members[0])
	st.current = 0
	// There is something to delete always, so that origin is always the revision of a delete.
	if _, err := kv.Put(ctx, &etcdserverpb.PutRequest{Key: []byte("last")}); err != nil {
		return 0, err
	}
	all := []byte{0}
	gone, err := kv.DeleteRange(ctx, &etcdserverpb.DeleteRangeRequest{Key: all, RangeEnd: all})
	if err != nil {
		return 0, err
	}
	base = gone.Header.Revision
	if k.compact {
		_, err = kv.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: base})
	}
	return base, err
}

// play plays a sequence from an empty store on and returns an outcome for each step; an error if some
// outcome is one of the moment.
func (st *store) play(ctx context.Context, steps []step, k kinds) ([]outcome, error) {
	base, err := st.empty(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("%s: empty the store: %w", st.name, err)
	}
	judge := judge{ours: st.ours, hashes: hashes{}}
	if k.compact {
		judge.compacted = origin
	}
	var outcomes []outcome
	var passing error
	for _, s := range steps {
		o := st.do(ctx, s, base)
		if o.passing() && passing == nil {
			passing = fmt.Errorf("%s: %v: %v", st.name, s, o)
		}
		judge.settle(s, &o)
		if st.plant != nil {
			st.plant(s, &o)
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, passing
}

// do asks one member and returns the outcome with revisions that count from origin.
func (st *store) do(ctx context.Context, s step, base int64) outcome {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	member := s.member % len(st.members)
	req := s.absolute(base)
	if err := st.catchUp(ctx, member, req); err != nil {
		return failed(err)
	}
	answer, err := call(ctx, st.members[member], s.method, req)
	switch req.(type) {
	case *etcdserverpb.RangeRequest, *etcdserverpb.HashKVRequest:
	default:
		st.current = -1 // a write: nobody need have applied it but the leader
	}
	if err != nil {
		return failed(err)
	}
	if err := checkHeader(answer); err != nil {
		return outcome{code: codes.DataLoss, text: err.Error()}
	}
	relative(answer, base)
	return outcome{answer: answer}
}

func failed(err error) outcome {
	return outcome{code: status.Code(err), text: status.Convert(err).Message()}
}

// catchUp lets the member apply what was written before a request that it answers from its own state.
func (st *store) catchUp(ctx context.Context, member int, req proto.Message) error {
	if st.current == member || len(st.members) == 1 || !readsOwnState(req) {
		return nil
	}
	probe := &etcdserverpb.RangeRequest{Key: []byte("x"), CountOnly: true}
	_, err := etcdserverpb.NewKVClient(st.members[member]).Range(ctx, probe)
	if err == nil {
		st.current = member
	}
	return err
}

// readsOwnState says whether a member may answer from what it has applied.
func readsOwnState(req proto.Message) bool {
	switch r := req.(type) {
	case *etcdserverpb.RangeRequest:
		return r.Serializable
	case *etcdserverpb.TxnRequest, *etcdserverpb.HashKVRequest, *etcdserverpb.LeaseKeepAliveRequest,
		*etcdserverpb.LeaseTimeToLiveRequest, *etcdserverpb.LeaseLeasesRequest:
		return true
	}
	return false
}

// call sends one request.
func call(ctx context.Context, conn *grpc.ClientConn, method string, req proto.Message) (proto.Message, error) {
	kv := etcdserverpb.NewKVClient(conn)
	switch r := req.(type) {
	case *etcdserverpb.RangeRequest:
		if method == "RangeStream" {
			return rangeStream(ctx, kv, r)
		}
		return orNil(kv.Range(ctx, r))
	case *etcdserverpb.PutRequest:
		return orNil(kv.Put(ctx, r))
	case *etcdserverpb.DeleteRangeRequest:
		return orNil(kv.DeleteRange(ctx, r))
	case *etcdserverpb.TxnRequest:
		return orNil(kv.Txn(ctx, r))
	case *etcdserverpb.CompactionRequest:
		return orNil(kv.Compact(ctx, r))
	case *etcdserverpb.HashKVRequest:
		return orNil(etcdserverpb.NewMaintenanceClient(conn).HashKV(ctx, r))
	}
	if answer, known, err := callLease(ctx, conn, req); known {
		return answer, err
	}
	return nil, fmt.Errorf("no call for %T", req)
}

func orNil[M proto.Message](m M, err error) (proto.Message, error) {
	if err != nil {
		return nil, err
	}
	return m, nil
}

// rangeStream returns the chunks as one answer. Where they are cut is not compared, but what only the
// last one may have is.
func rangeStream(
	ctx context.Context, kv etcdserverpb.KVClient, req *etcdserverpb.RangeRequest,
) (proto.Message, error) {
	stream, err := kv.RangeStream(ctx, req)
	if err != nil {
		return nil, err
	}
	whole := new(etcdserverpb.RangeResponse)
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		if err != nil {
			return nil, err
		}
		if whole.Header != nil {
			return nil, status.Error(codes.DataLoss, "a chunk after the one with the header")
		}
		part := chunk.RangeResponse
		if part.GetHeader() == nil && (part.GetMore() || part.GetCount() != 0) {
			return nil, status.Error(codes.DataLoss, "more or count in a chunk without the header")
		}
		proto.Merge(whole, part)
	}
}
