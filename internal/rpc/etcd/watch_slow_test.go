package etcd

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/feed"
)

// A client that does not read holds up nobody, and gets everything once it reads, in order.
func TestWatchOfSlowClient(t *testing.T) {
	z := newZone()
	conn := serveConfig(t, fakeZones{nexusraft.RootZone: z}, fakeNode{}, Config{})
	slow, quick := openWatch(t, z, conn), openWatch(t, z, conn)
	slow.create(all())
	quick.create(all())
	value := strings.Repeat("v", 100<<10)
	const puts = 200
	for i := range puts {
		z.put(t, fmt.Sprint("k", i%3), value)
	}
	for _, w := range []*testWatch{quick, slow} {
		next := int64(2)
		answers, rev := w.synced()
		for _, resp := range answers {
			for _, e := range resp.Events {
				if e.Kv.ModRevision != next || len(resp.Events) > 2 {
					t.Fatalf("event of revision %d in an answer of %d, want %d", e.Kv.ModRevision, len(resp.Events), next)
				}
				next++
			}
		}
		if next != puts+2 || rev != puts+1 {
			t.Errorf("%d events, progress at %d", next-2, rev)
		}
	}
}

// etcd 15402: watches on a connection with large answers that nobody reads are not starved.
func TestEtcd15402WatchBesideLargeReads(t *testing.T) {
	z := newZone()
	for i := range 4 {
		z.put(t, fmt.Sprint("k", i), strings.Repeat("v", 1<<20))
	}
	conn := serveConfig(t, fakeZones{nexusraft.RootZone: z}, fakeNode{}, Config{})
	for range 8 {
		req := &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
		if _, err := etcdserverpb.NewKVClient(conn).RangeStream(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	w := openWatch(t, z, conn)
	w.create(all())
	z.put(t, "a", "1")
	w.want("0: PUT a@6=1")
}

// A revision with more than a batch may have goes to each watch that wants some of it, whole, and to no other.
func TestWatchLargeRevision(t *testing.T) {
	z := newZone()
	w := watching(t, z)
	w.create(all())
	w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("k007")})
	w.create(&etcdserverpb.WatchCreateRequest{Key: []byte("x")})
	w.create(from(2))
	w.synced()
	z.putAll(t, 40, strings.Repeat("v", 30<<10))
	z.put(t, "x", "1")
	got := make(map[int64][]int)
	answers, _ := w.synced()
	for _, resp := range answers {
		got[resp.WatchId] = append(got[resp.WatchId], len(resp.Events))
	}
	if want := "map[0:[40 1] 1:[1] 2:[1] 3:[40 1]]"; fmt.Sprint(got) != want {
		t.Errorf("events in the answers: %v, want %s", got, want)
	}
}

// A watch for which one revision has more than may be sent is cancelled, and says why; the others go on.
func TestWatchTooLargeRevision(t *testing.T) {
	z := newZone()
	z.putAll(t, 40, strings.Repeat("v", 30<<10))
	w := watching(t, z)
	w.create(all())
	previous := all()
	previous.PrevKv = true
	w.create(previous)
	w.synced()
	z.putAll(t, 40, strings.Repeat("w", 30<<10))
	z.put(t, "x", "1")
	answers, _ := w.synced()
	var got []string
	for _, resp := range answers {
		got = append(got, fmt.Sprint(resp.WatchId, " ", len(resp.Events), " ", resp.Canceled))
		if resp.Canceled && !strings.Contains(resp.CancelReason, "watch from 4 on") {
			t.Error(resp.CancelReason)
		}
	}
	if want := "[0 40 false 1 0 true 0 1 false]"; fmt.Sprint(got) != want {
		t.Errorf("answers: %v, want %s", got, want)
	}
}

// BenchmarkWatch is an event that one of a thousand watches of a stream gets, and of which it is told.
func BenchmarkWatch(b *testing.B) {
	z := newZone()
	w := watching(b, z)
	for i := range 1000 {
		w.create(&etcdserverpb.WatchCreateRequest{
			Key: fmt.Appendf(nil, "k%03d/", i), RangeEnd: fmt.Appendf(nil, "k%03d0", i),
		})
	}
	i := 0
	for b.Loop() {
		i++
		z.put(b, fmt.Sprintf("k%03d/x", i%1000), "v")
		if resp := w.recv(); len(resp.Events) != 1 || resp.Events[0].Type != mvccpb.PUT {
			b.Fatal(resp)
		}
	}
}

// Cancelled watches, whose bytes do not count any more, take no more memory than those that are left.
func TestCancelledWatchesAreLetGo(t *testing.T) {
	g := watchGroup{watches: make(map[*watch]struct{})}
	var all []*watch
	for i := range 300 {
		w := &watch{counted: int64(1 + i*7%100), want: feed.Want{Key: fmt.Append(nil, i)}}
		all = append(all, w)
		g.add(w)
	}
	for i, w := range all {
		w.gone = true
		g.remove(w)
		var dead, live int64
		for _, w := range append(slices.Clone(g.index.sorted), g.index.rest...) {
			if w.gone {
				dead += w.counted
			} else {
				live += w.counted
			}
		}
		if dead > live || live != g.index.live || dead != g.index.dead {
			t.Fatalf("after %d: %d bytes of cancelled watches, %d of others; %+v", i+1, dead, live, g.index)
		}
	}
}
