package kv

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

func mustGrant(t testing.TB, tx *memTx, id, ttl int64) {
	t.Helper()
	if _, err := grant(t, tx, id, ttl); err != nil {
		t.Fatal(err)
	}
}

func grant(t testing.TB, tx *memTx, id, ttl int64) (*etcdserverpb.LeaseGrantResponse, error) {
	t.Helper()
	command, err := EncodeGrant(id, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return DecodeGrantResult(apply(t, tx, command))
}

func revoke(t testing.TB, tx *memTx, id, generation int64) (int64, error) {
	t.Helper()
	resp, err := DecodeRevokeResult(apply(t, tx, EncodeRevoke(id, generation)))
	return resp.GetHeader().GetRevision(), err
}

func putLeased(t testing.TB, tx *memTx, key string, lease int64) error {
	t.Helper()
	_, err := DecodePutResult(apply(t, tx, rawPut(t, &etcdserverpb.PutRequest{Key: []byte(key), Lease: lease})))
	return err
}

func leased(t testing.TB, tx *memTx, id int64) string {
	t.Helper()
	var keys []string
	err := LeaseKeys(tx, id, func(key []byte) error {
		keys = append(keys, string(key))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(keys, " ")
}

func mustLease(t testing.TB, tx *memTx, id int64) Lease {
	t.Helper()
	l, ok, err := LeaseOf(tx, id)
	if err != nil || !ok {
		t.Fatalf("lease %d: %t, %v", id, ok, err)
	}
	return l
}

// A lease's whole life: granted, keys attached, moved and detached, revoked with one revision.
func TestLease(t *testing.T) {
	tx := newTx()
	resp, err := grant(t, tx, 7, 60)
	if err != nil || resp.ID != 7 || resp.TTL != 60 || resp.Header.Revision != 1 {
		t.Fatalf("got %v, %v", resp, err)
	}
	if _, err := grant(t, tx, 7, 5); !errors.Is(err, ErrLeaseExists) {
		t.Fatalf("got %v", err)
	}
	mustGrant(t, tx, 3, 5)
	for _, key := range []string{"c", "a", "b", "d"} {
		if err := putLeased(t, tx, key, 7); err != nil {
			t.Fatal(err)
		}
	}
	if err := putLeased(t, tx, "x", 8); !errors.Is(err, ErrLeaseNotFound) {
		t.Fatalf("got %v", err)
	}
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("2"), IgnoreLease: true})
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("c"), Lease: 3})
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("d")})
	if got := leased(t, tx, 7) + "; " + leased(t, tx, 3); got != "a b; c" {
		t.Fatalf("got %s", got)
	}
	if err := Check(tx); err != nil {
		t.Fatal(err)
	}
	tx.events = nil
	if rev, err := revoke(t, tx, 7, 0); rev != 9 || err != nil {
		t.Fatalf("got revision %d, %v", rev, err)
	}
	if _, err := revoke(t, tx, 7, 0); !errors.Is(err, ErrLeaseNotFound) {
		t.Fatalf("got %v", err)
	}
	if len(tx.events) != 2 || tx.events[0].kind != EventDelete {
		t.Errorf("got %v", tx.events)
	}
	all := mustRange(t, tx, &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if got := fmt.Sprint(len(all.Kvs), all.Header.Revision, string(all.Kvs[0].Key)); got != "2 9c" {
		t.Errorf("got %s", got)
	}
	if counts, err := LeaseStanding(tx); err != nil || counts != (LeaseCounts{2, 1}) {
		t.Errorf("got %v, %v", counts, err)
	}
	if err := Check(tx); err != nil {
		t.Fatal(err)
	}
}

// A checkpoint and what is granted after take new generations, by which followers find them, and a revoke that
// names an old one does nothing (etcd 15247, 12528).
func TestLeaseGenerations15247(t *testing.T) {
	tx := newTx()
	for id := int64(1); id <= 3; id++ {
		mustGrant(t, tx, id, 60)
	}
	done, err := DecodeCheckpointResult(apply(t, tx, EncodeCheckpoint([]Remaining{
		{2, 2, 30}, {1, 9, 30}, {4, 1, 30}, {1, 1, 60},
	})))
	want := []Lease{{ID: 2, TTL: 60, Generation: 4, Remaining: 30}, {ID: 1, TTL: 60, Generation: 5}}
	if err != nil || !slices.Equal(done, want) {
		t.Fatalf("got %v, %v, want %v", done, err, want)
	}
	var since []Lease
	err = LeasesSince(tx, 3, func(l Lease) error {
		since = append(since, l)
		return nil
	})
	if err != nil || !slices.Equal(since, want) {
		t.Fatalf("got %v, %v, want %v", since, err, want)
	}
	if _, err := revoke(t, tx, 2, 2); !errors.Is(err, ErrLeaseRenewed) {
		t.Fatalf("got %v", err)
	}
	if rev, err := revoke(t, tx, 2, 4); rev != 1 || err != nil {
		t.Fatalf("got revision %d, %v", rev, err)
	}
}

// In a zone whose nodes are not all of this release there are no leases, and their commands leave nothing.
func TestNoLeasesYet(t *testing.T) {
	for version := range uint32(VersionLeases) {
		tx := newTx()
		tx.version = version
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a")})
		before := dump(tx)
		_, grantErr := grant(t, tx, 1, 60)
		_, revokeErr := revoke(t, tx, 1, 0)
		_, checkpointErr := DecodeCheckpointResult(apply(t, tx, EncodeCheckpoint(nil)))
		for _, err := range []error{grantErr, revokeErr, checkpointErr} {
			if !errors.Is(err, ErrNoLeases) {
				t.Errorf("version %d: got %v", version, err)
			}
		}
		if err := putLeased(t, tx, "a", 1); !errors.Is(err, ErrLeaseNotFound) {
			t.Errorf("version %d: got %v", version, err)
		}
		if dump(tx) != before {
			t.Errorf("version %d: the state has changed", version)
		}
	}
}
