package etcdtest

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// last is where the keys of a Range test lie: behind those of all others.
const last = "~"

// rangeKeys writes ~a to ~d so that each order is another one, and returns the revision
// before the first put.
func rangeKeys(t *testing.T, client *clientv3.Client) int64 {
	t.Helper()
	ctx := within(t, patience)
	gone, err := client.Delete(ctx, last, clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	before := gone.Header.Revision
	for _, put := range []struct{ key, value string }{
		{"d", "0"},
		{"b", "0"},
		{"b", "0"},
		{"a", "0"},
		{"b", "0"},
		{"b", "3"},
		{"d", "1"},
		{"c", "5"},
		{"a", "0"},
		{"a", "2"},
	} { // create order d b a c; mod order b d c a; version order c d a b; value order d a b c
		if _, err := client.Put(ctx, last+put.key, put.value); err != nil {
			t.Fatal(err)
		}
	}
	return before
}

func TestRange(t *testing.T) {
	onEach(t, func(t *testing.T, client *clientv3.Client) {
		base := rangeKeys(t, client)
		for _, tc := range rangeCases(base) {
			t.Run(tc.name, func(t *testing.T) {
				key := tc.key
				if key == "" {
					key = last
				}
				resp, err := client.Get(within(t, patience), key, tc.opts...)
				if !errors.Is(err, tc.err) {
					t.Fatalf("got error %v, want %v", err, tc.err)
				}
				if err != nil {
					return
				}
				got := answer{Count: resp.Count, More: resp.More}
				for _, kv := range resp.Kvs {
					got.Keys += string(kv.Key[1:])
					got.Values += string(kv.Value)
				}
				if d := cmp.Diff(tc.want, got); d != "" {
					t.Errorf("(-want +got):\n%s", d)
				}
				if want := base + 10; resp.Header.Revision != want || resp.Header.ClusterId == 0 || resp.Header.MemberId == 0 ||
					resp.Header.RaftTerm == 0 {
					t.Errorf("got header %v, want revision %d and the node that answered", resp.Header, want)
				}
			})
		}
	})
}

// answer is that of a Range, keys without what they all begin with.
type answer struct {
	Keys, Values string
	Count        int64
	More         bool
}

type rangeCase struct {
	name string
	key  string // last if empty
	opts []clientv3.OpOption
	want answer
	err  error
}

func rangeCases(base int64) []rangeCase {
	all := answer{"abcd", "2351", 4, false}
	prefix := clientv3.WithPrefix()
	with := func(opts ...clientv3.OpOption) []clientv3.OpOption {
		return append([]clientv3.OpOption{prefix}, opts...)
	}
	sorted := func(by clientv3.SortTarget, order clientv3.SortOrder) []clientv3.OpOption {
		return with(clientv3.WithSort(by, order))
	}
	return []rangeCase{
		{"one key", last + "c", nil, answer{"c", "5", 1, false}, nil},
		{"absent key", last + "x", nil, answer{}, nil},
		{"prefix", "", with(), all, nil},
		{"range end", last + "b", []clientv3.OpOption{clientv3.WithRange(last + "d")}, answer{"bc", "35", 2, false}, nil},
		{"empty range", last + "d", []clientv3.OpOption{clientv3.WithRange(last + "b")}, answer{}, nil},
		{"from key", last + "b", []clientv3.OpOption{clientv3.WithFromKey()}, answer{"bcd", "351", 3, false}, nil},
		{"limit", "", with(clientv3.WithLimit(2)), answer{"ab", "23", 4, true}, nil},
		{"limit that is all", "", with(clientv3.WithLimit(4)), all, nil},
		{"serializable", "", with(clientv3.WithSerializable()), all, nil},
		{"keys only", "", with(clientv3.WithKeysOnly()), answer{"abcd", "", 4, false}, nil},
		{"count only", "", with(clientv3.WithCountOnly()), answer{"", "", 4, false}, nil},

		{"current revision", "", with(clientv3.WithRev(base + 10)), all, nil},
		{"older revision", "", with(clientv3.WithRev(base + 9)), answer{"abcd", "0351", 4, false}, nil},
		{"revision before", "", with(clientv3.WithRev(base)), answer{}, nil},
		{"future revision", "", with(clientv3.WithRev(base + 11)), answer{}, rpctypes.ErrFutureRev},

		{"min mod revision", "", with(clientv3.WithMinModRev(base + 8)), answer{"ac", "25", 4, false}, nil},
		{"max mod revision", "", with(clientv3.WithMaxModRev(base + 7)), answer{"bd", "31", 4, false}, nil},
		{"min create revision", "", with(clientv3.WithMinCreateRev(base + 4)), answer{"ac", "25", 4, false}, nil},
		{"max create revision", "", with(clientv3.WithMaxCreateRev(base + 2)), answer{"bd", "31", 4, false}, nil},
		{
			"both ends of mod", "", with(clientv3.WithMinModRev(base+7), clientv3.WithMaxModRev(base+8)),
			answer{"cd", "51", 4, false},
			nil,
		},

		{"by key", "", sorted(clientv3.SortByKey, clientv3.SortAscend), all, nil},
		{"by key, descending", "", sorted(clientv3.SortByKey, clientv3.SortDescend), answer{"dcba", "1532", 4, false}, nil},
		{"by version", "", sorted(clientv3.SortByVersion, clientv3.SortAscend), answer{"cdab", "5123", 4, false}, nil},
		{
			"by version, descending", "", sorted(clientv3.SortByVersion, clientv3.SortDescend),
			answer{"badc", "3215", 4, false},
			nil,
		},
		{
			"by creation", "", sorted(clientv3.SortByCreateRevision, clientv3.SortAscend),
			answer{"dbac", "1325", 4, false},
			nil,
		},
		{
			"by creation, descending", "", sorted(clientv3.SortByCreateRevision, clientv3.SortDescend),
			answer{"cabd", "5231", 4, false},
			nil,
		},
		{
			"by modification", "", sorted(clientv3.SortByModRevision, clientv3.SortAscend),
			answer{"bdca", "3152", 4, false},
			nil,
		},
		{
			"by modification, descending", "", sorted(clientv3.SortByModRevision, clientv3.SortDescend),
			answer{"acdb", "2513", 4, false},
			nil,
		},
		{"by value", "", sorted(clientv3.SortByValue, clientv3.SortAscend), answer{"dabc", "1235", 4, false}, nil},
		{
			"by value, descending", "", sorted(clientv3.SortByValue, clientv3.SortDescend),
			answer{"cbad", "5321", 4, false},
			nil,
		},

		{"sorted before the limit", "", with(clientv3.WithSort(clientv3.SortByModRevision, clientv3.SortDescend),
			clientv3.WithLimit(2)), answer{"ac", "25", 4, true}, nil},
		{
			"filtered, sorted, cut", "", with(clientv3.WithMinModRev(base+7),
				clientv3.WithSort(clientv3.SortByValue, clientv3.SortAscend), clientv3.WithLimit(2)),
			answer{"da", "12", 4, true},
			nil,
		},
		{"first key", "", clientv3.WithFirstKey(), answer{"a", "2", 4, true}, nil},
		{"last key", "", clientv3.WithLastKey(), answer{"d", "1", 4, true}, nil},
		{"first revision", "", clientv3.WithFirstRev(), answer{"b", "3", 4, true}, nil},
		{"last revision", "", clientv3.WithLastRev(), answer{"a", "2", 4, true}, nil},
		{"first created", "", clientv3.WithFirstCreate(), answer{"d", "1", 4, true}, nil},
		{"last created", "", clientv3.WithLastCreate(), answer{"c", "5", 4, true}, nil},
	}
}
