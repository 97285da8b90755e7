package kv

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// pairOverhead is at least what a pair costs in a response besides key and value, in bytes.
const pairOverhead = 48

// CheckRange returns the refusal of req that can be told without looking at the state:
// ErrEmptyKey, ErrInvalidSort, or nil.
func CheckRange(req *etcdserverpb.RangeRequest) error {
	switch { // numbers, and not what the API's module knows: Apply asks this, too (I4)
	case len(req.Key) == 0:
		return ErrEmptyKey
	case req.SortOrder < etcdserverpb.RangeRequest_NONE || req.SortOrder > etcdserverpb.RangeRequest_DESCEND,
		req.SortTarget < etcdserverpb.RangeRequest_KEY || req.SortTarget > etcdserverpb.RangeRequest_VALUE:
		return ErrInvalidSort
	}
	return nil
}

// Range answers req from the state that r reads; the header has the newest revision of that, and nothing else.
// The field serializable is the caller's business: it decides which state to read.
//
// Count is the number of keys in the range whatever the limit and the filters are, so a
// Range with a limit still walks over the whole range. Of an old revision a Range costs as much, and the
// changes that were made since. The response shares nothing with r.
// Besides the refusals it returns ErrResponseTooLarge over MaxRangeBytes, errors of r, and
// nexusraft.ErrCorrupt, with the key.
func Range(r nexusraft.Reader, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	return Within(r, req, false, MaxRangeBytes)
}

// Page is Range for a caller that reads on after the last key: it ends at the limit, or at about
// PageBytes, whichever comes first, with more set, and count is the number of pairs in the
// answer. It costs what it returns. A request that counts, or whose order is not that of the keys,
// is answered as by Range.
func Page(r nexusraft.Reader, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	return Within(r, req, true, MaxRangeBytes)
}

// Within is Page or Range, but the pairs that it gathers are at most some bytes, of which
// MaxRangeBytes are the most; otherwise it returns ErrResponseTooLarge.
func Within(
	r nexusraft.Reader, req *etcdserverpb.RangeRequest, page bool, bytes int,
) (*etcdserverpb.RangeResponse, error) {
	if err := CheckRange(req); err != nil {
		return nil, err
	}
	v, err := viewOf(r, req.Revision)
	if err != nil {
		return nil, err
	}
	return v.answer(req, page, min(bytes, MaxRangeBytes))
}

// Measure returns how many bytes the pairs take that Within gathers for req, and reads no long value. It may be over
// MaxRangeBytes. The errors are those of Range.
func Measure(r nexusraft.Reader, req *etcdserverpb.RangeRequest) (bytes int, err error) {
	if err := CheckRange(req); err != nil {
		return 0, err
	}
	v, err := viewOf(r, req.Revision)
	if err != nil {
		return 0, err
	}
	g := gatherer{view: v, req: req, keep: keepAtMost(req), most: math.MaxInt, measure: true}
	err = v.scan(req.Key, req.RangeEnd, descending(req), g.add)
	return g.size, err
}

// descending is the order in which a Range goes through its keys, which decides what its limit cuts.
func descending(req *etcdserverpb.RangeRequest) bool {
	return req.SortTarget == etcdserverpb.RangeRequest_KEY && req.SortOrder == etcdserverpb.RangeRequest_DESCEND
}

// answer is Within for a revision that is known to be there.
func (v view) answer(req *etcdserverpb.RangeRequest, page bool, most int) (*etcdserverpb.RangeResponse, error) {
	page = page && !req.CountOnly && req.SortTarget == etcdserverpb.RangeRequest_KEY
	v.counting = req.CountOnly
	g := gatherer{view: v, req: req, keep: keepAtMost(req), page: page, most: most}
	if err := v.scan(req.Key, req.RangeEnd, descending(req), g.add); err != nil && !errors.Is(err, errPageEnds) {
		return nil, err
	}
	resp := &etcdserverpb.RangeResponse{
		Header: &etcdserverpb.ResponseHeader{Revision: v.current},
		Kvs:    g.kvs,
		Count:  g.count,
	}
	finish(resp, req)
	if page {
		resp.Count, resp.More = int64(len(resp.Kvs)), resp.More || g.cut
	}
	return resp, nil
}

// keepAtMost returns how many pairs a Range has to keep while it scans: one more than the
// limit, which becomes the field more, and all of them if they are sorted by something
// else than the key before the limit cuts.
//
// As in etcd, a target other than the key with order NONE and no filter is cut by key
// first and sorted afterwards.
func keepAtMost(req *etcdserverpb.RangeRequest) int64 {
	filtered := req.MinModRevision != 0 || req.MaxModRevision != 0 || req.MinCreateRevision != 0 ||
		req.MaxCreateRevision != 0
	sortFirst := req.SortTarget != etcdserverpb.RangeRequest_KEY &&
		(req.SortOrder != etcdserverpb.RangeRequest_NONE || filtered)
	switch {
	case req.CountOnly:
		return 0
	case req.Limit <= 0 || req.Limit == math.MaxInt64 || sortFirst:
		return math.MaxInt64
	}
	return req.Limit + 1
}

// gatherer counts the pairs of a range and keeps those that the request asks for.
type gatherer struct {
	view    view
	req     *etcdserverpb.RangeRequest
	keep    int64
	most    int  // bytes
	page    bool // end as soon as that is reached, or PageBytes
	cut     bool // it was PageBytes
	measure bool // keep nothing but the size
	kept    int64
	kvs     []*mvccpb.KeyValue // kept of them, unless it only measures
	size    int                // of them, in bytes, about
	count   int64
}

// errPageEnds ends a scan: its page is full.
var errPageEnds = errors.New("the page ends")

func (g *gatherer) add(key []byte, rec record) error {
	g.count++
	if g.page && g.kept >= g.keep {
		return errPageEnds
	}
	if g.kept >= g.keep || !selected(g.req, rec) {
		return nil
	}
	valued := !g.req.KeysOnly || g.req.SortTarget == etcdserverpb.RangeRequest_VALUE
	g.size += len(key) + pairOverhead
	if valued {
		g.size += rec.length
	}
	if g.cut = g.page && g.size > PageBytes && g.kept > 0; g.cut {
		return errPageEnds
	}
	if g.size > g.most {
		return ErrResponseTooLarge
	}
	if g.kept++; g.measure {
		return nil
	}
	if !valued {
		rec.lease = 0 // as in etcd
	}
	key = bytes.Clone(key) // before anything is read, after which it is void
	var value []byte
	if valued {
		var err error
		if value, err = rec.load(g.view.r, key); err != nil {
			return err
		}
	}
	g.kvs = append(g.kvs, rec.keyValue(key, value))
	return nil
}

// selected applies the revision filters; 0 means no filter.
func selected(req *etcdserverpb.RangeRequest, rec record) bool {
	within := func(v, lowest, highest int64) bool {
		return (lowest == 0 || v >= lowest) && (highest == 0 || v <= highest)
	}
	return within(rec.mod, req.MinModRevision, req.MaxModRevision) &&
		within(rec.create, req.MinCreateRevision, req.MaxCreateRevision)
}

// finish sorts what was gathered, cuts it at the limit and strips the values of a
// keys-only request.
func finish(resp *etcdserverpb.RangeResponse, req *etcdserverpb.RangeRequest) {
	if compare := comparison(req); compare != nil {
		slices.SortStableFunc(resp.Kvs, compare)
	}
	if req.Limit > 0 && int64(len(resp.Kvs)) > req.Limit {
		resp.Kvs, resp.More = resp.Kvs[:req.Limit], true
	}
	if req.KeysOnly {
		for _, kv := range resp.Kvs {
			kv.Value = nil
		}
	}
}

// comparison returns the order that a request asks for, nil for that of the keys, in
// which the pairs were gathered. Equal pairs stay in ascending order of their keys.
func comparison(req *etcdserverpb.RangeRequest) func(a, b *mvccpb.KeyValue) int {
	var compare func(a, b *mvccpb.KeyValue) int
	switch req.SortTarget {
	case etcdserverpb.RangeRequest_VERSION:
		compare = func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.Version, b.Version) }
	case etcdserverpb.RangeRequest_CREATE:
		compare = func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) }
	case etcdserverpb.RangeRequest_MOD:
		compare = func(a, b *mvccpb.KeyValue) int { return cmp.Compare(a.ModRevision, b.ModRevision) }
	case etcdserverpb.RangeRequest_VALUE:
		compare = func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Value, b.Value) }
	default:
		return nil
	}
	if req.SortOrder != etcdserverpb.RangeRequest_DESCEND {
		return compare
	}
	return func(a, b *mvccpb.KeyValue) int { return compare(b, a) }
}
