package kv

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func keysOf(resp *etcdserverpb.RangeResponse) string {
	var keys []string
	for _, kv := range resp.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return strings.Join(keys, " ")
}

func TestRangeRequestsThatAreRefused(t *testing.T) {
	tx := newTx()
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a")}) // revision 2
	apply(t, tx, rawCompact(t, 2))
	tests := []struct {
		req  *etcdserverpb.RangeRequest
		want error
	}{
		{&etcdserverpb.RangeRequest{RangeEnd: []byte("z")}, ErrEmptyKey},
		{&etcdserverpb.RangeRequest{Key: []byte("a"), SortOrder: 3}, ErrInvalidSort},
		{&etcdserverpb.RangeRequest{Key: []byte("a"), SortTarget: 5}, ErrInvalidSort},
		{&etcdserverpb.RangeRequest{Key: []byte("a"), Revision: 1}, ErrCompacted},
		{&etcdserverpb.RangeRequest{Key: []byte("a"), Revision: 3}, ErrFutureRevision},
	}
	for _, test := range tests {
		if _, got := Range(tx, test.req); !errors.Is(got, test.want) {
			t.Errorf("%v: got %v, want %v", test.req, got, test.want)
		}
	}
	mustRange(t, tx, &etcdserverpb.RangeRequest{Key: []byte("a"), Revision: 2})
}

func TestRangeForms(t *testing.T) {
	tx := newTx()
	for _, k := range []string{"b", "a", "ab", "a\xff", "\x00", "c"} {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte(k)})
	}
	tests := []struct{ key, end, want string }{
		{"a", "", "a"},
		{"x", "", ""},
		{"a", "b", "a ab a\xff"},       // prefix a
		{"a\xff", "b", "a\xff"},        // prefix a 0xff
		{"ab", "\x00", "ab a\xff b c"}, // from a key on
		{"\x00", "\x00", "\x00 a ab a\xff b c"},
		{"b", "a", ""},
		{"a", "a", ""},
		{"a", "a\x00", "a"},
	}
	for _, test := range tests {
		req := &etcdserverpb.RangeRequest{Key: []byte(test.key), RangeEnd: []byte(test.end)}
		if got := keysOf(mustRange(t, tx, req)); got != test.want {
			t.Errorf("[%q, %q): got %q, want %q", test.key, test.end, got, test.want)
		}
	}
}

func TestLimitMoreAndCount(t *testing.T) {
	tx := newTx()
	for _, k := range []string{"a", "b", "c"} {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte(k), Value: []byte("v")})
	}
	type outcome struct {
		Keys  string
		More  bool
		Count int64
	}
	tests := []struct {
		limit int64
		order etcdserverpb.RangeRequest_SortOrder
		want  outcome
	}{
		{0, etcdserverpb.RangeRequest_NONE, outcome{"a b c", false, 3}},
		{2, etcdserverpb.RangeRequest_NONE, outcome{"a b", true, 3}},
		{3, etcdserverpb.RangeRequest_NONE, outcome{"a b c", false, 3}},
		{math.MaxInt64, etcdserverpb.RangeRequest_NONE, outcome{"a b c", false, 3}},
		{1, etcdserverpb.RangeRequest_DESCEND, outcome{"c", true, 3}},
	}
	for _, test := range tests {
		req := &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Limit: test.limit, SortOrder: test.order}
		resp := mustRange(t, tx, req)
		got := outcome{keysOf(resp), resp.More, resp.Count}
		if diff := cmp.Diff(test.want, got); diff != "" {
			t.Errorf("limit %d %v (-want +got):\n%s", test.limit, test.order, diff)
		}
	}
}

// etcd takes the limit's worth of keys first when a target comes without an order, and
// sorts what it took.
func TestUnorderedTargetIsCutFirst(t *testing.T) {
	tx := newTx()
	for _, kv := range []string{"a3", "b2", "c9", "d1"} {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte(kv[:1]), Value: []byte(kv[1:])})
	}
	req := &etcdserverpb.RangeRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, Limit: 2, SortTarget: etcdserverpb.RangeRequest_VALUE,
	}
	resp := mustRange(t, tx, req)
	if got, want := keysOf(resp), "b a"; got != want || !resp.More {
		t.Errorf("without order: got %q, more %t, want %q and more", got, resp.More, want)
	}
	req.SortOrder = etcdserverpb.RangeRequest_ASCEND
	if got, want := keysOf(mustRange(t, tx, req)), "d b"; got != want {
		t.Errorf("ascending: got %q, want %q", got, want)
	}
}

// endless is a state with n pairs of the same large value.
type endless struct {
	nexusraft.Reader
	n     int
	value []byte
}

func (e endless) Get(key []byte) ([]byte, bool, error) {
	return nil, false, nil
}

func (e endless) Scan(_, _ []byte) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		for i := range e.n {
			if !yield(nexusraft.Pair{Key: fmt.Appendf(nil, "k%06d", i), Value: e.value}, nil) {
				return
			}
		}
	}
}

func TestLargeAnswersAreRefused(t *testing.T) {
	const valueBytes = 64 << 10
	state := endless{n: 64}
	state.value = record{create: 2, mod: 2, version: 1, value: make([]byte, valueBytes)}.encodeNewest()
	req := &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	const most = 32 * valueBytes
	_, err := Within(state, req, false, most)
	if !errors.Is(err, ErrResponseTooLarge) || !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("whole range: got %v, want %v", err, ErrResponseTooLarge)
	}
	const overhead = pairOverhead + len("000000")
	for _, tc := range []struct {
		req  *etcdserverpb.RangeRequest
		size int
	}{
		{&etcdserverpb.RangeRequest{Key: req.Key, RangeEnd: req.RangeEnd, Limit: 10}, 11 * (valueBytes + overhead)},
		{&etcdserverpb.RangeRequest{Key: req.Key, RangeEnd: req.RangeEnd, KeysOnly: true}, 64 * overhead},
		{&etcdserverpb.RangeRequest{Key: req.Key, RangeEnd: req.RangeEnd, CountOnly: true}, 0},
		{req, 64 * (valueBytes + overhead)},
	} {
		size, err := Measure(state, tc.req)
		if err != nil || size != tc.size {
			t.Errorf("%v measures %d, %v; want %d", tc.req, size, err, tc.size)
		}
		got, err := Within(state, tc.req, false, size)
		if err != nil || got.Count != int64(state.n) {
			t.Errorf("%v within what it measures: got count %d, %v; want %d", tc.req, got.GetCount(), err, state.n)
		}
		if size == 0 {
			continue
		}
		if _, err := Within(state, tc.req, false, size-1); !errors.Is(err, ErrResponseTooLarge) {
			t.Errorf("%v within less: got %v, want %v", tc.req, err, ErrResponseTooLarge)
		}
	}
}

// A page costs what it returns, and pages together are the whole.
func TestPages(t *testing.T) {
	tx := newTx()
	const keys, large = 200, 100
	for i := range keys {
		value := make([]byte, 8)
		if i == large {
			value = make([]byte, PageBytes+1)
		}
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "k%03d", i), Value: value})
	}
	var got []string
	var sizes []int
	for req := (&etcdserverpb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), Limit: 70}); ; {
		tx.calls = 0
		resp, err := Page(tx, req)
		if err != nil {
			t.Fatal(err)
		}
		if tx.calls > len(resp.Kvs)+3 {
			t.Errorf("a page of %d pairs took %d reads", len(resp.Kvs), tx.calls)
		}
		if resp.Count != int64(len(resp.Kvs)) {
			t.Errorf("count %d, want %d", resp.Count, len(resp.Kvs))
		}
		for _, kv := range resp.Kvs {
			got = append(got, string(kv.Key))
		}
		sizes = append(sizes, len(resp.Kvs))
		if !resp.More {
			break
		}
		req.Key = append(resp.Kvs[len(resp.Kvs)-1].Key, 0)
	}
	for i := range keys {
		if want := fmt.Sprintf("k%03d", i); len(got) != keys || got[i] != want {
			t.Fatalf("got %d keys %q", len(got), got)
		}
	}
	if want := []int{70, 30, 1, 70, 29}; !slices.Equal(sizes, want) {
		t.Errorf("pages of %d pairs, want %d", sizes, want)
	}
}

// A key is there up to, and without, the revision that has deleted it, and from the one that has put it.
func TestRevisionsAtTheirEnds(t *testing.T) {
	tx := newTx()
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("1")}) // revision 2
	mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("a")})          // 3
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("b")})                     // 4
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("5")}) // 5
	for rev, want := range map[int64]string{1: "", 2: "1", 3: "", 4: "", 5: "5"} {
		for _, end := range []string{"", "b"} {
			got := ""
			for _, kv := range mustRange(t, tx, &etcdserverpb.RangeRequest{
				Key: []byte("a"), RangeEnd: []byte(end), Revision: rev,
			}).Kvs {
				got += string(kv.Value)
			}
			if got != want {
				t.Errorf("at revision %d, to %q: got %q, want %q", rev, end, got, want)
			}
		}
	}
}

// Ranges of more keys than are gathered at once, in both directions, now and long ago, with few changes since and many.
func TestLongRangesOfOldRevisions(t *testing.T) {
	const keys = 3*gatherRows/2 + 1
	tx := newTx()
	for i := range keys {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "k%04d", i), Value: []byte("old")})
	}
	rev := mustRange(t, tx, key("k")).Header.Revision
	for i := 0; i < keys; i += 3 {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "k%04d", i), Value: []byte("new")})
		mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: fmt.Appendf(nil, "k%04d", i+1)})
	}
	most := maxUndone
	defer func() { maxUndone = most }()
	for _, maxUndone = range []int{most, 10} {
		for _, order := range []etcdserverpb.RangeRequest_SortOrder{
			etcdserverpb.RangeRequest_ASCEND, etcdserverpb.RangeRequest_DESCEND,
		} {
			resp := mustRange(t, tx, &etcdserverpb.RangeRequest{
				Key: []byte("k"), RangeEnd: []byte("l"), Revision: rev, SortOrder: order,
			})
			count := mustRange(t, tx, &etcdserverpb.RangeRequest{
				Key: []byte("k"), RangeEnd: []byte("l"), Revision: rev, CountOnly: true,
			}).Count
			if len(resp.Kvs) != keys || resp.Count != keys || count != keys {
				t.Fatalf("%v, up to %d changes taken back: %d pairs, counted as %d and %d, want %d", order, maxUndone,
					len(resp.Kvs), resp.Count, count, keys)
			}
			for i, kv := range resp.Kvs {
				n := i
				if order == etcdserverpb.RangeRequest_DESCEND {
					n = keys - 1 - i
				}
				if want := fmt.Sprintf("k%04d", n); string(kv.Key) != want || string(kv.Value) != "old" {
					t.Fatalf("%v, up to %d changes taken back: pair %d is %s=%s, want %s=old", order, maxUndone, i, kv.Key,
						kv.Value, want)
				}
			}
		}
	}
}
