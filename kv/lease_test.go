package kv

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
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

// A lease with more keys than one command removes goes in several, in the order of the keys. From the first one on it
// has ended, whoever asks (etcd 14758).
func TestLeaseThatIsRevokedInParts14758(t *testing.T) {
	revokesFew(t, 2)
	tx := newTx()
	mustGrant(t, tx, 7, 60)
	for _, key := range []string{"e", "a", "d", "c", "b"} {
		if err := putLeased(t, tx, key, 7); err != nil {
			t.Fatal(err)
		}
	}
	tx.events = nil
	if _, err := revoke(t, tx, 7, 9); !errors.Is(err, ErrLeaseRenewed) {
		t.Fatalf("another generation: %v", err)
	}
	if rev, err := revoke(t, tx, 7, 1); rev != 7 || !errors.Is(err, ErrLeaseRevoking) {
		t.Fatalf("got revision %d, %v", rev, err)
	}
	if got, want := mustLease(t, tx, 7), (Lease{ID: 7, TTL: 60, Generation: 2, Revoking: true}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if err := putLeased(t, tx, "f", 7); !errors.Is(err, ErrLeaseNotFound) {
		t.Errorf("a key more: got %v", err)
	}
	if err := putLeased(t, tx, "c", 7); !errors.Is(err, ErrLeaseNotFound) {
		t.Errorf("a key that it has: got %v", err)
	}
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("d"), IgnoreLease: true})
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("c")})
	if _, err := grant(t, tx, 7, 60); !errors.Is(err, ErrLeaseExists) {
		t.Errorf("granted again: %v", err)
	}
	done, err := DecodeCheckpointResult(apply(t, tx, EncodeCheckpoint([]Remaining{{7, 2, 0}})))
	if err != nil || len(done) > 0 {
		t.Errorf("renewed: %v, %v", done, err)
	}
	if rev, err := revoke(t, tx, 7, 1); rev != 10 || err != nil { // the generation of the one that has begun it
		t.Errorf("got revision %d, %v", rev, err)
	}
	var told []string
	for _, e := range tx.events {
		if kv := decodeEvent(t, e).Kv; e.kind == EventDelete {
			told = append(told, fmt.Sprintf("%s@%d", kv.Key, kv.ModRevision))
		}
	}
	if got := strings.Join(told, " "); got != "a@7 b@7 d@10 e@10" {
		t.Errorf("deleted %s", got)
	}
	if err := Check(tx); err != nil {
		t.Error(err)
	}
}

// A put costs the same, however many keys its lease has (etcd 15993).
func TestPutOnLeaseOfManyKeys15993(t *testing.T) {
	cost := func(keys int) (calls int) {
		tx := newTx()
		mustGrant(t, tx, 1, 60)
		mustGrant(t, tx, 2, 60)
		for i := range keys {
			if err := putLeased(t, tx, fmt.Sprint("k", i), 1); err != nil {
				t.Fatal(err)
			}
		}
		tx.calls = 0
		for _, lease := range []int64{1, 2} {
			if err := putLeased(t, tx, "k0", lease); err != nil {
				t.Fatal(err)
			}
		}
		mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("k1")})
		return tx.calls
	}
	if few, many := cost(2), cost(300); few != many {
		t.Errorf("%d calls on a lease of 2 keys, %d of 300", few, many)
	}
}

// More keys than are told one by one are one event, which names the lease.
func TestRevokeTellsOfManyKeysAtOnce(t *testing.T) {
	tx := newTx()
	mustGrant(t, tx, 1, 60)
	for i := range MaxDeleteEvents + 1 {
		if err := putLeased(t, tx, fmt.Sprintf("k%04d", i), 1); err != nil {
			t.Fatal(err)
		}
	}
	tx.events = nil
	if _, err := revoke(t, tx, 1, 0); err != nil {
		t.Fatal(err)
	}
	if len(tx.events) != 1 || tx.events[0].kind != EventDeleteLease {
		t.Fatalf("got %d events, the first one %v", len(tx.events), tx.events[0])
	}
	kv := decodeEvent(t, tx.events[0]).Kv
	if got := fmt.Sprintf("%s %q %d %d", kv.Key, kv.Value, kv.Lease, kv.ModRevision); got != `k0000 "k1000\x00" 1 1003` {
		t.Errorf("got %s", got)
	}
}

// leaseLarge puts n keys of zeros, of some bytes, on lease 1.
func leaseLarge(t *testing.T, n, bytes int) largeTx {
	tx := largeTx{storage.NewOverlay(newTx())}
	w := writer{tx: tx, meta: meta{layout: layoutVersions, revision: 1, compacted: neverCompacted}, leases: true}
	if _, err := w.grant(grantRequest{1, 60}); err != nil {
		t.Fatal(err)
	}
	w.meta.revision = 2
	for i := range n {
		key := binary.BigEndian.AppendUint32(make([]byte, bytes-4), uint32(i))
		if err := w.newest(key, record{create: 2, mod: 2, version: 1, lease: 1}, nil); err != nil {
			t.Fatal(err)
		}
		if err := w.attach(key, 0, 1); err != nil {
			t.Fatal(err)
		}
		w.written = 0
	}
	if err := w.meta.store(tx); err != nil {
		t.Fatal(err)
	}
	return tx
}

// However long the keys of a lease are, it is revoked, in commands that write no more than any other.
func TestRevokeOfLongKeys(t *testing.T) {
	tx := leaseLarge(t, 6000, MaxKeyBytes)
	for _, want := range []error{ErrLeaseRevoking, nil} {
		result, err := StateMachine{}.Apply(tx, nexusraft.Command{Data: EncodeRevoke(1, 1), Version: VersionLeases})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeRevokeResult(result); !errors.Is(err, want) {
			t.Fatalf("got %v, want %v", err, want)
		}
	}
	m, err := loadMeta(tx)
	counts, countsErr := LeaseStanding(tx)
	if err != nil || countsErr != nil || m.keys != 0 || counts.Count != 0 || maxRevokedKeys != MaxDeleteKeys {
		t.Errorf("%d keys, %d leases are left, %v, %v", m.keys, counts.Count, err, countsErr)
	}
}

// Whatever call on the transaction fails, its error comes back as it is, and nothing is kept.
func TestErrorsOfTheTransactionOfLeases(t *testing.T) {
	broken := errors.New("disk on fire")
	grant, _ := EncodeGrant(2, 60)
	for name, command := range map[string][]byte{
		"grant": grant, "revoke": EncodeRevoke(1, 0), "checkpoint": EncodeCheckpoint([]Remaining{{1, 1, 30}}),
		"put":    rawPut(t, &etcdserverpb.PutRequest{Key: []byte("a"), Lease: 3}),
		"delete": rawDelete(t, &etcdserverpb.DeleteRangeRequest{Key: []byte("a")}),
	} {
		tx := newTx()
		mustGrant(t, tx, 1, 60)
		mustGrant(t, tx, 3, 60)
		if err := putLeased(t, tx, "a", 1); err != nil {
			t.Fatal(err)
		}
		before := dump(tx)
		var err error
		for n := 0; n == 0 || err != nil; n++ {
			tx.calls, tx.failAfter, tx.failure = 0, n, broken
			_, err = tryApply(tx, command)
			if err != nil && err != broken {
				t.Fatalf("%s, call %d: got %v, want %v", name, n+1, err, broken)
			}
			if changed := dump(tx) != before; changed != (err == nil) {
				t.Fatalf("%s, call %d: changed %t, %v", name, n+1, changed, err)
			}
		}
		tx.failure = nil
		if err := Check(tx); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is asked for wrongly is refused before it is proposed, or as not found.
func TestLeaseRequestsThatAreWrong(t *testing.T) {
	for _, g := range [][2]int64{{0, 1}, {1, 0}, {-1, 1}, {1, -1}} {
		if _, err := EncodeGrant(g[0], g[1]); !errors.Is(err, ErrBadCommand) {
			t.Errorf("grant of %v: got %v", g, err)
		}
	}
	if _, err := EncodeGrant(1, MaxLeaseTTL+1); !errors.Is(err, ErrLeaseTTLTooLarge) {
		t.Errorf("got %v", err)
	}
	tx := newTx()
	mustGrant(t, tx, 1, MaxLeaseTTL)
	if _, err := DecodeGrantResult(apply(t, tx, appendNumbers([]byte{kindGrant}, 2, MaxLeaseTTL+1))); !errors.Is(err,
		ErrLeaseTTLTooLarge) {
		t.Errorf("got %v", err)
	}
	if _, err := revoke(t, tx, -1, 0); !errors.Is(err, ErrLeaseNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := revoke(t, tx, 1, -1); !errors.Is(err, ErrLeaseRenewed) {
		t.Errorf("got %v", err)
	}
	if err := putLeased(t, tx, "a", -1); !errors.Is(err, ErrLeaseNotFound) {
		t.Errorf("got %v", err)
	}
	done, err := DecodeCheckpointResult(apply(t, tx, EncodeCheckpoint([]Remaining{{-1, -1, 5}, {1, 1, -5}})))
	if want := []Lease{{ID: 1, TTL: MaxLeaseTTL, Generation: 2, Remaining: 1}}; err != nil || !slices.Equal(done, want) {
		t.Errorf("got %v, %v", done, err)
	}
	_, err = DecodeCheckpointResult(apply(t, tx, EncodeCheckpoint(make([]Remaining, MaxCheckpoint+1))))
	if !errors.Is(err, ErrRequestTooLarge) {
		t.Errorf("got %v", err)
	}
}

// A zone has so many leases and no more; what ends makes room.
func TestTooManyLeases(t *testing.T) {
	was := maxLeases
	maxLeases = 3
	t.Cleanup(func() { maxLeases = was })
	tx := newTx()
	for id := range int64(3) {
		mustGrant(t, tx, id+1, 5)
	}
	before := dump(tx)
	if _, err := grant(t, tx, 4, 5); !errors.Is(err, ErrTooManyLeases) {
		t.Errorf("got %v", err)
	}
	if got := dump(tx); got != before {
		t.Errorf("a refused grant has written\n%s", got)
	}
	if _, err := grant(t, tx, 3, 5); !errors.Is(err, ErrLeaseExists) {
		t.Errorf("one that is there: got %v", err)
	}
	if _, err := revoke(t, tx, 2, 0); err != nil {
		t.Fatal(err)
	}
	mustGrant(t, tx, 4, 5)
}

// The bytes of the rows and of the commands are a format: a change of them must change this test.
func TestLeaseFormat(t *testing.T) {
	revokesFew(t, 1)
	tx := newTx()
	mustGrant(t, tx, 7, 300)
	mustGrant(t, tx, 1<<62, 5)
	for _, key := range []string{"a", "\x00"} {
		if err := putLeased(t, tx, key, 7); err != nil {
			t.Fatal(err)
		}
	}
	apply(t, tx, EncodeCheckpoint([]Remaining{{1 << 62, 2, 3}}))
	apply(t, tx, EncodeRevoke(7, 1))
	for k := range tx.m {
		if strings.ContainsRune("rv", rune(k[0])) {
			delete(tx.m, k)
		}
	}
	want := `"a\x00\x00\x00\x00\x00\x00\x00\aa" 
"g\x00\x00\x00\x00\x00\x00\x00\x03" 808080808080808040
"g\x00\x00\x00\x00\x00\x00\x00\x04" 07
"ka" 000202010700
"l\x00\x00\x00\x00\x00\x00\x00\a" ac02040001
"l@\x00\x00\x00\x00\x00\x00\x00" 050303
"mlease" 0402
`
	if got := dump(tx); !strings.HasPrefix(got, want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	grant, err := EncodeGrant(7, 300)
	got := fmt.Sprintf("%x %x %x", grant, EncodeRevoke(7, 300), EncodeCheckpoint([]Remaining{{7, 1, 300}, {8, 2, 0}}))
	if want := "0607ac02 0707ac02 080701ac02080200"; got != want || err != nil {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}
