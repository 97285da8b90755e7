package kv

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// expand is an event as subscribers get it.
func expand(t interface{ Fatal(...any) }, tx *memTx, e published) published {
	kind, payload, err := StateMachine{}.ExpandEvent(tx, e.topic, e.kind, []byte(e.payload))
	if err != nil {
		t.Fatal(e, err)
	}
	return published{e.topic, kind, string(payload)}
}

func decodeEvent(t interface{ Fatal(...any) }, e published) *mvccpb.Event {
	m := new(mvccpb.Event)
	if err := proto.Unmarshal([]byte(e.payload), m); err != nil || m.GetKv() == nil {
		t.Fatal(e, err)
	}
	return m
}

// mirrored checks that a subscriber to the events has the same pairs as the model.
func mirrored(t *rapid.T, tx *memTx, m *model) {
	mirror, large := make(map[string]*mvccpb.KeyValue), make(map[string]bool)
	for _, e := range tx.events {
		e = expand(t, tx, e)
		kv := decodeEvent(t, e).Kv
		switch {
		case e.topic != EventTopic:
			t.Fatalf("an event of topic %q", e.topic)
		case e.kind == EventPut, e.kind == EventPutLarge:
			mirror[string(kv.Key)], large[string(kv.Key)] = kv, e.kind == EventPutLarge
		case e.kind == EventDelete:
			if mirror[string(kv.Key)] == nil || kv.ModRevision < mirror[string(kv.Key)].ModRevision {
				t.Fatalf("deleted %v, which is %v", kv, mirror[string(kv.Key)])
			}
			delete(mirror, string(kv.Key))
		default:
			t.Fatalf("an event of type %q", e.kind)
		}
	}
	if len(mirror) != len(m.kvs) {
		t.Fatalf("the events say that there are %d keys, and there are %d", len(mirror), len(m.kvs))
	}
	for _, want := range m.kvs {
		if len(want.Value) > MaxEventValueBytes && large[string(want.Key)] {
			want = proto.CloneOf(want)
			want.Value = nil
		}
		if got := mirror[string(want.Key)]; !proto.Equal(got, want) {
			t.Fatalf("by its events %q is %v, want %v", want.Key, got, want)
		}
	}
}

func TestEvents(t *testing.T) {
	for _, tx := range []*memTx{newTx(), newNewestTx()} {
		testEvents(t, tx)
	}
}

func testEvents(t *testing.T, tx *memTx) {
	put := func(k, v string) { mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte(k), Value: []byte(v)}) }
	put("a", "1")
	put("b", "")
	put("a", "2")
	put("c", strings.Repeat("x", MaxEventValueBytes))
	put("d", strings.Repeat("x", MaxEventValueBytes+1))
	apply(t, tx, rawPut(t, &etcdserverpb.PutRequest{Key: []byte("refused"), Lease: 1}))
	mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("x")}) // deletes nothing
	mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("c")})
	want := []*mvccpb.Event{
		{Kv: pair("a", "1", 2, 2, 1)},
		{Kv: &mvccpb.KeyValue{Key: []byte("b"), CreateRevision: 3, ModRevision: 3, Version: 1}},
		{Kv: pair("a", "2", 2, 4, 2)},
		{Kv: pair("c", strings.Repeat("x", MaxEventValueBytes), 5, 5, 1)},
		{Kv: &mvccpb.KeyValue{Key: []byte("d"), CreateRevision: 6, ModRevision: 6, Version: 1}},
		{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte("a"), ModRevision: 7}},
		{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{Key: []byte("b"), ModRevision: 7}},
	}
	wantKinds := []string{EventPut, EventPut, EventPut, EventPut, EventPutLarge, EventDelete, EventDelete}
	var got []*mvccpb.Event
	var kinds []string
	for _, e := range tx.events {
		e = expand(t, tx, e)
		got, kinds = append(got, decodeEvent(t, e)), append(kinds, e.kind)
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("events (-want +got):\n%s", d)
	}
	if !slices.Equal(kinds, wantKinds) {
		t.Errorf("types: got %v, want %v", kinds, wantKinds)
	}
}

// The value of a version that was compacted is not there any more; its event still says which one it was.
func TestEventsOfCompactedRevisions(t *testing.T) {
	tx := newTx()
	for _, v := range []string{"1", "2", "3"} {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte(v)})
	}
	mustCompact(t, tx, 3)
	mustSweep(t, tx, MaxSweep)
	want := []*mvccpb.Event{
		{Kv: &mvccpb.KeyValue{Key: []byte("a"), ModRevision: 2}},
		{Kv: pair("a", "2", 2, 3, 2)},
		{Kv: pair("a", "3", 2, 4, 3)},
	}
	wantKinds := []string{EventPutLarge, EventPut, EventPut}
	for i, e := range tx.events {
		e = expand(t, tx, e)
		if d := cmp.Diff(want[i], decodeEvent(t, e), protocmp.Transform()); d != "" || e.kind != wantKinds[i] {
			t.Errorf("event %d of type %s, want %s (-want +got):\n%s", i, e.kind, wantKinds[i], d)
		}
	}
	for _, e := range []published{{EventTopic, eventPutRef, ""}, {EventTopic, eventPutRef, "\xff"}} {
		_, _, err := StateMachine{}.ExpandEvent(tx, e.topic, e.kind, []byte(e.payload))
		if !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("event %q: got %v, want %v", e.payload, err, nexusraft.ErrCorrupt)
		}
	}
	same := published{"app/x", eventPutRef, "\xff"}
	if got := expand(t, tx, same); got != same {
		t.Errorf("an application's event: got %v, want %v", got, same)
	}
}

// A huge DeleteRange is one event with its bounds.
func TestDeleteRangeEvent(t *testing.T) {
	for _, tc := range []struct{ keys, events int }{{MaxDeleteEvents, MaxDeleteEvents}, {MaxDeleteEvents + 1, 1}} {
		tx := newTx()
		for i := range tc.keys {
			mustPut(t, tx, &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "k%04d", i)})
		}
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("j")})
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("l")})
		tx.events = nil
		resp := mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("k"), RangeEnd: []byte("l")})
		if int(resp.Deleted) != tc.keys || len(tx.events) != tc.events {
			t.Fatalf("got %d events for %d keys, want %d for %d", len(tx.events), resp.Deleted, tc.events, tc.keys)
		}
		if left := mustRange(t, tx, &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}); left.Count != 2 ||
			left.Header.Revision != resp.Header.Revision || resp.Header.Revision != int64(tc.keys)+4 {
			t.Errorf("of %d keys %d are left at revision %d, deleted at %d, want 2 at %d", tc.keys+2, left.Count,
				left.Header.Revision, resp.Header.Revision, tc.keys+4)
		}
		if tc.events > 1 {
			continue
		}
		want := &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: &mvccpb.KeyValue{
			Key: []byte("k"), Value: []byte("l"),
			ModRevision: resp.Header.Revision,
		}}
		if d := cmp.Diff(want, decodeEvent(t, tx.events[0]), protocmp.Transform()); d != "" ||
			tx.events[0].kind != EventDeleteRange {
			t.Errorf("%s (-want +got):\n%s", tx.events[0].kind, d)
		}
	}
}

// The payloads are state: these bytes must not change from release to release.
func TestEventBytes(t *testing.T) {
	got := fmt.Sprintf("%x %x",
		appendPut(nil, []byte("k"), record{create: 2, mod: 300, version: 4, lease: 5}, []byte("v")),
		appendDelete(nil, []byte("k"), 7, []byte("l"), 0))
	want := "120f0a016b100218ac0220042a01763005 080112080a016b18072a016c"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Bounds longer than any key delete as earlier releases did, which removed key by key: replicas of
// both must agree.
func TestDeleteRangeWithLongBounds(t *testing.T) {
	const keys = MaxDeleteEvents + 10
	longest := bytes.Repeat([]byte("k"), MaxKeyBytes)
	long := bytes.Repeat([]byte("k"), 100<<10)
	for _, tc := range []struct {
		start, end []byte
		left       []byte // of the longest key and those beside it, 1 if it is there
	}{
		{[]byte("a"), long, []byte{0, 0, 1}},
		{long, []byte("z"), []byte{1, 1, 0}},
		{longest, append(bytes.Clone(longest), 0), []byte{1, 0, 1}}, // few keys: one by one
	} {
		tx := newNewestTx()
		for i := range keys {
			mustPut(t, tx, &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "b%04d", i)})
			mustPut(t, tx, &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "y%04d", i)})
		}
		beside := [][]byte{longest[1:], longest, append(bytes.Clone(longest[1:]), 'l')}
		for _, k := range beside {
			mustPut(t, tx, &etcdserverpb.PutRequest{Key: k})
		}
		mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: tc.start, RangeEnd: tc.end})
		for i, k := range beside {
			if n := mustRange(t, tx, &etcdserverpb.RangeRequest{Key: k}).Count; n != int64(tc.left[i]) {
				t.Errorf("from %.4q (%d bytes) to %.4q (%d): of key %d are left %d, want %d",
					tc.start, len(tc.start), tc.end, len(tc.end), i, n, tc.left[i])
			}
		}
	}
}
