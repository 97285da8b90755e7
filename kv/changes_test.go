package kv

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// changesAgainstModel reads the changes after a revision, in as many reads as that takes, and compares them with the
// plain list.
func changesAgainstModel(rt *rapid.T, tx *memTx, m *model) {
	after := rapid.Int64Range(-1, m.rev+2).Draw(rt, "after")
	prev := rapid.Bool().Draw(rt, "prevKV")
	most := rapid.SampledFrom([]int{0, 1, 300, 1000, 5000, 1 << 20}).Draw(rt, "bytes")
	key, end := someKey.Draw(rt, "key"), someEnd.Draw(rt, "end")
	q := ChangesRequest{After: after, PrevKV: prev, Bytes: most}
	if rapid.Bool().Draw(rt, "some") {
		q.Want = func(k []byte) bool { return inRange(k, key, end) }
		q.NoPut, q.NoDelete = rapid.Bool().Draw(rt, "noPut"), rapid.Bool().Draw(rt, "noDelete")
	}
	got, err := readAll(tx, q, m.rev)
	if meta, metaErr := loadMeta(tx); errors.Is(err, ErrNoHistory) && metaErr == nil && meta.layout == layoutNewest {
		return
	}
	compacted, isCompacted := errors.AsType[*CompactedError](err)
	if after+1 < m.compacted {
		if !isCompacted || compacted.Revision != m.compacted || !errors.Is(err, ErrCompacted) {
			rt.Fatalf("after %d, compacted at %d: %v", after, m.compacted, err)
		}
		return
	}
	if isCompacted && after+1 == m.compacted && compacted.Revision == m.compacted+1 && len(m.events) == 0 {
		return
	}
	if isCompacted && after+1 == m.compacted && m.events[0].Kv.ModRevision > m.compacted {
		return // what was changed before the zone had versions is not known
	}
	if err != nil {
		rt.Fatal(err)
	}
	if d := gocmp.Diff(wantedChanges(m, q), got, protocmp.Transform()); d != "" {
		rt.Fatalf("changes after %d of %d, compacted at %d (-want +got):\n%s", after, m.rev, m.compacted, d)
	}
}

func wantedChanges(m *model, q ChangesRequest) (want []*mvccpb.Event) {
	for i, e := range m.events {
		rev := e.Kv.ModRevision
		superseded := slices.ContainsFunc(m.events[i+1:], func(later *mvccpb.Event) bool {
			return later.Kv.ModRevision == rev && bytes.Equal(later.Kv.Key, e.Kv.Key)
		})
		gone := rev == m.compacted && e.Type == mvccpb.PUT && superseded
		filtered := e.Type == mvccpb.PUT && q.NoPut || e.Type == mvccpb.DELETE && q.NoDelete
		if rev <= q.After || gone || filtered || q.Want != nil && !q.Want(e.Kv.Key) {
			continue
		}
		if !q.PrevKV || rev == m.compacted {
			e = &mvccpb.Event{Type: e.Type, Kv: e.Kv}
		}
		want = append(want, e)
	}
	return want
}

// readAll reads on until the newest revision is through. Each read has whole revisions, and no more than it may
// have, but for one revision that is read alone.
func readAll(r nexusraft.Reader, q ChangesRequest, newest int64) (all []*mvccpb.Event, err error) {
	for q.After < newest {
		c, err := ReadChanges(r, q)
		large, isLarge := errors.AsType[*LargeRevisionError](err)
		if isLarge {
			alone := q
			alone.Bytes = 0
			if c, err = ReadChanges(r, alone); err == nil && (c.Through != large.Revision || c.Bytes <= q.Bytes) {
				return nil, fmt.Errorf("%w: read alone through %d, %d bytes", large, c.Through, c.Bytes)
			}
		}
		if err != nil {
			return nil, err
		}
		if c.Through <= q.After || c.Newest != newest || !isLarge && q.Bytes > 0 && c.Bytes > q.Bytes {
			return nil, fmt.Errorf("after %d through %d of %d, %d bytes", q.After, c.Through, c.Newest, c.Bytes)
		}
		all, q.After = append(all, c.Events...), c.Through
	}
	return all, nil
}

// A read looks at a bounded number of changes that nobody wants, and says how far it was.
func TestReadChangesScansInParts(t *testing.T) {
	tx := newTx()
	const revisions = changesScanned + 10
	for i := range revisions {
		apply(t, tx, rawPut(t, &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "k%d", i%3), Value: []byte{'v'}}))
	}
	gets := 0
	q := ChangesRequest{Bytes: 1 << 20, Want: func([]byte) bool { gets++; return false }}
	c, err := ReadChanges(tx, q)
	if err != nil || c.Through != firstRevision+changesScanned || len(c.Events) > 0 || gets != changesScanned {
		t.Fatalf("through %d, %d events, %d looked at: %v", c.Through, len(c.Events), gets, err)
	}
	q.After = c.Through
	if c, err = ReadChanges(tx, q); err != nil || c.Through != firstRevision+revisions {
		t.Fatalf("through %d: %v", c.Through, err)
	}
}

// A revision of a whole transaction is never cut: what is too much is refused with what it takes.
func TestReadChangesKeepsRevisionsWhole(t *testing.T) {
	tx := newTx()
	req := new(etcdserverpb.TxnRequest)
	value := []byte(strings.Repeat("v", 3000))
	for i := range 50 {
		req.Success = append(req.Success, putOp(&etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: value}))
	}
	apply(t, tx, rawTxn(t, req))
	apply(t, tx, rawPut(t, &etcdserverpb.PutRequest{Key: []byte("k"), Value: value}))
	_, err := ReadChanges(tx, ChangesRequest{Bytes: 64 << 10})
	large, ok := errors.AsType[*LargeRevisionError](err)
	if !ok || large.Revision != 2 || large.Bytes < 50*3000 {
		t.Fatal(err)
	}
	c, err := ReadChanges(tx, ChangesRequest{})
	if err != nil || c.Through != 2 || len(c.Events) != 50 || c.Bytes != large.Bytes {
		t.Fatalf("through %d, %d events, %d bytes: %v", c.Through, len(c.Events), c.Bytes, err)
	}
	if c, err = ReadChanges(tx, ChangesRequest{Bytes: 1 << 20}); err != nil || c.Through != 3 || len(c.Events) != 51 {
		t.Fatalf("through %d, %d events: %v", c.Through, len(c.Events), err)
	}
}

// etcd 18089 and 19179: a delete at the compaction revision was gone after it, also once that was swept.
func TestEtcd18089DeleteAtTheCompactionRevision(t *testing.T) {
	for _, swept := range []bool{false, true} {
		tx := newTx()
		apply(t, tx, rawPut(t, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("1")}))
		apply(t, tx, rawDelete(t, &etcdserverpb.DeleteRangeRequest{Key: []byte("a")}))
		apply(t, tx, rawPut(t, &etcdserverpb.PutRequest{Key: []byte("b"), Value: []byte("2")}))
		apply(t, tx, rawCompact(t, 3))
		if swept {
			apply(t, tx, EncodeSweep(100))
		}
		c, err := ReadChanges(tx, ChangesRequest{After: 2, PrevKV: true, Bytes: 1 << 20})
		want := []*mvccpb.Event{
			{Type: mvccpb.DELETE, Kv: &mvccpb.KeyValue{Key: []byte("a"), ModRevision: 3}},
			{Kv: &mvccpb.KeyValue{Key: []byte("b"), CreateRevision: 4, ModRevision: 4, Version: 1, Value: []byte("2")}},
		}
		same := slices.EqualFunc(c.Events, want, func(a, b *mvccpb.Event) bool { return proto.Equal(a, b) })
		if err != nil || !same {
			t.Errorf("swept %t: %v, %v", swept, c.Events, err)
		}
		_, err = ReadChanges(tx, ChangesRequest{After: 1, Bytes: 1 << 20})
		if e, ok := errors.AsType[*CompactedError](err); !ok || e.Revision != 3 {
			t.Errorf("before the compaction revision: %v", err)
		}
	}
}

// A zone below VersionHistory has no changes to read, once it has anything.
func TestReadChangesWithoutHistory(t *testing.T) {
	tx := newNewestTx()
	if c, err := ReadChanges(tx, ChangesRequest{After: 1}); err != nil || c.Newest != 1 || c.Through != 1 {
		t.Fatal(c, err)
	}
	apply(t, tx, rawPut(t, &etcdserverpb.PutRequest{Key: []byte("a")}))
	if _, err := ReadChanges(tx, ChangesRequest{After: 2}); !errors.Is(err, ErrNoHistory) {
		t.Fatal(err)
	}
}
