package etcdtest

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// maxTxnOps is how many compares a Txn may have, and operations in a branch, of which nested ones
// count against what is left.
const maxTxnOps = 128

// keys are few, so that requests meet: prefixes of each other, and bytes at both ends.
var keys = []string{
	"a", "ab", "b", "a\x00", "a\xff", "abc", "\x00", "\xff", "a\x00b", "\xff\xff", "\x00\x00", "c", "a\xff\xff", "\x01",
}

// values: a small store keeps small ones and large ones in different places.
var values = []string{"", "1", "2", "10", "\x00", "\xff", "a", strings.Repeat("m", 300), strings.Repeat("l", 5000)}

// generator makes sequences. It knows no store: revisions are guessed from what was asked for.
type generator struct {
	*rand.Rand
	kinds
	hot       []string // keys that this sequence prefers
	newest    int64    // at most so much is the revision
	compacted int64    // around this one the past ends
}

// sequence returns the steps of a seed.
func sequence(seed uint64, k kinds) []step {
	g := &generator{Rand: rand.New(rand.NewPCG(seed, 0)), kinds: k, newest: origin, compacted: origin}
	for range 1 + g.IntN(4) {
		g.hot = append(g.hot, pick(g, keys))
	}
	steps := make([]step, 5+g.IntN(36))
	for i := range steps {
		steps[i] = g.step()
	}
	return steps
}

func (g *generator) step() step {
	type choice struct {
		weight int
		method string
		make   func() proto.Message
	}
	choices := []choice{
		{30, "Put", func() proto.Message { return g.put() }},
		{10, "DeleteRange", func() proto.Message { return g.deleteRange() }},
		{25, "Range", func() proto.Message { return g.rangeRequest() }},
		{4 * on(g.stream), "RangeStream", func() proto.Message { return g.streamRequest() }},
		{25 * on(g.txn), "Txn", func() proto.Message { return g.txnRequest() }},
		{3 * on(g.compact), "Compact", func() proto.Message { return g.compaction() }},
		{3 * on(g.hashKV), "HashKV", func() proto.Message { return g.hashKVRequest() }},
		{15 * on(g.lease), "Lease", nil},
	}
	sum := 0
	for _, c := range choices {
		sum += c.weight
	}
	n := g.IntN(sum)
	i := slices.IndexFunc(choices, func(c choice) bool { n -= c.weight; return n < 0 })
	s := step{member: g.IntN(2), method: choices[i].method}
	if choices[i].make == nil {
		s.method, s.req = g.leaseStep()
	} else {
		s.req = choices[i].make()
	}
	return s
}

func on(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// in says yes once in n times.
func (g *generator) in(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, from []T) T { return from[g.IntN(len(from))] }

func (g *generator) key() []byte {
	switch {
	case g.in(60):
		return nil
	case g.in(3):
		return []byte(pick(g, keys))
	}
	return []byte(pick(g, g.hot))
}

// rangeEnd returns an end, as often as not for one key.
func (g *generator) rangeEnd(key []byte) []byte {
	switch n := g.IntN(20); {
	case n < 8:
		return nil
	case n < 12:
		return []byte{0} // all from key on
	case n < 14 && len(key) > 0:
		end := slices.Clone(key)
		end[len(end)-1]++ // the prefix; of ff, a range that may end before it starts
		return end
	case n < 15:
		return append(slices.Clone(key), 0)
	}
	return []byte(pick(g, keys))
}

// revision returns 0 for the newest, or one that is good, compacted, in the future, or none.
func (g *generator) revision() int64 {
	if !g.history {
		return pick(g, []int64{0, 0, 0, 0, 0, 0, -1, math.MinInt64, math.MaxInt64, highest})
	}
	switch n := g.IntN(20); {
	case n < 8:
		return 0
	case n < 11:
		return g.compacted - 2 + g.Int64N(4)
	case n < 12:
		return pick(g, []int64{-1, 1, math.MinInt64, math.MaxInt64})
	}
	return g.past()
}

// past returns a revision between what is compacted and a little more than the newest.
func (g *generator) past() int64 { return g.compacted + g.Int64N(max(g.newest-g.compacted, 0)+3) }

// bound returns a filter's revision, or none.
func (g *generator) bound() int64 {
	switch g.IntN(20) {
	case 0:
		return -1
	case 1, 2:
		return origin + g.Int64N(g.newest-origin+3)
	}
	return 0
}

func (g *generator) rangeRequest() *etcdserverpb.RangeRequest {
	r := &etcdserverpb.RangeRequest{
		Key: g.key(), Revision: g.revision(), Serializable: g.in(5), KeysOnly: g.in(6), CountOnly: g.in(8),
		MinModRevision: g.bound(), MaxModRevision: g.bound(), MinCreateRevision: g.bound(), MaxCreateRevision: g.bound(),
	}
	r.RangeEnd = g.rangeEnd(r.Key)
	if g.in(3) {
		r.Limit = pick(g, []int64{-1, 1, 1, 2, 2, 3, 4, 5, 1000, math.MaxInt64, math.MinInt64})
	}
	if g.in(2) {
		r.SortOrder = etcdserverpb.RangeRequest_SortOrder(g.IntN(3))
		r.SortTarget = etcdserverpb.RangeRequest_SortTarget(g.IntN(5))
	}
	if g.in(60) {
		r.SortOrder = pick(g, []etcdserverpb.RangeRequest_SortOrder{3, -1})
	}
	if g.in(60) {
		r.SortTarget = pick(g, []etcdserverpb.RangeRequest_SortTarget{5, -1})
	}
	return r
}

// streamRequest is a Range's, but without a sort target that has no order: etcd takes that, sorts each
// chunk of ten pairs by itself, and goes on after the last key in that order, which may not be the last.
func (g *generator) streamRequest() *etcdserverpb.RangeRequest {
	r := g.rangeRequest()
	_, known := etcdserverpb.RangeRequest_SortTarget_name[int32(r.SortTarget)]
	if known && r.SortOrder == etcdserverpb.RangeRequest_NONE {
		r.SortTarget = etcdserverpb.RangeRequest_KEY
	}
	return r
}

func (g *generator) put() *etcdserverpb.PutRequest {
	g.newest++
	r := &etcdserverpb.PutRequest{Key: g.key(), PrevKv: g.in(3), IgnoreLease: g.in(10)}
	if r.IgnoreValue = g.in(8); !r.IgnoreValue || g.in(4) {
		r.Value = []byte(pick(g, values))
	}
	if g.lease && g.in(3) {
		r.Lease = pick(g, leaseIDs)
	} else if g.in(30) {
		r.Lease = pick(g, []int64{12345, -1, math.MaxInt64})
	}
	return r
}

func (g *generator) deleteRange() *etcdserverpb.DeleteRangeRequest {
	g.newest++
	r := &etcdserverpb.DeleteRangeRequest{Key: g.key(), PrevKv: g.in(2)}
	r.RangeEnd = g.rangeEnd(r.Key)
	return r
}

func (g *generator) compaction() *etcdserverpb.CompactionRequest {
	r := &etcdserverpb.CompactionRequest{Revision: g.revision(), Physical: g.in(2)}
	if r.Revision >= g.compacted && r.Revision <= g.newest {
		g.compacted = r.Revision
	}
	return r
}

// hashKVRequest asks for no revision below 0: ours takes it as a Range does (1.6), etcd answers it with
// the hash of nothing.
func (g *generator) hashKVRequest() *etcdserverpb.HashKVRequest {
	return &etcdserverpb.HashKVRequest{Revision: max(g.revision(), 0)}
}

func (g *generator) txnRequest() *etcdserverpb.TxnRequest {
	g.newest++
	switch {
	case g.in(100):
		return g.manyOps()
	case g.in(3):
		r := g.txnOf(0, nil)
		if hasOpenDelete(r) {
			noIgnores(r)
		}
		return r
	}
	free := slices.Clone(keys)
	g.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	return g.txnOf(0, &free)
}

// txnOf makes a Txn. Those whose writes use each key once are made of keys that are free; with nil,
// any keys, which mostly make a Txn that is refused.
func (g *generator) txnOf(depth int, free *[]string) *etcdserverpb.TxnRequest {
	r := new(etcdserverpb.TxnRequest)
	for range g.IntN(4) {
		r.Compare = append(r.Compare, g.compare())
	}
	for range g.IntN(5) {
		r.Success = append(r.Success, g.op(depth, free))
	}
	for range g.IntN(4) {
		r.Failure = append(r.Failure, g.op(depth, free))
	}
	return r
}

// hasOpenDelete says whether some delete of a Txn takes all from a key on. Beside one, etcd does not
// refuse a put of such a key, and ends with index out of range if that put keeps the value or the
// lease: the key was there when the Txn was checked, and is not when it is put. So an etcd never gets
// both (TestTxnThatEndsAnEtcd).
func hasOpenDelete(r *etcdserverpb.TxnRequest) bool {
	return slices.ContainsFunc(allOps(r), func(op *etcdserverpb.RequestOp) bool {
		return string(op.GetRequestDeleteRange().GetRangeEnd()) == "\x00"
	})
}

// noIgnores lets each put of a Txn bring its value and lease.
func noIgnores(r *etcdserverpb.TxnRequest) {
	for _, op := range allOps(r) {
		if put := op.GetRequestPut(); put != nil {
			put.IgnoreValue, put.IgnoreLease = false, false
		}
	}
}

// allOps returns the operations of a Txn and of those in it.
func allOps(r *etcdserverpb.TxnRequest) (ops []*etcdserverpb.RequestOp) {
	for _, op := range slices.Concat(r.Success, r.Failure) {
		ops = append(ops, op)
		if nested := op.GetRequestTxn(); nested != nil {
			ops = append(ops, allOps(nested)...)
		}
	}
	return ops
}

// manyOps has as many operations as a Txn may, or one more, at one level or at two.
func (g *generator) manyOps() *etcdserverpb.TxnRequest {
	n := maxTxnOps + g.IntN(2)
	some := func(n int) (ops []*etcdserverpb.RequestOp) {
		for range n {
			ops = append(ops, rangeOp(&etcdserverpb.RangeRequest{Key: []byte("a"), CountOnly: true}))
		}
		return ops
	}
	switch g.IntN(4) {
	case 0:
		r := new(etcdserverpb.TxnRequest)
		for range n {
			r.Compare = append(r.Compare, &etcdserverpb.Compare{Key: []byte("a"), Target: etcdserverpb.Compare_VERSION})
		}
		return r
	case 1:
		return &etcdserverpb.TxnRequest{Success: some(n), Failure: some(1)}
	case 2:
		return &etcdserverpb.TxnRequest{Failure: some(n)}
	}
	inner := &etcdserverpb.TxnRequest{Success: some(n - 3)}
	return &etcdserverpb.TxnRequest{Success: append(some(2), txnOp(inner)), Failure: some(1)}
}

func rangeOp(r *etcdserverpb.RangeRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: r}}
}

func txnOp(r *etcdserverpb.TxnRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: r}}
}

func (g *generator) op(depth int, free *[]string) *etcdserverpb.RequestOp {
	switch n := g.IntN(100); {
	case n < 35:
		put := g.put()
		if free != nil {
			put.Key = take(free)
		}
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: put}}
	case n < 50:
		remove := g.deleteRange()
		if free != nil {
			remove.Key, remove.RangeEnd = take(free), nil
		}
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: remove}}
	case n < 65 && depth < 3:
		return txnOp(g.txnOf(depth+1, free))
	case n < 66:
		return new(etcdserverpb.RequestOp)
	}
	r := g.rangeRequest()
	if g.in(2) { // most other revisions make the whole Txn fail
		r.Revision = 0
	}
	return rangeOp(r)
}

// take returns a key that no other write of the Txn has, while there is one.
func take(free *[]string) []byte {
	if len(*free) == 0 {
		return []byte("spare")
	}
	key := (*free)[0]
	*free = (*free)[1:]
	return []byte(key)
}

func (g *generator) compare() *etcdserverpb.Compare {
	c := &etcdserverpb.Compare{
		Key: g.key(), Result: etcdserverpb.Compare_CompareResult(g.IntN(4)),
		Target: etcdserverpb.Compare_CompareTarget(g.IntN(5)),
	}
	if g.in(3) {
		c.RangeEnd = g.rangeEnd(c.Key)
	}
	of := c.Target
	switch g.IntN(50) {
	case 0:
		of = etcdserverpb.Compare_CompareTarget(g.IntN(5)) // not what the target says
	case 1:
		return c // nothing to compare with
	case 2:
		c.Result = 4
	case 3:
		c.Target = 5
	}
	revision := pick(g, []int64{0, origin + 1, g.past(), g.past(), -1})
	switch of {
	case etcdserverpb.Compare_VERSION:
		c.TargetUnion = &etcdserverpb.Compare_Version{Version: g.Int64N(4) - 1}
	case etcdserverpb.Compare_CREATE:
		c.TargetUnion = &etcdserverpb.Compare_CreateRevision{CreateRevision: revision}
	case etcdserverpb.Compare_MOD:
		c.TargetUnion = &etcdserverpb.Compare_ModRevision{ModRevision: revision}
	case etcdserverpb.Compare_VALUE:
		c.TargetUnion = &etcdserverpb.Compare_Value{Value: []byte(pick(g, values[:7]))}
	case etcdserverpb.Compare_LEASE:
		c.TargetUnion = &etcdserverpb.Compare_Lease{Lease: pick(g, []int64{0, 0, 1, 7, -1})}
	}
	return c
}
