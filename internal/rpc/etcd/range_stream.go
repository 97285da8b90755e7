package etcd

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/kv"
)

// chunkBytes is more than a chunk of a RangeStream has: a page, or one pair of the largest size.
const chunkBytes = kv.PageBytes + kv.MaxRequestBytes

// What a RangeStream can't do; the texts are etcd's, and its clients then ask page by page.
var (
	errStreamSorts   = status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	errStreamFilters = status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
)

// RangeStream implements etcdserverpb.KVServer: a Range in chunks of about 1 MiB, all of one revision. The last
// one has header, more and count. Each is a read of its own, so that a caller that does not read holds nothing
// of the store; if the revision is compacted meanwhile, the stream ends with that.
func (s *KV) RangeStream(
	req *etcdserverpb.RangeRequest, stream grpc.ServerStreamingServer[etcdserverpb.RangeStreamResponse],
) error {
	if err := cmp.Or(s.checkSize(req), kv.CheckRange(req)); err != nil {
		return toStatus(err)
	}
	switch {
	case req.SortOrder != etcdserverpb.RangeRequest_NONE && (req.SortTarget != etcdserverpb.RangeRequest_KEY ||
		req.SortOrder != etcdserverpb.RangeRequest_ASCEND):
		return errStreamSorts
	case req.MinModRevision != 0 || req.MaxModRevision != 0 || req.MinCreateRevision != 0 || req.MaxCreateRevision != 0:
		return errStreamFilters
	}
	if req.SortTarget != etcdserverpb.RangeRequest_KEY {
		return s.streamSorted(req, stream)
	}
	z, err := s.zone(stream.Context())
	if err != nil {
		return toStatus(err)
	}
	c := newChunks(s, z, req)
	for last := false; !last; {
		var chunk *etcdserverpb.RangeResponse
		if chunk, last, err = c.next(stream.Context()); err != nil {
			return toStatus(err)
		}
		if err := stream.Send(&etcdserverpb.RangeStreamResponse{RangeResponse: chunk}); err != nil {
			return err
		}
	}
	return nil
}

// streamSorted answers in one chunk: without an order another target than the key still sorts what the limit has left.
func (s *KV) streamSorted(
	req *etcdserverpb.RangeRequest, stream grpc.ServerStreamingServer[etcdserverpb.RangeStreamResponse],
) error {
	ctx, cancel := rpc.Bounded(stream.Context())
	defer cancel()
	resp, err := s.rangeOf(ctx, req)
	if err != nil {
		return toStatus(err)
	}
	return stream.Send(&etcdserverpb.RangeStreamResponse{RangeResponse: resp})
}

// chunks are those of one RangeStream.
type chunks struct {
	kv    *KV
	zone  Zone
	local bool                       // the next one need not be confirmed
	req   *etcdserverpb.RangeRequest // of the next one; its limit is what is left of the whole's
	sent  int64
	first *etcdserverpb.ResponseHeader // whose revision is that of the last chunk's; nil before the first chunk
}

func newChunks(s *KV, z Zone, req *etcdserverpb.RangeRequest) *chunks {
	c := &chunks{kv: s, zone: z, local: req.Serializable, req: proto.CloneOf(req)}
	if c.req.Limit <= 0 {
		c.req.Limit = math.MaxInt64
	}
	return c
}

// next returns the next chunk, for whose bytes it reserves, and whether it is the last one.
func (c *chunks) next(ctx context.Context) (chunk *etcdserverpb.RangeResponse, last bool, err error) {
	ctx, cancel := rpc.Bounded(ctx)
	defer cancel()
	resp, err := c.page(ctx)
	if err != nil {
		return nil, false, err
	}
	if c.first == nil {
		c.first = resp.Header
		if c.req.Revision <= 0 {
			c.req.Revision = resp.Header.Revision
		}
	}
	c.sent += int64(len(resp.Kvs))
	if c.req.Limit != math.MaxInt64 {
		c.req.Limit -= int64(len(resp.Kvs))
	}
	chunk = &etcdserverpb.RangeResponse{Kvs: resp.Kvs}
	if resp.More {
		c.req.Key = append(slices.Clone(resp.Kvs[len(resp.Kvs)-1].Key), 0)
	}
	if resp.More && c.req.Limit > 0 {
		return chunk, false, nil
	}
	chunk.Header, chunk.More, chunk.Count = c.first, resp.More, resp.Count
	if !c.req.CountOnly {
		chunk.Count = c.sent
	}
	if resp.More {
		rest, err := c.count(ctx)
		if err != nil {
			return nil, false, err
		}
		chunk.Count += rest
	}
	c.kv.complete(chunk.Header, c.zone)
	return chunk, true, nil
}

// page reads what is in the next chunk.
func (c *chunks) page(ctx context.Context) (*etcdserverpb.RangeResponse, error) {
	bytes := budget.AnswerBytesFree
	if c.first != nil { // the ones before were full
		bytes = chunkBytes
	}
	for {
		if bytes > budget.AnswerBytesFree {
			if err := budget.Reserve(ctx, 2*int64(bytes)); err != nil {
				return nil, rpc.OverBudget(err)
			}
		}
		resp, err := c.read(ctx, c.req, bytes)
		if errors.Is(err, kv.ErrResponseTooLarge) && bytes < chunkBytes {
			bytes = chunkBytes
			continue
		}
		if err == nil {
			budget.ShrinkAnswer(ctx, 2*int64(proto.Size(resp)))
		}
		return resp, err
	}
}

// count returns how many keys there are behind the last chunk.
func (c *chunks) count(ctx context.Context) (int64, error) {
	req := proto.CloneOf(c.req)
	req.CountOnly, req.Limit = true, 0
	resp, err := c.read(ctx, req, budget.AnswerBytesFree)
	return resp.GetCount(), err
}

func (c *chunks) read(
	ctx context.Context, req *etcdserverpb.RangeRequest, bytes int,
) (resp *etcdserverpb.RangeResponse, err error) {
	if isPast(req) {
		leave, err := c.kv.turns.enterPast(ctx)
		if err != nil {
			return nil, err
		}
		defer leave()
	}
	read := c.zone.Read
	if c.local {
		read = c.zone.ReadLocal
	}
	err = read(ctx, func(r nexusraft.Reader) (err error) {
		resp, err = kv.Within(abortable{r, ctx, c.kv.turns}, req, true, bytes)
		return err
	})
	c.local = c.local || err == nil || errors.Is(err, kv.ErrResponseTooLarge)
	return resp, err
}
