package etcd

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/wire"
	"github.com/nexi-lab/nexus-raft/kv"
)

// modelWatch is a watch as the model knows it.
type modelWatch struct {
	req       *etcdserverpb.WatchCreateRequest
	from      int64 // the first revision that it has
	compacted int64 // the compaction revision when it began
	got       []*mvccpb.Event
	seen      int64 // the last header's revision
	cancelled bool
}

// watchModel compares a stream with the plain list of what was changed.
type watchModel struct {
	*testWatch
	pairs     map[string]*mvccpb.KeyValue
	rev       int64
	compacted int64
	events    []*mvccpb.Event
	watches   map[int64]*modelWatch
	next      int64
}

var (
	watchKeys = rapid.SampledFrom([]string{"a", "a\x00", "ab", "b", "c"})
	watchEnds = rapid.SampledFrom([]string{"", "\x00", "b", "c", "d"})
)

// Random writes and compactions, and watches that come and go: each gets what it is to get of the plain list, in
// order, each revision whole, and no progress comes before the events that it claims were sent.
func TestWatchAgainstModel(t *testing.T) {
	zones := fakeZones{}
	conn := serveConfig(t, zones, fakeNode{}, Config{MaxRequestBytes: 50 << 10})
	rapid.Check(t, func(rt *rapid.T) {
		z := newZone()
		id := nexusraft.ZoneID(len(zones) + 1)
		zones[id] = z
		m := &watchModel{
			testWatch: openWatch(t, z, conn, wire.ZoneHeader, id.String()), rev: 1, compacted: -1,
			pairs: make(map[string]*mvccpb.KeyValue), watches: make(map[int64]*modelWatch),
		}
		defer m.end()
		rt.Repeat(map[string]func(*rapid.T){
			"put":    func(rt *rapid.T) { m.write(rt, 1) },
			"txn":    func(rt *rapid.T) { m.write(rt, 3) },
			"delete": m.deleteSome,
			"watch":  m.watch,
			"cancel": m.cancelOne,
			"compact": func(rt *rapid.T) {
				m.sync(rt)
				if rev := rapid.Int64Range(m.compacted+1, max(m.compacted+1, m.rev)).Draw(rt, "revision"); rev <= m.rev {
					z.sweep(t, rev)
					m.compacted = rev
				}
			},
			"sync": m.sync,
		})
		m.sync(rt)
		for id, w := range m.watches {
			m.compare(rt, id, w)
		}
	})
}

func (m *watchModel) change(kind mvccpb.Event_EventType, kv *mvccpb.KeyValue) {
	m.events = append(m.events, &mvccpb.Event{Type: kind, Kv: kv, PrevKv: m.pairs[string(kv.Key)]})
}

func (m *watchModel) write(rt *rapid.T, most int) {
	req := new(etcdserverpb.TxnRequest)
	m.rev++
	for _, key := range rapid.SliceOfNDistinct(watchKeys, 1, most, func(k string) string { return k }).Draw(rt, "keys") {
		value := strings.Repeat("v", rapid.SampledFrom([]int{0, 3, 2000, 40_000}).Draw(rt, "bytes"))
		put := &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)}
		req.Success = append(req.Success, &etcdserverpb.RequestOp{
			Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: put},
		})
		pair := &mvccpb.KeyValue{Key: put.Key, Value: put.Value, CreateRevision: m.rev, ModRevision: m.rev, Version: 1}
		if prev := m.pairs[key]; prev != nil {
			pair.CreateRevision, pair.Version = prev.CreateRevision, prev.Version+1
		}
		m.change(mvccpb.PUT, pair)
		m.pairs[key] = pair
	}
	command, err := kv.EncodeTxn(req, 10)
	m.zone.apply(m.t, command, err)
}

func (m *watchModel) deleteSome(rt *rapid.T) {
	key, end := watchKeys.Draw(rt, "key"), watchEnds.Draw(rt, "end")
	var gone []string
	for k := range m.pairs {
		if has([]byte(k), key, end) {
			gone = append(gone, k)
		}
	}
	slices.Sort(gone)
	if len(gone) > 0 {
		m.rev++
	}
	for _, k := range gone {
		m.change(mvccpb.DELETE, &mvccpb.KeyValue{Key: []byte(k), ModRevision: m.rev})
		delete(m.pairs, k)
	}
	m.zone.delete(m.t, key, end)
}

func has(k []byte, key, end string) bool {
	switch end {
	case "":
		return string(k) == key
	case "\x00":
		return string(k) >= key
	}
	return string(k) >= key && string(k) < end
}

func (m *watchModel) watch(rt *rapid.T) {
	req := &etcdserverpb.WatchCreateRequest{
		Key: []byte(watchKeys.Draw(rt, "key")), RangeEnd: []byte(watchEnds.Draw(rt, "end")),
		PrevKv: rapid.Bool().Draw(rt, "prevKV"), Fragment: rapid.Bool().Draw(rt, "fragment"),
		StartRevision: rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(-1, m.rev+3)).Draw(rt, "start"),
		Filters: rapid.SliceOfN(rapid.SampledFrom([]etcdserverpb.WatchCreateRequest_FilterType{
			etcdserverpb.WatchCreateRequest_NOPUT, etcdserverpb.WatchCreateRequest_NODELETE,
		}), 0, 1).Draw(rt, "filters"),
	}
	m.ask(req)
	resp := m.recv()
	for ; !resp.Created; resp = m.recv() {
		m.take(rt, resp)
	}
	empty := len(req.RangeEnd) > 0 && req.RangeEnd[0] != 0 && bytes.Compare(req.RangeEnd, req.Key) <= 0
	if empty || req.StartRevision < 0 {
		if !resp.Canceled || resp.WatchId != -1 {
			rt.Fatalf("%v: %v", req, resp)
		}
		return
	}
	if resp.Canceled || resp.WatchId != m.next || resp.Header.Revision != m.rev {
		rt.Fatalf("at revision %d, next %d: %v", m.rev, m.next, resp)
	}
	m.next++
	w := &modelWatch{req: req, from: req.StartRevision, compacted: m.compacted}
	if w.from == 0 {
		w.from = m.rev + 1
	}
	m.watches[resp.WatchId] = w
}

func (m *watchModel) cancelOne(rt *rapid.T) {
	if m.next == 0 {
		return
	}
	id := rapid.Int64Range(0, m.next).Draw(rt, "ID")
	m.cancel(id)
	if w := m.watches[id]; w != nil && !w.cancelled {
		for !w.cancelled {
			m.take(rt, m.recv())
		}
		w.req = nil // how much it has got is open
	}
}

// take takes an answer that is about a watch.
func (m *watchModel) take(rt *rapid.T, resp *etcdserverpb.WatchResponse) {
	w := m.watches[resp.WatchId]
	switch {
	case w == nil || w.cancelled:
		rt.Fatalf("of no watch: %v", resp)
	case resp.Canceled:
		w.cancelled = true
		if resp.CompactRevision != 0 && (resp.CompactRevision != m.compacted || w.from >= m.compacted) {
			rt.Fatalf("from %d, compacted at %d: %v", w.from, m.compacted, resp)
		}
		return
	case len(resp.Events) == 0:
		rt.Fatalf("without events: %v", resp)
	}
	for i, e := range resp.Events {
		first := i == 0 && len(w.got) > 0 && !w.req.Fragment && w.got[len(w.got)-1].Kv.ModRevision == e.Kv.ModRevision
		if e.Kv.ModRevision > resp.Header.Revision || e.Kv.ModRevision < w.from || first {
			rt.Fatalf("event of %d in an answer of %d, first %t", e.Kv.ModRevision, resp.Header.Revision, first)
		}
		w.got = append(w.got, e)
	}
	w.seen = max(w.seen, resp.Header.Revision)
}

// sync waits until all watches have all that is there, and compares them.
func (m *watchModel) sync(rt *rapid.T) {
	for _, w := range m.watches {
		for !w.cancelled && w.from > m.rev+1 { // progress waits for it
			m.write(rt, 1)
		}
	}
	answers, rev := m.synced()
	for _, resp := range answers {
		m.take(rt, resp)
	}
	if rev != m.rev {
		rt.Fatalf("progress at %d of %d", rev, m.rev)
	}
	for id, w := range m.watches {
		m.compare(rt, id, w)
	}
}

func (m *watchModel) compare(rt *rapid.T, id int64, w *modelWatch) {
	if w.req == nil {
		return
	}
	if missed := w.from < w.compacted; missed != w.cancelled {
		rt.Fatalf("watch %d from %d, compacted at %d: cancelled %t", id, w.from, w.compacted, w.cancelled)
	}
	got := w.got
	for _, e := range m.events {
		filtered := slices.Contains(w.req.Filters, etcdserverpb.WatchCreateRequest_FilterType(e.Type))
		if w.cancelled || e.Kv.ModRevision < w.from || filtered || !has(e.Kv.Key, string(w.req.Key), string(w.req.RangeEnd)) {
			continue
		}
		if len(got) == 0 {
			rt.Fatalf("watch %d misses %s", id, text(id, e))
		}
		prev := e.PrevKv
		if !w.req.PrevKv || e.Kv.ModRevision == w.compacted && got[0].PrevKv == nil {
			prev = nil
		}
		if want := (&mvccpb.Event{Type: e.Type, Kv: e.Kv, PrevKv: prev}); !proto.Equal(want, got[0]) {
			rt.Fatalf("watch %d got %.200s\nwant %.200s", id, text(id, got[0]), text(id, want))
		}
		got = got[1:]
	}
	if len(got) > 0 {
		rt.Fatalf("watch %d also got %.200s", id, text(id, got[0]))
	}
}

// The index finds the watches of a key as looking at each of them does.
func TestWatchIndex(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var x watchIndex
		var plain []*watch
		for i := range rapid.IntRange(0, 400).Draw(rt, "watches") {
			w := &watch{id: int64(i)}
			w.want.Key = fmt.Appendf(nil, "%02d", rapid.IntRange(0, 50).Draw(rt, "key"))
			switch rapid.IntRange(0, 3).Draw(rt, "kind") {
			case 0:
				w.want.RangeEnd = []byte{0}
			case 1:
				w.want.RangeEnd = fmt.Appendf(nil, "%s%d", w.want.Key, i)
			case 2:
				w.want.RangeEnd = []byte("9")
			}
			x.add(w)
			if plain = append(plain, w); rapid.IntRange(0, 2).Draw(rt, "cancelled") == 0 {
				plain[len(plain)/2].gone = true
				x.cancelled(w)
			}
		}
		for key := range 52 {
			k := fmt.Appendf(nil, "%02d", key)
			var got, want []int64
			x.each(k, func(w *watch) bool { got = append(got, w.id); return true })
			for _, w := range plain {
				if !w.gone && w.want.Has(k) {
					want = append(want, w.id)
				}
			}
			if slices.Sort(got); !slices.Equal(got, want) || x.has(k) != (len(want) > 0) {
				rt.Fatalf("key %s: got %v, want %v", k, got, want)
			}
		}
	})
}
