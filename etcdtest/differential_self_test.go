package etcdtest

import (
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// selfPair returns two etcds.
func selfPair(t *testing.T) *pair {
	t.Helper()
	return &pair{etcdStore(t, "etcd"), etcdStore(t, "the other etcd"), everyKind}
}

// plant is a mistake that a server could make, and what is needed at most to show it.
type plant struct {
	name  string
	steps int // of the minimised sequence
	bytes int // of its text
	make  func(s step, o *outcome)
}

// rangePlant changes answers to Range.
func rangePlant(change func(req *etcdserverpb.RangeRequest, r *etcdserverpb.RangeResponse)) func(step, *outcome) {
	return func(s step, o *outcome) {
		if r, ok := o.answer.(*etcdserverpb.RangeResponse); ok && s.method == "Range" {
			change(s.req.(*etcdserverpb.RangeRequest), r)
		}
	}
}

// plants are mistakes of all kinds of answers, some of which need a past.
func plants() []plant {
	return []plant{
		{"count ends at the limit", 3, 90, rangePlant(func(req *etcdserverpb.RangeRequest, r *etcdserverpb.RangeResponse) {
			if r.More && req.Limit > 0 {
				r.Count = req.Limit
			}
		})},
		{"the header has the revision read at", 2, 80, rangePlant(
			func(req *etcdserverpb.RangeRequest, r *etcdserverpb.RangeResponse) {
				if req.Revision >= lowest && req.Revision <= highest {
					r.Header.Revision = req.Revision
				}
			})},
		{"no version after the second", 4, 160, rangePlant(
			func(_ *etcdserverpb.RangeRequest, r *etcdserverpb.RangeResponse) {
				for _, kv := range r.Kvs {
					kv.Version = min(kv.Version, 2)
				}
			})},
		{"descending order is lost", 4, 160, rangePlant(
			func(req *etcdserverpb.RangeRequest, r *etcdserverpb.RangeResponse) {
				if n := len(r.Kvs); req.SortOrder == etcdserverpb.RangeRequest_DESCEND && n > 1 {
					r.Kvs[0], r.Kvs[n-1] = r.Kvs[n-1], r.Kvs[0]
				}
			})},
		{"a previous pair is lost in a nested Txn", 2, 200, func(_ step, o *outcome) {
			r, ok := o.answer.(*etcdserverpb.TxnResponse)
			for _, op := range r.GetResponses() {
				for _, nested := range op.GetResponseTxn().GetResponses() {
					if put := nested.GetResponsePut(); ok && put != nil {
						put.PrevKv = nil
					}
				}
			}
		}},
		{"another text", 1, 110, func(_ step, o *outcome) {
			o.text = strings.Replace(o.text, "duplicate key given", "a duplicate key given", 1)
		}},
		{"another code", 2, 80, func(s step, o *outcome) {
			if o.code == codes.OutOfRange && s.method == "Compact" {
				o.code = codes.InvalidArgument
			}
		}},
		{"a delete counts one key too many", 1, 60, func(_ step, o *outcome) {
			if r, ok := o.answer.(*etcdserverpb.DeleteRangeResponse); ok && r.Deleted == 0 {
				r.Deleted = 1
			}
		}},
		{"an inner answer has no revision", 1, 80, func(_ step, o *outcome) {
			r, _ := o.answer.(*etcdserverpb.TxnResponse)
			for _, op := range r.GetResponses() {
				if inner := op.GetResponseRange(); inner != nil {
					inner.Header = &etcdserverpb.ResponseHeader{}
				}
			}
		}},
		{"HashKV forgets what is compacted", 1, 40, func(_ step, o *outcome) {
			if r, ok := o.answer.(*etcdserverpb.HashKVResponse); ok {
				r.CompactRevision = -1
			}
		}},
		{"a put loses its lease", 3, 100, rangePlant(func(_ *etcdserverpb.RangeRequest, r *etcdserverpb.RangeResponse) {
			for _, kv := range r.Kvs {
				kv.Lease = 0
			}
		})},
		{"a lease that is gone is renewed", 1, 40, func(_ step, o *outcome) {
			if r, ok := o.answer.(*etcdserverpb.LeaseKeepAliveResponse); ok {
				r.TTL = longTTL
			}
		}},
		{"a stream loses its last pair", 2, 100, func(s step, o *outcome) {
			if r, ok := o.answer.(*etcdserverpb.RangeResponse); ok && s.method == "RangeStream" && len(r.Kvs) > 0 {
				r.Kvs = r.Kvs[:len(r.Kvs)-1]
			}
		}},
	}
}

// TestDifferentialOfEtcdItself shows that the comparison finds no difference where there is none.
func TestDifferentialOfEtcdItself(t *testing.T) {
	p := selfPair(t)
	begun := time.Now()
	played, seed, steps, d, err := p.search(t.Context(), 1, everyKind, 100, 0)
	t.Logf("%d sequences, %.0f each second", played, float64(played)/time.Since(begun).Seconds())
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	if d != nil {
		t.Fatalf("seed %d, step %d: %v\n%v\n\n%v", seed, d.step+1, steps[d.step], d.want, d.got)
	}
}

// TestDifferentialFindsMistakes shows that each mistake is found soon, and that what is kept of the
// sequence is little more than what shows it.
func TestDifferentialFindsMistakes(t *testing.T) {
	p := selfPair(t)
	for _, mistake := range plants() {
		t.Run(mistake.name, func(t *testing.T) {
			p.got.plant = mistake.make
			played, seed, steps, d, err := p.search(t.Context(), 1, everyKind, 300, 0)
			if err != nil || d == nil {
				t.Fatalf("not found in %d sequences: %v", played, err)
			}
			long := len(steps)
			steps, _ = p.minimised(t.Context(), steps, d)
			text := formatSteps(steps)
			t.Logf("seed %d, %d steps became\n%s", seed, long, text)
			if len(steps) > mistake.steps || len(text) > mistake.bytes {
				t.Errorf("%d steps in %d bytes, want at most %d in %d", len(steps), len(text), mistake.steps, mistake.bytes)
			}
		})
	}
}

// TestHashes shows that a hash that isn't a function of revision and compaction is refused.
func TestHashes(t *testing.T) {
	h := hashes{}
	for _, tc := range []struct {
		revision, compaction int64
		hash                 uint32
		good                 bool
	}{
		{5, 1, 77, true},
		{5, 1, 77, true},
		{5, 1, 78, false},
		{6, 1, 77, false},
		{6, 1, 79, true},
		{6, 2, 77, true},
	} {
		err := h.check(&etcdserverpb.HashKVResponse{
			HashRevision: tc.revision, CompactRevision: tc.compaction, Hash: tc.hash,
		})
		if (err == nil) != tc.good {
			t.Errorf("%v: %v", tc, err)
		}
	}
}

// TestTies shows what of equal elements is compared, and that ours have to ascend by key.
func TestTies(t *testing.T) {
	pairs := func(more bool, keysAndVersions ...string) *etcdserverpb.RangeResponse {
		r := &etcdserverpb.RangeResponse{More: more}
		for _, kv := range keysAndVersions {
			r.Kvs = append(r.Kvs, &mvccpb.KeyValue{Key: []byte(kv[:1]), Version: int64(kv[1] - '0')})
		}
		return r
	}
	req := &etcdserverpb.RangeRequest{SortTarget: etcdserverpb.RangeRequest_VERSION}
	s := step{method: "Range", req: req}
	for _, tc := range []struct {
		name    string
		a, b    *etcdserverpb.RangeResponse
		same    bool
		ascends bool // b
	}{
		{"another order of equal ones", pairs(false, "a1", "b1", "c2"), pairs(false, "b1", "a1", "c2"), true, false},
		{"equal ones that the limit cut", pairs(true, "c1", "a2"), pairs(true, "c1", "b2"), true, true},
		{"equal ones that it did not cut", pairs(false, "c1", "a2"), pairs(false, "c1", "b2"), false, true},
		{"equal ones before those it cut", pairs(true, "c1", "a2"), pairs(true, "d1", "a2"), false, true},
		{"fewer", pairs(true, "c1", "a2"), pairs(true, "c1"), false, true},
		{"not sorted", pairs(false, "a1", "b2"), pairs(false, "b2", "a1"), false, true},
	} {
		if got := equal(s, outcome{answer: tc.a}, outcome{answer: tc.b}); got != tc.same {
			t.Errorf("%s: equal %v, want %v", tc.name, got, tc.same)
		}
		if err := checkOrder(req, tc.b); (err == nil) != tc.ascends {
			t.Errorf("%s: %v, want ascending %v", tc.name, err, tc.ascends)
		}
	}
}

// TestHashKVOfEtcd shows which of its answers are settled.
func TestHashKVOfEtcd(t *testing.T) {
	const compacted = 7
	for _, tc := range []struct {
		asked, compaction int64 // of the answer
		want              int64 // 0 if none is to be left
	}{
		{0, 7, 7},
		{0, 5, 5},
		{7, 7, 7},
		{7, 5, 7},
		{8, 5, 5},
		{6, 5, 0},
	} {
		s := step{method: "HashKV", req: &etcdserverpb.HashKVRequest{Revision: tc.asked}}
		o := outcome{answer: &etcdserverpb.HashKVResponse{CompactRevision: tc.compaction}}
		settleHash(s, &o, compacted)
		got, _ := o.answer.(*etcdserverpb.HashKVResponse)
		if got.GetCompactRevision() != tc.want || (tc.want == 0) != (o.code == codes.OutOfRange) {
			t.Errorf("%v: got %v", tc, o)
		}
	}
}

// TestStepsAreTheirText shows that a sequence that is kept is the one that was played.
func TestStepsAreTheirText(t *testing.T) {
	for seed := range uint64(50) {
		for _, want := range sequence(seed, everyKind) {
			got, err := parseStep(want.String())
			if err != nil || got.member != want.member || got.method != want.method || !proto.Equal(got.req, want.req) {
				t.Fatalf("%v: got %v, %v", want, got, err)
			}
		}
	}
}
