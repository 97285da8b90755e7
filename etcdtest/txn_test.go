package etcdtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// mustTxn commits a transaction.
func mustTxn(
	t *testing.T, client *clientv3.Client, compare clientv3.Cmp, then, otherwise clientv3.Op,
) *clientv3.TxnResponse {
	t.Helper()
	resp, err := client.Txn(within(t, patience)).If(compare).Then(then).Else(otherwise).Commit()
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// A compare and swap, as Kubernetes does it: the new value if nobody was faster, otherwise what is there.
func TestCompareAndSwap(t *testing.T) {
	onEach(t, func(t *testing.T, client *clientv3.Client) {
		const key = "swapped"
		if _, err := client.Delete(within(t, patience), key); err != nil {
			t.Fatal(err)
		}
		swap := func(rev int64, value string) *clientv3.TxnResponse {
			return mustTxn(t, client, clientv3.Compare(clientv3.ModRevision(key), "=", rev), clientv3.OpPut(key, value),
				clientv3.OpGet(key))
		}
		first := swap(0, "1")
		if !first.Succeeded || first.Header.Revision == 0 || first.Header.MemberId == 0 {
			t.Fatalf("create: got %v", first)
		}
		if late := swap(0, "2"); late.Succeeded || string(late.Responses[0].GetResponseRange().Kvs[0].Value) != "1" {
			t.Errorf("by one that was late: got %v", late)
		}
		var wg sync.WaitGroup
		won := make(chan string, 8)
		for i := range 8 {
			wg.Go(func() {
				value := fmt.Sprint("racer ", i)
				resp, err := client.Txn(within(t, patience)).If(clientv3.Compare(clientv3.ModRevision(key), "=",
					first.Header.Revision)).Then(clientv3.OpPut(key, value)).Commit()
				if err != nil {
					t.Error(err)
				} else if resp.Succeeded {
					won <- value
				}
			})
		}
		wg.Wait()
		close(won)
		got, err := client.Get(within(t, patience), key)
		if winner, more := <-won, len(won); err != nil || more != 0 || string(got.Kvs[0].Value) != winner {
			t.Errorf("%d more winners than %q, the value is %v, %v", more, winner, got.Kvs, err)
		}
	})
}

// Members that are asked for the same answer the same, and refused transactions write nothing on either (etcd
// 18667, 18679): ranges at a compacted revision, nested or not; -1 is one of those (etcd 13871).
func TestRefusedTxnsWriteNothing(t *testing.T) {
	c := ownCluster(t)
	client := dial(t, c.endpoints()...)
	var rev int64
	for i := range 20 {
		resp, err := client.Put(within(t, patience), "a", fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		rev = resp.Header.Revision
	}
	if _, err := client.Compact(within(t, patience), rev-2, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	put := clientv3.OpPut("b", "x")
	at := func(rev int64) clientv3.Op { return clientv3.OpGet("a", clientv3.WithRev(rev)) }
	nested := func(op clientv3.Op) clientv3.Op { return clientv3.OpTxn(nil, []clientv3.Op{op}, nil) }
	for _, m := range c.members {
		asked := dial(t, m.address)
		for name, tc := range map[string]struct {
			ops  []clientv3.Op
			want error
		}{
			"compacted":         {[]clientv3.Op{put, at(rev - 3)}, rpctypes.ErrCompacted},
			"nested":            {[]clientv3.Op{put, nested(at(1))}, rpctypes.ErrCompacted},
			"-1":                {[]clientv3.Op{put, at(-1)}, rpctypes.ErrCompacted},
			"future":            {[]clientv3.Op{put, at(rev + 1)}, rpctypes.ErrFutureRev},
			"a key twice":       {[]clientv3.Op{put, nested(put)}, rpctypes.ErrDuplicateKey},
			"a lease":           {[]clientv3.Op{put, clientv3.OpPut("c", "", clientv3.WithLease(7))}, rpctypes.ErrLeaseNotFound},
			"reads only":        {[]clientv3.Op{at(rev - 3)}, rpctypes.ErrCompacted},
			"reads only, ahead": {[]clientv3.Op{at(rev + 1)}, rpctypes.ErrFutureRev},
		} {
			if _, err := asked.Txn(within(t, patience)).Then(tc.ops...).Commit(); !errors.Is(err, tc.want) {
				t.Errorf("%s at %s: got %v, want %v", name, m.name, err, tc.want)
			}
		}
	}
	for _, m := range c.members {
		got, err := dial(t, m.address).Get(within(t, patience), "b")
		if err != nil || got.Header.Revision != rev || len(got.Kvs) != 0 {
			t.Errorf("%s has %v at revision %d, %v; want nothing at %d", m.name, got.Kvs, got.Header.Revision, err, rev)
		}
	}
	sameHash(t, c, rev)
	for _, tc := range []struct {
		rev  int64
		want error
	}{{rev - 2, rpctypes.ErrCompacted}, {rev + 1, rpctypes.ErrFutureRev}, {rev, nil}, {rev, rpctypes.ErrCompacted}} {
		if _, err := client.Compact(within(t, patience), tc.rev); !errors.Is(err, tc.want) {
			t.Errorf("compact %d: got %v, want %v", tc.rev, err, tc.want)
		}
	}
	sameHash(t, c, rev)
}

// sameHash compares the members' checksums.
func sameHash(t *testing.T, c *cluster, rev int64) {
	t.Helper()
	var sums []uint32
	for _, m := range c.members {
		client := dial(t, m.address)
		if _, err := client.Get(within(t, patience), "a"); err != nil { // has it applied all that there is
			t.Fatal(err)
		}
		h, err := client.HashKV(within(t, patience), m.address, rev)
		if err != nil || h.HashRevision != rev {
			t.Fatalf("hash of %s: %v, %v", m.name, h, err)
		}
		sums = append(sums, h.Hash)
	}
	if sums[0] != sums[1] {
		t.Errorf("the members' checksums at %d are %x and %x", rev, sums[0], sums[1])
	}
}

// A stream of a range is the range, whatever its size.
func TestRangeStream(t *testing.T) {
	onEach(t, func(t *testing.T, client *clientv3.Client) {
		value := strings.Repeat("v", 100<<10)
		for i := range 30 {
			if _, err := client.Put(within(t, patience), fmt.Sprintf("stream/%02d", i), value); err != nil {
				t.Fatal(err)
			}
		}
		want, err := client.Get(within(t, patience), "stream/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		stream, err := client.GetStream(within(t, patience), "stream/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		got, err := clientv3.GetStreamToGetResponse(stream)
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Kvs) != 30 || got.Count != want.Count || got.Header.Revision != want.Header.Revision {
			t.Errorf("got %d pairs, count %d, header %v", len(got.Kvs), got.Count, got.Header)
		}
	})
}

// etcdctl's transactions, compactions and checksums.
func TestEtcdctlTxn(t *testing.T) {
	if _, err := etcdctl(t, "put", "ctl", "1"); err != nil {
		t.Fatal(err)
	}
	out, err := etcdctl(t, "get", "ctl", "-w", "json")
	var got struct{ Header struct{ Revision int64 } }
	if err != nil || json.Unmarshal([]byte(out), &got) != nil {
		t.Fatalf("got %s, %v", out, err)
	}
	if _, err := etcdctl(t, "put", "ctl", "2"); err != nil {
		t.Fatal(err)
	}
	out, err = etcdctl(t, "get", "ctl", "--print-value-only", "--rev", fmt.Sprint(got.Header.Revision))
	if err != nil || strings.TrimSpace(out) != "1" {
		t.Errorf("get --rev: got %q, %v", out, err)
	}
	out, err = etcdctl(t, "endpoint", "hashkv", "-w", "json")
	if err != nil || strings.Count(out, "hash_revision") != 2 {
		t.Errorf("hashkv: got %s, %v", out, err)
	}
}
