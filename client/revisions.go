package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// What calls that name a revision can be refused for. Compare with errors.Is.
var (
	// ErrCompacted: the revision is before the zone's compaction revision, and no longer kept; of a compaction, it is
	// not after it.
	ErrCompacted = errors.New("client: the revision is compacted")

	// ErrFutureRevision: the revision is after the newest of the zone.
	ErrFutureRevision = errors.New("client: the revision is a future one")
)

// GetAt is Get as of a revision: what was stored at key then. Revision 0 is the newest. The errors are those of Get,
// ErrCompacted and ErrFutureRevision.
func (c *Client) GetAt(ctx context.Context, key []byte, rev nexusraft.Revision) (KeyValue, bool, error) {
	resp, err := c.rangeOf(ctx, &etcdserverpb.RangeRequest{Key: key, Revision: wireRevision(rev)})
	if err != nil {
		return KeyValue{}, false, fmt.Errorf("get %s at revision %d: %w", brief(key), rev, err)
	}
	if len(resp.Kvs) == 0 {
		return KeyValue{}, false, nil
	}
	return keyValue(resp.Kvs[0]), true, nil
}

// ListAt is List as of a revision, 0 for the newest one when it begins: all pages are of that one, and together
// one state of the zone. A compaction meanwhile may end it with ErrCompacted.
func (c *Client) ListAt(ctx context.Context, prefix []byte, rev nexusraft.Revision) iter.Seq2[KeyValue, error] {
	return func(yield func(KeyValue, error) bool) {
		at := rev
		err := eachPair(prefix, yield, func(req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
			req.Revision = wireRevision(at)
			resp, err := c.page(ctx, req)
			if err == nil && at == 0 {
				at = nexusraft.Revision(resp.GetHeader().GetRevision())
			}
			return resp, err
		})
		if err != nil {
			yield(KeyValue{}, fmt.Errorf("list %s at revision %d: %w", brief(prefix), at, err))
		}
	}
}

// Compact makes rev the oldest revision that can be read: older versions of keys are gone, and a pair that has not
// changed since stays. Physical waits until the space of what is gone can be used again, and only ctx bounds that.
//
// It is sent again while its outcome is unknown, since a second time does nothing; one that is physical is not. The
// errors are nexusraft.ErrUncertain, ErrCompacted if rev is not after the compaction revision, so that the work is
// done, ErrFutureRevision, and any other one if nothing was done.
func (c *Client) Compact(ctx context.Context, rev nexusraft.Revision, physical bool) error {
	does := writesOnce
	if physical {
		does = waits
	}
	err := c.try(ctx, does, func(ctx context.Context, conn *grpc.ClientConn) error {
		req := &etcdserverpb.CompactionRequest{Revision: wireRevision(rev), Physical: physical}
		_, err := etcdserverpb.NewKVClient(conn).Compact(ctx, req)
		return err
	})
	if errors.Is(err, ErrCompacted) && errors.Is(err, nexusraft.ErrUncertain) { // by an earlier attempt, or before that
		return nil
	}
	if err != nil {
		return fmt.Errorf("compact revision %d: %w", rev, err)
	}
	return nil
}

// wireRevision is a revision in a request. One that is too large for that is a future one in any case.
func wireRevision(rev nexusraft.Revision) int64 { return int64(min(rev, math.MaxInt64)) }

// errLeaseExists: a grant names the ID of a lease that is there.
var errLeaseExists = errors.New("client: the lease exists")

// knownRefusal returns the error for the caller where a status says what a sentinel of this package does, otherwise
// nil. It counts on etcd's texts, which are part of its API.
func knownRefusal(st *status.Status) error {
	for _, known := range []struct{ answer, sentinel error }{
		{rpctypes.ErrGRPCCompacted, ErrCompacted},
		{rpctypes.ErrGRPCFutureRev, ErrFutureRevision},
		{rpctypes.ErrGRPCLeaseNotFound, ErrLeaseNotFound},
		{rpctypes.ErrGRPCLeaseExist, errLeaseExists},
	} {
		if want := status.Convert(known.answer); st.Code() == want.Code() && st.Message() == want.Message() {
			return &refused{known.sentinel, plain(st.Err())}
		}
	}
	return nil
}

// refused is a node's refusal with its own text, and the sentinel that it matches.
type refused struct{ sentinel, answer error }

func (e *refused) Error() string   { return e.answer.Error() }
func (e *refused) Unwrap() []error { return []error{e.sentinel, e.answer} }
