package etcd

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/kv"
)

func rangeOp(req *etcdserverpb.RangeRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: req}}
}

func putOp(req *etcdserverpb.PutRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: req}}
}

func deleteOp(req *etcdserverpb.DeleteRangeRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: req}}
}

func txnOp(req *etcdserverpb.TxnRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: req}}
}

func compareValue(key, end, value string) *etcdserverpb.Compare {
	c := &etcdserverpb.Compare{
		Target: etcdserverpb.Compare_VALUE, Key: []byte(key),
		TargetUnion: &etcdserverpb.Compare_Value{Value: []byte(value)},
	}
	if end != "" {
		c.RangeEnd = []byte(end)
	}
	return c
}

// A transaction that has only ranges takes no command and is a read; any other one is a write of one revision.
func TestTxn(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	z.put(t, "a", "1")
	before := z.proposals
	get := rangeOp(&etcdserverpb.RangeRequest{Key: []byte("a")})
	local := rangeOp(&etcdserverpb.RangeRequest{Key: []byte("a"), Serializable: true})
	a := &mvccpb.KeyValue{Key: []byte("a"), Value: []byte("1"), CreateRevision: 2, ModRevision: 2, Version: 1}
	answer := &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseRange{
		ResponseRange: &etcdserverpb.RangeResponse{
			Header: &etcdserverpb.ResponseHeader{Revision: 2}, Kvs: []*mvccpb.KeyValue{a}, Count: 1,
		},
	}}
	for name, tc := range map[string]struct {
		ops          []*etcdserverpb.RequestOp
		reads, local int
	}{
		"linearizable": {[]*etcdserverpb.RequestOp{get}, 1, 0},
		"serializable": {[]*etcdserverpb.RequestOp{local}, 0, 1},
		"both":         {[]*etcdserverpb.RequestOp{get, local}, 1, 0},
	} {
		z.reads, z.local = 0, 0
		got, err := client.Txn(t.Context(), &etcdserverpb.TxnRequest{
			Compare: []*etcdserverpb.Compare{compareValue("a", "", "1")}, Success: tc.ops,
		})
		if err != nil {
			t.Fatal(err)
		}
		want := &etcdserverpb.TxnResponse{Header: header(2), Succeeded: true}
		for range tc.ops {
			want.Responses = append(want.Responses, answer)
		}
		if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if z.reads != tc.reads || z.local != tc.local || z.proposals != before {
			t.Errorf("%s: %d reads, %d local ones and %d writes, want %d, %d and 0", name, z.reads, z.local,
				z.proposals-before, tc.reads, tc.local)
		}
	}
	got, err := client.Txn(t.Context(), &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{compareValue("a", "b", "no")},
		Failure: []*etcdserverpb.RequestOp{
			putOp(&etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("2")}),
			txnOp(&etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{
				putOp(&etcdserverpb.PutRequest{Key: []byte("b"), Value: []byte("2")}),
			}}),
		},
	})
	if err != nil || got.GetSucceeded() || len(got.GetResponses()) != 2 || got.GetHeader().GetRevision() != 3 {
		t.Errorf("a write: got %v, %v", got, err)
	}
	if diff := cmp.Diff(header(3), got.GetHeader(), protocmp.Transform()); diff != "" || z.proposals != before+1 {
		t.Errorf("%d writes, header (-want +got):\n%s", z.proposals-before, diff)
	}
}

// What a transaction is refused for is etcd's, and nothing of it is written.
func TestTxnsThatAreRefused(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	for i := range 5 {
		z.put(t, "a", fmt.Sprint(i))
	}
	z.compact(t, 4)
	put := func(key string) *etcdserverpb.RequestOp { return putOp(&etcdserverpb.PutRequest{Key: []byte(key)}) }
	many := func(n int) (ops []*etcdserverpb.RequestOp) {
		for i := range n {
			ops = append(ops, put(fmt.Sprintf("k%06d", i)))
		}
		return ops
	}
	nested := func(depth int) *etcdserverpb.RequestOp {
		op := put("deep")
		for range depth {
			op = txnOp(&etcdserverpb.TxnRequest{Success: []*etcdserverpb.RequestOp{op}})
		}
		return op
	}
	at := func(rev int64) *etcdserverpb.RequestOp {
		return rangeOp(&etcdserverpb.RangeRequest{Key: []byte("a"), Revision: rev})
	}
	type ops = []*etcdserverpb.RequestOp
	inside := func(op *etcdserverpb.RequestOp) *etcdserverpb.RequestOp {
		return txnOp(&etcdserverpb.TxnRequest{Success: ops{op}})
	}
	same := putOp(&etcdserverpb.PutRequest{Key: []byte("c"), IgnoreValue: true})
	leased := putOp(&etcdserverpb.PutRequest{Key: []byte("c"), Lease: 7})
	all := rangeOp(&etcdserverpb.RangeRequest{Key: []byte("a"), RangeEnd: []byte{0}, Limit: math.MaxInt64})
	before := rangeOp(&etcdserverpb.RangeRequest{Key: []byte("b"), RangeEnd: []byte("a")})
	nothing := deleteOp(&etcdserverpb.DeleteRangeRequest{Key: []byte("x"), RangeEnd: []byte("x")})
	for name, tc := range map[string]struct {
		ops  ops
		want error
	}{
		"129 operations":                {many(129), rpctypes.ErrGRPCTooManyOps},
		"1,000 deep":                    {ops{nested(1000)}, rpctypes.ErrGRPCTooManyOps},
		"a key twice":                   {ops{put("a"), put("a")}, rpctypes.ErrGRPCDuplicateKey},
		"a key twice, nested":           {ops{put("a"), inside(put("a"))}, rpctypes.ErrGRPCDuplicateKey},
		"no operation":                  {ops{put("a"), {}}, rpctypes.ErrGRPCKeyNotFound},
		"no key":                        {ops{put("")}, rpctypes.ErrGRPCEmptyKey},
		"etcd 18667: compacted":         {ops{put("b"), at(3)}, rpctypes.ErrGRPCCompacted},
		"etcd 18679: nested":            {ops{put("b"), inside(at(1))}, rpctypes.ErrGRPCCompacted},
		"etcd 13871: -1":                {ops{put("b"), at(-1)}, rpctypes.ErrGRPCCompacted},
		"the lowest number":             {ops{put("b"), at(math.MinInt64)}, rpctypes.ErrGRPCCompacted},
		"future":                        {ops{put("b"), at(7)}, rpctypes.ErrGRPCFutureRev},
		"its own revision":              {ops{put("b"), at(7)}, rpctypes.ErrGRPCFutureRev},
		"reads only, compacted":         {ops{at(3)}, rpctypes.ErrGRPCCompacted},
		"reads only, etcd 13871":        {ops{at(-1)}, rpctypes.ErrGRPCCompacted},
		"reads only, 129 operations":    {slicesRepeat(at(0), 129), rpctypes.ErrGRPCTooManyOps},
		"ignore_value of an absent key": {ops{put("b"), same}, rpctypes.ErrGRPCKeyNotFound},
		"an absent lease":               {ops{put("b"), leased}, rpctypes.ErrGRPCLeaseNotFound},
	} {
		for _, req := range []*etcdserverpb.TxnRequest{
			{Success: tc.ops}, {Compare: []*etcdserverpb.Compare{compareValue("absent", "", "x")}, Failure: tc.ops},
		} {
			_, err := client.Txn(t.Context(), req)
			got, want := status.Convert(err), status.Convert(tc.want)
			if got.Code() != want.Code() || got.Message() != want.Message() {
				t.Errorf("%s: got %v, want %v", name, err, tc.want)
			}
		}
	}
	got, err := client.Range(t.Context(), &etcdserverpb.RangeRequest{Key: []byte("b")})
	if err != nil || got.GetHeader().GetRevision() != 6 || got.GetCount() != 0 {
		t.Errorf("after all of them: got %v, %v; want revision 6 and no key", got, err)
	}
	for name, tc := range map[string]ops{
		"128 operations":      many(128),
		"10 deep":             {nested(10)},
		"the last compacted":  {put("b"), at(4)},
		"a limit of 2^63-1":   {put("b"), all},
		"an end before start": {put("b"), before},
		"an end at the start": {put("b"), nothing},
	} {
		if _, err := client.Txn(t.Context(), &etcdserverpb.TxnRequest{Success: tc}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func slicesRepeat(op *etcdserverpb.RequestOp, n int) (ops []*etcdserverpb.RequestOp) {
	for range n {
		ops = append(ops, op)
	}
	return ops
}

// Requests at the limits of size get through, and over them are refused with etcd's text, whatever they are.
func TestSizesOfRequests(t *testing.T) {
	z := newZone()
	limits := Config{MaxRequestBytes: 1000, MaxTxnOps: 3}
	s := NewKV(fakeZones{nexusraft.RootZone: z}, func() Identity { return Identity{} }, limits)
	for _, tc := range []struct {
		name  string
		bytes int
		ops   int
		want  codes.Code
	}{
		{"small", 300, 3, codes.OK},
		{"large", 340, 3, codes.InvalidArgument},
		{"many", 1, 4, codes.InvalidArgument},
	} {
		var req etcdserverpb.TxnRequest
		for i := range tc.ops {
			req.Success = append(req.Success, putOp(&etcdserverpb.PutRequest{
				Key: fmt.Appendf(nil, "%d", i), Value: bytes.Repeat([]byte("v"), tc.bytes),
			}))
		}
		if _, err := s.Txn(handling(t.Context()), &req); status.Code(err) != tc.want {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
	}
	long := bytes.Repeat([]byte("k"), 1000)
	_, txn := s.Txn(t.Context(), &etcdserverpb.TxnRequest{
		Success: []*etcdserverpb.RequestOp{rangeOp(&etcdserverpb.RangeRequest{Key: long})},
	})
	_, put := s.Put(t.Context(), &etcdserverpb.PutRequest{Key: long})
	_, del := s.DeleteRange(t.Context(), &etcdserverpb.DeleteRangeRequest{Key: long})
	_, get := s.Range(t.Context(), &etcdserverpb.RangeRequest{Key: long})
	for name, err := range map[string]error{"txn": txn, "put": put, "delete": del, "range": get} {
		if want := rpctypes.ErrGRPCRequestTooLarge; status.Convert(err).Message() != status.Convert(want).Message() {
			t.Errorf("%s: got %v, want %v", name, err, want)
		}
	}
	ops := make([]*etcdserverpb.RequestOp, 128)
	for i := range ops {
		ops[i] = putOp(&etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "%d", i), Value: make([]byte, 10<<10)})
	}
	if _, err := dialKV(t, z).Txn(t.Context(), &etcdserverpb.TxnRequest{Success: ops}); err != nil {
		t.Errorf("128 operations of 10 KiB: %v", err)
	}
	for _, bad := range []Config{
		{MaxTxnOps: -1}, {MaxTxnOps: 1 << 20}, {MaxRequestBytes: -1}, {MaxRequestBytes: 2 << 20},
	} {
		if bad.Validate() == nil {
			t.Errorf("%+v is valid", bad)
		}
	}
}

// A zone of which some nodes know no old revisions says so, and that it is worth to ask again.
func TestZoneWithoutHistory(t *testing.T) {
	z := newZone()
	z.version = 0
	client := dialKV(t, z)
	z.put(t, "a", "1")
	_, txn := client.Txn(t.Context(), &etcdserverpb.TxnRequest{
		Success: []*etcdserverpb.RequestOp{putOp(&etcdserverpb.PutRequest{Key: []byte("a")})},
	})
	_, compact := client.Compact(t.Context(), &etcdserverpb.CompactionRequest{Revision: 1})
	for name, err := range map[string]error{"txn": txn, "compact": compact} {
		if st := status.Convert(err); st.Code() != codes.Unavailable || st.Message() != kv.ErrNoHistory.Error() {
			t.Errorf("%s: got %v, want %v", name, err, kv.ErrNoHistory)
		}
	}
	get := rangeOp(&etcdserverpb.RangeRequest{Key: []byte("a")})
	if resp, err := client.Txn(t.Context(), &etcdserverpb.TxnRequest{
		Success: []*etcdserverpb.RequestOp{get},
	}); err != nil || len(resp.GetResponses()[0].GetResponseRange().GetKvs()) != 1 {
		t.Errorf("a transaction that reads only: got %v, %v", resp, err)
	}
}

// What a transaction may make of what is there is reserved, in the branch that makes most of it.
func TestWhatTxnsTake(t *testing.T) {
	all := []byte{0}
	get := rangeOp(&etcdserverpb.RangeRequest{Key: all})
	name := rangeOp(&etcdserverpb.RangeRequest{Key: all, KeysOnly: true})
	list := rangeOp(&etcdserverpb.RangeRequest{Key: all, RangeEnd: all})
	count := rangeOp(&etcdserverpb.RangeRequest{Key: all, RangeEnd: all, CountOnly: true})
	put := putOp(&etcdserverpb.PutRequest{Key: all})
	prev := putOp(&etcdserverpb.PutRequest{Key: all, PrevKv: true})
	same := putOp(&etcdserverpb.PutRequest{Key: all, IgnoreValue: true})
	del := deleteOp(&etcdserverpb.DeleteRangeRequest{Key: all})
	clear := deleteOp(&etcdserverpb.DeleteRangeRequest{Key: all, RangeEnd: all})
	type ops = []*etcdserverpb.RequestOp
	inside := txnOp(&etcdserverpb.TxnRequest{Failure: ops{prev}})
	const request = kv.MaxRequestBytes
	for name, tc := range map[string]struct {
		success, failure ops
		ranges           bool
		want             reservation
	}{
		"put, else delete": {ops{put}, ops{del}, false, reservation{}},
		"put, else get":    {ops{put}, ops{get}, false, reservation{request, request}},
		"put, else a name": {ops{put}, ops{name}, false, reservation{}},
		"two gets":         {ops{put, get, get}, ops{get}, false, reservation{2 * request, 2 * request}},
		"nested":           {nil, ops{inside}, false, reservation{request, request}},
		"list":             {ops{put, list}, nil, true, reservation{kv.MaxTxnBytes, kv.MaxTxnBytes}},
		"count":            {ops{put, count}, nil, true, reservation{0, budget.EffectBytesShare / 12}},
		"lists":            {slicesRepeat(list, 100), nil, true, reservation{kv.MaxTxnBytes, budget.EffectBytesShare}},
		"same values":      {ops{same}, nil, false, reservation{0, budget.SameValueBytes}},
		"delete range":     {nil, ops{clear}, true, reservation{0, budget.DeleteRangeBytes}},
	} {
		got := takesOf(&etcdserverpb.TxnRequest{Success: tc.success, Failure: tc.failure})
		if got.reservation() != tc.want || got.ranges != tc.ranges {
			t.Errorf("%s: got %+v, ranges %t; want %+v, %t", name, got.reservation(), got.ranges, tc.want, tc.ranges)
		}
	}
	ranged := takesOf(&etcdserverpb.TxnRequest{Compare: []*etcdserverpb.Compare{compareValue("a", "b", "x")}})
	if !ranged.ranges {
		t.Error("a compare of a range is none that looks at ranges")
	}
}

// A transaction that looks at too much is refused before it is proposed.
func TestTxnsThatAreTooWide(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	z.put(t, "a", "1")
	before := z.proposals
	z.seen = func(r nexusraft.Reader) nexusraft.Reader { return copied{r, kv.MaxTxnKeys + 1} }
	_, err := client.Txn(t.Context(), &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{compareValue("0", "\x00", "1")},
		Success: []*etcdserverpb.RequestOp{putOp(&etcdserverpb.PutRequest{Key: []byte("a")})},
	})
	if st := status.Convert(err); st.Code() != codes.InvalidArgument || st.Message() != kv.ErrTxnTooWide.Error() {
		t.Errorf("got %v, want %v", err, kv.ErrTxnTooWide)
	}
	if z.proposals != before {
		t.Error("it was proposed")
	}
}

// What is too much for one command is refused before it is proposed, in a transaction without ranges, too.
func TestTooMuchIsNotProposed(t *testing.T) {
	z := newZone()
	client := dialKV(t, z)
	z.put(t, "large", strings.Repeat("v", 1<<20))
	var compares []*etcdserverpb.Compare
	for range 20 {
		compares = append(compares, &etcdserverpb.Compare{
			Key: []byte("large"), Target: etcdserverpb.Compare_VALUE, Result: etcdserverpb.Compare_GREATER,
		})
	}
	inside := func(n int) (req *etcdserverpb.TxnRequest) {
		req = new(etcdserverpb.TxnRequest)
		for i := range n {
			req.Success = append(req.Success, txnOp(&etcdserverpb.TxnRequest{
				Compare: compares,
				Success: []*etcdserverpb.RequestOp{putOp(&etcdserverpb.PutRequest{Key: []byte{'a', byte(i)}})},
			}))
		}
		return req
	}
	before := z.proposals
	_, err := client.Txn(t.Context(), inside(20))
	if status.Code(err) != codes.InvalidArgument || z.proposals != before {
		t.Errorf("400 compares of a large value: got %v, and %d proposals", err, z.proposals-before)
	}
	if _, err := client.Txn(t.Context(), inside(2)); err != nil || z.proposals != before+1 {
		t.Errorf("40 of them: got %v, and %d proposals", err, z.proposals-before)
	}
}
