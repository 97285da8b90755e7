package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/kv"
)

// chunksOf returns all chunks of a stream.
func chunksOf(
	t *testing.T, client etcdserverpb.KVClient, req *etcdserverpb.RangeRequest,
) (all []*etcdserverpb.RangeResponse, err error) {
	t.Helper()
	stream, err := client.RangeStream(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, resp.GetRangeResponse())
	}
}

// The chunks of a stream are together what Range answers, whatever is asked for; only the last one says more than
// pairs.
func TestRangeStream(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	for i := range 40 {
		z.put(t, fmt.Sprintf("k%02d", i), strings.Repeat("v", 100<<10))
	}
	z.put(t, "m", strings.Repeat("large", 1400<<10/5))
	from, end := []byte("k"), []byte{0}
	z.put(t, "k01", "first by its value")
	const ascend, value = etcdserverpb.RangeRequest_ASCEND, etcdserverpb.RangeRequest_VALUE
	for name, tc := range map[string]struct {
		req    *etcdserverpb.RangeRequest
		chunks int
	}{
		"all":                {&etcdserverpb.RangeRequest{Key: from, RangeEnd: end}, 5},
		"ascending":          {&etcdserverpb.RangeRequest{Key: from, RangeEnd: end, SortOrder: ascend}, 5},
		"a target, no order": {&etcdserverpb.RangeRequest{Key: from, RangeEnd: end, SortTarget: value, Limit: 9}, 1},
		"one":                {&etcdserverpb.RangeRequest{Key: []byte("k03")}, 1},
		"none":               {&etcdserverpb.RangeRequest{Key: []byte("x"), RangeEnd: end}, 1},
		"end before start":   {&etcdserverpb.RangeRequest{Key: []byte("m"), RangeEnd: from}, 1},
		"limit":              {&etcdserverpb.RangeRequest{Key: from, RangeEnd: end, Limit: 15}, 2},
		"limit 2^63-1":       {&etcdserverpb.RangeRequest{Key: from, RangeEnd: end, Limit: 1<<63 - 1}, 5},
		"limit of all":       {&etcdserverpb.RangeRequest{Key: from, RangeEnd: end, Limit: 41}, 5},
		"limit of a chunk":   {&etcdserverpb.RangeRequest{Key: from, RangeEnd: end, Limit: 10}, 1},
		"limit -1":           {&etcdserverpb.RangeRequest{Key: from, RangeEnd: end, Limit: -1}, 5},
		"keys":               {&etcdserverpb.RangeRequest{Key: from, RangeEnd: end, KeysOnly: true}, 1},
		"count":              {&etcdserverpb.RangeRequest{Key: from, RangeEnd: end, CountOnly: true}, 1},
		"old":                {&etcdserverpb.RangeRequest{Key: from, RangeEnd: end, Revision: 30, Serializable: true}, 3},
	} {
		want, err := client.Range(t.Context(), tc.req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := chunksOf(t, client, tc.req)
		if err != nil || len(got) != tc.chunks {
			t.Errorf("%s: got %d chunks, %v; want %d", name, len(got), err, tc.chunks)
			continue
		}
		last := len(got) - 1
		whole := proto.CloneOf(got[last])
		whole.Kvs = nil
		for i, chunk := range got {
			whole.Kvs = append(whole.Kvs, chunk.Kvs...)
			if i < last && (chunk.Header != nil || chunk.More || chunk.Count != 0) || proto.Size(chunk) > chunkBytes {
				t.Errorf("%s: chunk %d of %d bytes has %v, %t, %d", name, i, proto.Size(chunk), chunk.Header, chunk.More,
					chunk.Count)
			}
		}
		if !proto.Equal(want, whole) {
			t.Errorf("%s: got %d pairs, %v, more %t, count %d; a Range has %d, %v, %t, %d", name, len(whole.Kvs), whole.Header,
				whole.More, whole.Count, len(want.Kvs), want.Header, want.More, want.Count)
		}
	}
}

// What a stream can't do it says with etcd's text, by which clients know to ask page by page.
func TestRangeStreamsThatAreRefused(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	z.put(t, "k", "v")
	z.put(t, "k", "v")
	z.compact(t, 3)
	const (
		sorts   = "RangeStream does not support custom sort orders"
		filters = "RangeStream does not support revision filters"
		gone    = "etcdserver: mvcc: required revision has been compacted"
		future  = "etcdserver: mvcc: required revision is a future revision"
		mod     = etcdserverpb.RangeRequest_MOD
	)
	k := []byte("k")
	for _, tc := range []struct {
		req  *etcdserverpb.RangeRequest
		code codes.Code
		text string
	}{
		{&etcdserverpb.RangeRequest{}, codes.InvalidArgument, "etcdserver: key is not provided"},
		{&etcdserverpb.RangeRequest{Key: k, SortOrder: 9}, codes.InvalidArgument, "etcdserver: invalid sort option"},
		{&etcdserverpb.RangeRequest{Key: k, SortOrder: etcdserverpb.RangeRequest_DESCEND}, codes.Unimplemented, sorts},
		{&etcdserverpb.RangeRequest{Key: k, SortOrder: 1, SortTarget: mod}, codes.Unimplemented, sorts},
		{&etcdserverpb.RangeRequest{Key: k, MinModRevision: 1}, codes.Unimplemented, filters},
		{&etcdserverpb.RangeRequest{Key: k, MaxModRevision: 1}, codes.Unimplemented, filters},
		{&etcdserverpb.RangeRequest{Key: k, MinCreateRevision: 1}, codes.Unimplemented, filters},
		{&etcdserverpb.RangeRequest{Key: k, MaxCreateRevision: 1}, codes.Unimplemented, filters},
		{&etcdserverpb.RangeRequest{Key: k, Revision: 2}, codes.OutOfRange, gone},
		{&etcdserverpb.RangeRequest{Key: k, Revision: 4}, codes.OutOfRange, future},
	} {
		got, err := chunksOf(t, client, tc.req)
		if st := status.Convert(err); st.Code() != tc.code || st.Message() != tc.text || len(got) > 0 {
			t.Errorf("%v: got %d chunks, %v, want %v %q", tc.req, len(got), err, tc.code, tc.text)
		}
	}
}

// A stream is of the revision of its first chunk, whatever is written meanwhile, reads nothing ahead of what is
// taken, and ends when that is compacted.
func TestRangeStreamIsOfOneRevision(t *testing.T) {
	z := newZone()
	for i := range 40 {
		z.put(t, fmt.Sprintf("k%02d", i), strings.Repeat("v", 100<<10))
	}
	s := NewKV(fakeZones{nexusraft.RootZone: z}, func() Identity { return Identity{} }, Config{})
	c := newChunks(s, z, &etcdserverpb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	pairs := 0
	next := func() (*etcdserverpb.RangeResponse, bool, error) {
		chunk, last, err := c.next(limited)
		for _, p := range chunk.GetKvs() {
			if want := fmt.Sprintf("k%02d", pairs); string(p.Key) != want || p.ModRevision != int64(pairs+2) {
				t.Errorf("pair %s of revision %d, want %s of %d", p.Key, p.ModRevision, want, pairs+2)
			}
			pairs++
		}
		return chunk, last, err
	}
	if _, last, err := next(); last || err != nil {
		t.Fatalf("first: last %t, %v", last, err)
	}
	for i := range 50 {
		z.put(t, fmt.Sprintf("k%02d", i), "later")
	}
	z.compact(t, 41) // the stream's own revision stays readable
	reads := z.local + z.reads
	if _, last, err := next(); last || err != nil || z.local+z.reads != reads+1 {
		t.Fatalf("second: last %t, %v, after %d reads", last, err, z.local+z.reads-reads)
	}
	sibling := *c
	sibling.req = proto.CloneOf(c.req)
	for {
		chunk, last, err := next()
		if err != nil {
			t.Fatal(err)
		}
		if last {
			if chunk.Count != 40 || chunk.Header.Revision != 41 || pairs != 40 || chunk.More {
				t.Errorf("got %d pairs, %v, count %d, more %t", pairs, chunk.Header, chunk.Count, chunk.More)
			}
			break
		}
	}
	z.compact(t, 42)
	if _, _, err := sibling.next(limited); !errors.Is(err, kv.ErrCompacted) {
		t.Errorf("compacted meanwhile: got %v", err)
	}
}

// Each chunk holds what it takes of the budget of answers until it is on the wire; a small one nothing.
func TestChunksReserve(t *testing.T) {
	z := newZone()
	for i := range 30 {
		z.put(t, fmt.Sprintf("k%02d", i), strings.Repeat("v", 100<<10))
	}
	s := NewKV(fakeZones{nexusraft.RootZone: z}, func() Identity { return Identity{} }, Config{})
	all := budget.NewBytes(8<<20, 8<<20, time.Millisecond, new(budget.Counters))
	a := all.NewAnswer("p")
	ctx := budget.WithAnswer(t.Context(), a)
	c := newChunks(s, z, &etcdserverpb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	for range 3 {
		chunk, _, err := c.next(ctx)
		if err != nil || a.Held() != 2*int64(proto.Size(chunk)) && a.Held() < 1<<20 {
			t.Fatalf("a chunk of %d bytes holds %d, %v", proto.Size(chunk), a.Held(), err)
		}
	}
	small := newChunks(s, z, &etcdserverpb.RangeRequest{Key: []byte("x"), RangeEnd: []byte("y")})
	b := all.NewAnswer("p")
	if _, last, err := small.next(budget.WithAnswer(t.Context(), b)); !last || err != nil || b.Held() != 0 {
		t.Errorf("a small one: last %t, %v, holds %d", last, err, b.Held())
	}
	limited, cancel := context.WithTimeout(budget.WithAnswer(t.Context(), all.NewAnswer("p")), 50*time.Millisecond)
	defer cancel()
	full := newChunks(s, z, &etcdserverpb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	take := all.NewAnswer("p")
	if err := budget.Reserve(budget.WithAnswer(t.Context(), take), 6<<20); err != nil {
		t.Fatal(err)
	}
	if _, _, err := full.next(limited); !errors.Is(err, nexusraft.ErrOverloaded) {
		t.Errorf("without a place: got %v", err)
	}
}
