package etcdtest

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
)

// checkHeader takes out of an answer's header who answered, in which term, and makes sure that it
// was there.
func checkHeader(answer proto.Message) error {
	h := answer.(interface {
		GetHeader() *etcdserverpb.ResponseHeader
	}).GetHeader()
	if h.GetClusterId() == 0 || h.GetMemberId() == 0 || h.GetRaftTerm() == 0 {
		return fmt.Errorf("the header %v lacks cluster, member or term", h)
	}
	h.ClusterId, h.MemberId, h.RaftTerm = 0, 0, 0
	return nil
}

// differ returns the first step whose outcomes are not the same, or −1.
func differ(steps []step, a, b []outcome) int {
	for i, s := range steps {
		if !equal(s, a[i], b[i]) {
			return i
		}
	}
	return -1
}

func equal(s step, a, b outcome) bool {
	if a.code != b.code || a.text != b.text {
		return false
	}
	if a.answer == nil || b.answer == nil {
		return a.answer == nil && b.answer == nil
	}
	return proto.Equal(normal(s.req, a.answer), normal(s.req, b.answer))
}

// normal returns an answer without what may differ.
func normal(req, answer proto.Message) proto.Message {
	answer = proto.Clone(answer)
	switch r := answer.(type) {
	case *etcdserverpb.RangeResponse:
		settleTies(req.(*etcdserverpb.RangeRequest), r)
	case *etcdserverpb.TxnResponse:
		normalTxn(req.(*etcdserverpb.TxnRequest), r)
	case *etcdserverpb.HashKVResponse:
		r.Hash = 0 // HashKV's number differs (1.6); hashes.check has looked at it
	}
	normalLease(req, answer)
	return answer
}

func normalTxn(req *etcdserverpb.TxnRequest, answer *etcdserverpb.TxnResponse) {
	ops := req.Failure
	if answer.Succeeded {
		ops = req.Success
	}
	for i, r := range answer.Responses {
		if i >= len(ops) {
			return // the answers' number differs then, and proto.Equal says so
		}
		if in, out := ops[i].GetRequestRange(), r.GetResponseRange(); in != nil && out != nil {
			settleTies(in, out)
		}
		if in, out := ops[i].GetRequestTxn(), r.GetResponseTxn(); in != nil && out != nil {
			normalTxn(in, out)
		}
	}
}

// settleTies gives equal elements of a sorted answer the order of their keys, since etcd's is
// unspecified (1.2, sort_order). Of those that the limit cut through it leaves their number and what
// they were sorted by: which of them are there is unspecified, too.
func settleTies(req *etcdserverpb.RangeRequest, r *etcdserverpb.RangeResponse) {
	by := orderBy(req.SortTarget)
	if by == nil || !sortsFirst(req) {
		return
	}
	for from := 0; from < len(r.Kvs); {
		to := from + 1
		for to < len(r.Kvs) && by(r.Kvs[from], r.Kvs[to]) == 0 {
			to++
		}
		tie := r.Kvs[from:to]
		slices.SortStableFunc(tie, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
		if to == len(r.Kvs) && r.More {
			for i := range tie {
				tie[i] = onlySortedBy(req.SortTarget, tie[i])
			}
		}
		from = to
	}
}

// sortsFirst says whether there is a sort by something else than the key.
func sortsFirst(req *etcdserverpb.RangeRequest) bool {
	return req.SortTarget != etcdserverpb.RangeRequest_KEY
}

// orderBy compares by a sort target other than the key; nil for that.
func orderBy(target etcdserverpb.RangeRequest_SortTarget) func(a, b *mvccpb.KeyValue) int {
	switch target {
	case etcdserverpb.RangeRequest_VERSION:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) }
	case etcdserverpb.RangeRequest_CREATE:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) }
	case etcdserverpb.RangeRequest_MOD:
		return func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) }
	case etcdserverpb.RangeRequest_VALUE:
		return func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) }
	}
	return nil
}

func onlySortedBy(target etcdserverpb.RangeRequest_SortTarget, kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	switch target {
	case etcdserverpb.RangeRequest_VERSION:
		return &mvccpb.KeyValue{Version: kv.Version}
	case etcdserverpb.RangeRequest_CREATE:
		return &mvccpb.KeyValue{CreateRevision: kv.CreateRevision}
	case etcdserverpb.RangeRequest_MOD:
		return &mvccpb.KeyValue{ModRevision: kv.ModRevision}
	}
	return &mvccpb.KeyValue{Value: kv.Value}
}

// checkOrder returns an error unless equal elements of our sorted answer ascend by key (1.2). With
// keys only, elements sorted by value no longer show which are equal.
func checkOrder(req *etcdserverpb.RangeRequest, r *etcdserverpb.RangeResponse) error {
	by := orderBy(req.SortTarget)
	if by == nil || req.KeysOnly && req.SortTarget == etcdserverpb.RangeRequest_VALUE {
		return nil
	}
	for i := 1; i < len(r.Kvs); i++ {
		a, b := r.Kvs[i-1], r.Kvs[i]
		if by(a, b) == 0 && bytes.Compare(a.Key, b.Key) >= 0 {
			return fmt.Errorf("equal elements %q and %q do not ascend by key", a.Key, b.Key)
		}
	}
	return nil
}

// hashes are HashKV's numbers of one sequence by (revision, compaction).
type hashes map[[2]int64]uint32

// check returns an error unless the number is that of (R, C) and of no other R: between two revisions
// there is always a change. All members must agree, since their numbers go into one map.
func (h hashes) check(r *etcdserverpb.HashKVResponse) error {
	at := [2]int64{r.HashRevision, r.CompactRevision}
	for other, hash := range h {
		if same := other == at; same != (hash == r.Hash) && other[1] == at[1] {
			return fmt.Errorf("the hash of (revision, compaction) %v is %x, and of %v %x", at, r.Hash, other, hash)
		}
	}
	h[at] = r.Hash
	return nil
}

// settleHash makes what an etcd answers to HashKV a function of revision and compaction, as ours is
// (1.6). An etcd keeps the hashes that it took at its last ten compactions, and answers from them: with
// the compaction before, for the revision of the newest one, and even for those of earlier ones, which
// no Range can read any more.
func settleHash(s step, o *outcome, compacted int64) {
	r, ok := o.answer.(*etcdserverpb.HashKVResponse)
	if !ok {
		return
	}
	switch asked := s.req.(*etcdserverpb.HashKVRequest).Revision; {
	case asked > 0 && asked < compacted:
		*o = failed(rpctypes.ErrGRPCCompacted)
	case asked == compacted:
		r.CompactRevision = compacted
	}
}

// judge looks at a store's outcomes one by one, with what must be remembered for that.
type judge struct {
	ours      bool
	compacted int64
	hashes    hashes
}

// settle takes out of an outcome what needs no comparison, and refuses what no comparison would find.
func (j *judge) settle(s step, o *outcome) {
	if compaction, ok := s.req.(*etcdserverpb.CompactionRequest); ok && o.answer != nil {
		j.compacted = compaction.Revision
	}
	if !j.ours {
		settleHash(s, o, j.compacted)
		return
	}
	var err error
	switch r := o.answer.(type) {
	case *etcdserverpb.HashKVResponse:
		err = j.hashes.check(r)
	case *etcdserverpb.RangeResponse:
		err = checkOrder(s.req.(*etcdserverpb.RangeRequest), r)
	}
	if err != nil {
		*o = outcome{code: codes.DataLoss, text: err.Error()}
	}
}
