package etcdtest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func TestPut(t *testing.T) {
	onEach(t, func(t *testing.T, client *clientv3.Client) {
		ctx := within(t, patience)
		if _, err := client.Delete(ctx, "put/", clientv3.WithPrefix()); err != nil {
			t.Fatal(err)
		}
		first, err := client.Put(ctx, "put/a", "1", clientv3.WithPrevKV())
		if err != nil || first.PrevKv != nil {
			t.Fatalf("got %v, %v; want no pair before", first, err)
		}
		second, err := client.Put(ctx, "put/a", "2", clientv3.WithPrevKV())
		if err != nil || string(second.PrevKv.GetValue()) != "1" || second.Header.Revision != first.Header.Revision+1 {
			t.Fatalf("got %v, %v; want the pair before and the next revision", second, err)
		}
		if _, err := client.Put(ctx, "put/a", "", clientv3.WithIgnoreValue()); err != nil {
			t.Fatal(err)
		}
		if _, err := client.Put(ctx, "put/a", "3", clientv3.WithIgnoreLease()); err != nil {
			t.Fatal(err)
		}
		got, err := client.Get(ctx, "put/a")
		if err != nil || len(got.Kvs) != 1 {
			t.Fatalf("got %v, %v; want the key", got, err)
		}
		if kv := got.Kvs[0]; string(kv.Value) != "3" || kv.Version != 4 || kv.Lease != 0 ||
			kv.CreateRevision != first.Header.Revision || kv.ModRevision != first.Header.Revision+3 {
			t.Errorf("got %v, want the fourth version of what was created at %d", kv, first.Header.Revision)
		}
	})
}

func TestDelete(t *testing.T) {
	onEach(t, func(t *testing.T, client *clientv3.Client) {
		ctx := within(t, patience)
		for _, tc := range []struct {
			name, key string
			opts      []clientv3.OpOption
			deleted   int64
			prev      string // values of the pairs before
			left      string
		}{
			{"one key", "~b", nil, 1, "", "acd"},
			{"absent key", "~x", nil, 0, "", "abcd"},
			{"pair before", "~b", []clientv3.OpOption{clientv3.WithPrevKV()}, 1, "3", "acd"},
			{"prefix", "~", []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithPrevKV()}, 4, "2351", ""},
			{"from key", "~c", []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithPrevKV()}, 2, "51", "ab"},
			{"range end", "~b", []clientv3.OpOption{clientv3.WithRange("~d"), clientv3.WithPrevKV()}, 2, "35", "ad"},
		} {
			base := rangeKeys(t, client)
			resp, err := client.Delete(ctx, tc.key, tc.opts...)
			if err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			prev, left := "", ""
			for _, kv := range resp.PrevKvs {
				prev += string(kv.Value)
			}
			rest, err := client.Get(ctx, "~", clientv3.WithFromKey())
			if err != nil {
				t.Fatalf("%s: %v", tc.name, err)
			}
			for _, kv := range rest.Kvs {
				left += string(kv.Key[1:])
			}
			wantRev := base + 10
			if tc.deleted > 0 {
				wantRev++ // however many keys
			}
			if resp.Deleted != tc.deleted || prev != tc.prev || left != tc.left || resp.Header.Revision != wantRev {
				t.Errorf("%s: got %d deleted, %q before, %q left, revision %d; want %d, %q, %q, %d", tc.name,
					resp.Deleted, prev, left, resp.Header.Revision, tc.deleted, tc.prev, tc.left, wantRev)
			}
		}
	})
}

func TestRefusedRequests(t *testing.T) {
	onEach(t, func(t *testing.T, client *clientv3.Client) {
		put := func(key, value string, opts ...clientv3.OpOption) error {
			_, err := client.Put(within(t, patience), key, value, opts...)
			return err
		}
		_, emptyGet := client.Get(within(t, patience), "")
		_, emptyDelete := client.Delete(within(t, patience), "")
		for name, tc := range map[string]struct{ got, want error }{
			"get of no key":           {emptyGet, rpctypes.ErrEmptyKey},
			"delete of no key":        {emptyDelete, rpctypes.ErrEmptyKey},
			"put of no key":           {put("", "1"), rpctypes.ErrEmptyKey},
			"key of 4 KiB and a byte": {put(strings.Repeat("k", 4<<10+1), "1"), rpctypes.ErrRequestTooLarge},
			"value that is too large": {put("refused/a", strings.Repeat("v", 1900<<10)), rpctypes.ErrRequestTooLarge},
			"no value, no key":        {put("refused/a", "", clientv3.WithIgnoreValue()), rpctypes.ErrKeyNotFound},
			"no lease, no key":        {put("refused/a", "1", clientv3.WithIgnoreLease()), rpctypes.ErrKeyNotFound},
			"a value to ignore":       {put("refused/a", "1", clientv3.WithIgnoreValue()), rpctypes.ErrValueProvided},
			"a lease to ignore": {
				put("refused/a", "1", clientv3.WithIgnoreLease(), clientv3.WithLease(7)),
				rpctypes.ErrLeaseProvided,
			},
			"a lease, which nobody gave": {put("refused/a", "1", clientv3.WithLease(7)), rpctypes.ErrLeaseNotFound},
		} {
			if !errors.Is(tc.got, tc.want) {
				t.Errorf("%s: got %v, want %v", name, tc.got, tc.want)
			}
		}
		if got, err := client.Get(within(t, patience), "refused/", clientv3.WithPrefix()); err != nil || got.Count != 0 {
			t.Errorf("got %v, %v; want nothing written", got, err)
		}
	})
}

func TestZoneInTheMetadata(t *testing.T) {
	client := dial(t, shared.endpoints()...)
	in := func(zone string) context.Context {
		return metadata.AppendToOutgoingContext(within(t, patience), "nexus-zone", zone)
	}
	if _, err := client.Put(in("1"), "zone/a", "1"); err != nil {
		t.Errorf("root zone by name: %v", err)
	}
	if _, err := client.Put(in("77"), "zone/a", "1"); status.Code(err) != codes.NotFound {
		t.Errorf("unknown zone: got %v, want NotFound", err)
	}
	if _, err := client.Get(in("xyz"), "zone/a"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no zone ID: got %v, want InvalidArgument", err)
	}
}

func TestWhatIsNotOffered(t *testing.T) {
	client := dial(t, shared.endpoints()...)
	_, defragment := client.Defragment(within(t, patience), shared.endpoints()[0])
	_, remove := client.MemberRemove(within(t, patience), 1)
	for name, err := range map[string]error{
		"Defragment": defragment, "MemberRemove": remove,
	} {
		if err == nil || !strings.Contains(err.Error(), name+" is not offered yet") ||
			!strings.Contains(err.Error(), "Unimplemented") {
			t.Errorf("%s: got %v, want Unimplemented and what is offered", name, err)
		}
	}
}

func TestClientsThatGiveUp(t *testing.T) {
	onEach(t, func(t *testing.T, client *clientv3.Client) {
		value := strings.Repeat("v", 1<<20)
		for _, key := range []string{"big/a", "big/b", "big/c", "big/d", "big/e", "big/f", "big/g", "big/h"} {
			if _, err := client.Put(within(t, patience), key, value); err != nil {
				t.Fatal(err)
			}
		}
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := client.Put(cancelled, "gone/a", "1"); !errors.Is(err, context.Canceled) {
			t.Errorf("put with a cancelled context: got %v", err)
		}
		if _, err := client.Get(cancelled, "gone/a"); !errors.Is(err, context.Canceled) {
			t.Errorf("get with a cancelled context: got %v", err)
		}
		// some end in the middle of the answer
		for limit := time.Millisecond; limit < 20*time.Millisecond; limit += time.Millisecond {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			_, err := client.Get(ctx, "big/", clientv3.WithPrefix())
			if cancel(); err != nil && !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("get within %v: got %v, want DeadlineExceeded", limit, err)
			}
		}
		for range 5 { // a client that disconnects
			gone, asked := dial(t, client.Endpoints()...), make(chan struct{})
			ctx := within(t, 200*time.Millisecond) // it would ask a hundred times
			go func() {
				defer close(asked)
				gone.Get(ctx, "big/", clientv3.WithPrefix()) // how it fails depends on when
			}()
			gone.Close()
			<-asked
		}
		got, err := client.Get(within(t, patience), "big/", clientv3.WithPrefix())
		if err != nil || len(got.Kvs) != 8 || !bytes.Equal(got.Kvs[7].Value, []byte(value)) {
			t.Fatalf("afterwards: got %d pairs, %v; want all 8", len(got.Kvs), err)
		}
		if absent, err := client.Get(within(t, patience), "gone/a"); err != nil || absent.Count != 0 {
			t.Errorf("got %v, %v; want nothing written by a cancelled put", absent, err)
		}
		if _, err := client.Delete(within(t, patience), "big/", clientv3.WithPrefix()); err != nil {
			t.Error(err)
		}
	})
}
