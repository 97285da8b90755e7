package feed

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
)

// memory is a zone's state in a map.
type memory map[string][]byte

func (m memory) Get(key []byte) ([]byte, bool, error) { v, ok := m[string(key)]; return v, ok, nil }

func (m memory) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return m.walk(start, end, slices.Values(slices.Sorted(maps.Keys(m))))
}

func (m memory) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	keys := slices.Sorted(maps.Keys(m))
	slices.Reverse(keys)
	return m.walk(start, end, slices.Values(keys))
}

func (m memory) walk(start, end []byte, keys iter.Seq[string]) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		for k := range keys {
			in := k >= string(start) && (end == nil || k < string(end))
			if in && !yield(nexusraft.Pair{Key: []byte(k), Value: m[k]}, nil) {
				return
			}
		}
	}
}

func (m memory) Set(key, value []byte) error { m[string(key)] = slices.Clone(value); return nil }

func (m memory) Delete(key []byte) error { delete(m, string(key)); return nil }

func (m memory) DeleteRange(start, end []byte) error {
	maps.DeleteFunc(m, func(k string, _ []byte) bool { return k >= string(start) && (end == nil || k < string(end)) })
	return nil
}

func (memory) Publish(string, string, []byte) error { return nil }

func (memory) Note(any) {}

// replica is a zone that applies at once.
type replica struct {
	mu      sync.Mutex
	state   memory
	applied chan struct{}
	reads   int
	denied  error
	ended   error
}

func newReplica() *replica { return &replica{state: make(memory), applied: make(chan struct{})} }

func (z *replica) Applied() (<-chan struct{}, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.applied, z.ended
}

func (z *replica) Permits(ctx context.Context) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	if ctx == context.Background() { // what the node does for itself
		return nil
	}
	return z.denied
}

func (z *replica) ReadLocal(ctx context.Context, fn func(nexusraft.Reader) error) error {
	if err := z.Permits(ctx); err != nil {
		return err
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	z.reads++
	return fn(z.state)
}

// change does something to the zone, and tells who waits.
func (z *replica) change(fn func()) {
	z.mu.Lock()
	defer z.mu.Unlock()
	fn()
	close(z.applied)
	z.applied = make(chan struct{})
}

func (z *replica) run(t testing.TB, command []byte, err error) {
	t.Helper()
	z.change(func() {
		if err == nil {
			_, err = kv.StateMachine{}.Apply(z.state, nexusraft.Command{Data: command, Version: kv.VersionHistory})
		}
		if err != nil {
			t.Error(err)
		}
	})
}

func (z *replica) put(t testing.TB, key, value string) {
	t.Helper()
	command, err := kv.EncodePut(&etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)})
	z.run(t, command, err)
}

func (z *replica) compact(t testing.TB, rev int64) {
	t.Helper()
	command, err := kv.EncodeCompact(&etcdserverpb.CompactionRequest{Revision: rev})
	z.run(t, command, err)
	z.run(t, kv.EncodeSweep(4096), nil)
}

func feedsOf(zones map[nexusraft.ZoneID]*replica) *Feeds {
	return New(func(id nexusraft.ZoneID) (Zone, error) {
		if z := zones[id]; z != nil {
			return z, nil
		}
		return nil, nexusraft.ErrZoneNotFound
	})
}

func one(z *replica) *Feeds { return feedsOf(map[nexusraft.ZoneID]*replica{1: z}) }

func text(events []*mvccpb.Event) string {
	var all []string
	for _, e := range events {
		s := fmt.Sprintf("%s@%d", e.Kv.Key, e.Kv.ModRevision)
		if e.PrevKv != nil {
			s += fmt.Sprintf("<%d", e.PrevKv.ModRevision)
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

var everything = Want{Key: []byte{0}, RangeEnd: []byte{0}}

// Next waits for changes, gives those that are wanted, and moves on over the others.
func TestNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newReplica()
		f := one(z)
		got := make(chan string)
		go func() {
			after := int64(1)
			for range 3 {
				b, err := f.Next(t.Context(), 1, after, Want{Key: []byte("a"), PrevKV: true})
				if err != nil {
					t.Error(err)
				}
				after = b.Through
				got <- fmt.Sprintf("%s through %d", text(b.Events), b.Through)
			}
		}()
		for i, c := range []struct{ key, want string }{
			{"a", "a@2 through 2"}, {"b", " through 3"}, {"a", "a@4<2 through 4"},
		} {
			synctest.Wait()
			z.put(t, c.key, "v")
			if s := <-got; s != c.want {
				t.Errorf("%d: got %q, want %q", i, s, c.want)
			}
		}
	})
}

// What was compacted is refused with the compaction revision; who begins there has it all.
func TestNextCompacted(t *testing.T) {
	z := newReplica()
	for range 9 {
		z.put(t, "a", "v")
	}
	z.compact(t, 6)
	f := one(z)
	_, err := f.Next(t.Context(), 1, 4, everything)
	if e, ok := errors.AsType[*kv.CompactedError](err); !ok || e.Revision != 6 || !errors.Is(err, kv.ErrCompacted) {
		t.Error(err)
	}
	if b, err := f.Next(t.Context(), 1, 5, everything); err != nil || text(b.Events) != "a@6 a@7 a@8 a@9 a@10" {
		t.Error(text(b.Events), err)
	}
}

// What was there before a change goes with the compaction, also from memory: a watch that begins at the compaction
// revision sees the same wherever its events come from.
func TestCompactionTakesWhatWasBefore(t *testing.T) {
	z := newReplica()
	f := one(z)
	d, err := f.Open(1)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	want := func(after int64, events string) {
		t.Helper()
		b, _, err := d.Take(t.Context(), after, Want{Key: []byte("a"), PrevKV: true})
		if err != nil || text(b.Events) != events {
			t.Errorf("after %d: got %q, %v, want %q", after, text(b.Events), err, events)
		}
	}
	z.put(t, "a", "1")
	want(2, "") // the ring begins
	z.put(t, "a", "2")
	z.put(t, "a", "3")
	want(2, "a@3<2 a@4<3")
	z.compact(t, 3)
	want(2, "a@3 a@4<3")
}

// A caller whose right was taken gets nothing, neither from memory nor from the state.
func TestNextDenied(t *testing.T) {
	z := newReplica()
	f := one(z)
	d, err := f.Open(1)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, _, err := d.Take(t.Context(), 1, everything); err != nil {
		t.Fatal(err)
	}
	z.put(t, "a", "v")
	z.denied = nexusraft.ErrDenied
	for _, after := range []int64{0, 1} {
		if b, err := f.Next(t.Context(), 1, after, everything); !errors.Is(err, nexusraft.ErrDenied) || len(b.Events) > 0 {
			t.Errorf("after %d: %v, %v", after, b, err)
		}
	}
}

// A wait ends with its context, and with the zone.
func TestNextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newReplica()
		f := one(z)
		ctx, cancel := context.WithCancel(t.Context())
		errs := make(chan error)
		for _, ctx := range []context.Context{ctx, t.Context()} {
			go func() { _, err := f.Next(ctx, 1, 1, everything); errs <- err }()
		}
		synctest.Wait()
		cancel()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		z.change(func() { z.ended = nexusraft.ErrClosed })
		if err := <-errs; !errors.Is(err, nexusraft.ErrClosed) {
			t.Error(err)
		}
		if _, err := f.Next(t.Context(), 2, 1, everything); !errors.Is(err, nexusraft.ErrZoneNotFound) {
			t.Error(err)
		}
	})
}

// However many follow a zone, its changes are read once; a zone that nobody follows holds nothing.
func TestReadOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := newReplica()
		f := one(z)
		var all sync.WaitGroup
		for range 200 {
			all.Go(func() {
				if b, err := f.Next(t.Context(), 1, 1, everything); err != nil || len(b.Events) != 1 {
					t.Error(b, err)
				}
			})
		}
		synctest.Wait()
		before := z.reads
		z.put(t, "a", "v")
		all.Wait()
		if n := z.reads - before; n != 1 {
			t.Errorf("%d reads", n)
		}
		if len(f.rings) > 0 || f.bytes != 0 || f.events != 0 || f.recent.Len() > 0 {
			t.Errorf("%d rings, %d bytes, %d events", len(f.rings), f.bytes, f.events)
		}
	})
}

// All rings together have a bound. What does not fit is read from the states, and everybody gets everything.
func TestRingsAreBounded(t *testing.T) {
	zones := make(map[nexusraft.ZoneID]*replica)
	for id := range nexusraft.ZoneID(5) {
		zones[id] = newReplica()
	}
	f := feedsOf(zones)
	value := strings.Repeat("v", 300<<10)
	for id, z := range zones {
		d, err := f.Open(id)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if _, _, err := d.Take(t.Context(), 1, everything); err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			z.put(t, fmt.Sprint(i), value)
			if _, _, err := d.Take(t.Context(), 1, everything); err != nil {
				t.Fatal(err)
			}
		}
		if f.bytes > ringBytes || f.bytes < ringBytes/5 {
			t.Errorf("%d bytes in all rings", f.bytes)
		}
	}
	for id := range zones {
		after, n := int64(1), 0
		for after < 11 {
			b, err := f.Next(t.Context(), id, after, everything)
			if err != nil {
				t.Fatal(err)
			}
			n, after = n+len(b.Events), b.Through
		}
		if n != 10 {
			t.Errorf("zone %v: %d events", id, n)
		}
	}
}

// A revision that is too large for a ring is read from the state, whole.
func TestLargeRevision(t *testing.T) {
	z := newReplica()
	f := one(z)
	d, err := f.Open(1)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, _, err := d.Take(t.Context(), 1, everything); err != nil {
		t.Fatal(err)
	}
	req := new(etcdserverpb.TxnRequest)
	for i := range 12 {
		req.Success = append(req.Success, &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{
			RequestPut: &etcdserverpb.PutRequest{Key: fmt.Append(nil, i), Value: make([]byte, 100<<10)},
		}})
	}
	command, err := kv.EncodeTxn(req, 100)
	z.run(t, command, err)
	z.put(t, "a", "v")
	b, err := f.Next(t.Context(), 1, 1, everything)
	if err != nil || len(b.Events) != 12 || b.Through != 2 {
		t.Fatal(len(b.Events), b.Through, err)
	}
	f.MaxRevisionBytes = 1 << 20
	_, err = f.Next(t.Context(), 1, 1, everything)
	if large, ok := errors.AsType[*kv.LargeRevisionError](err); !ok || large.Revision != 2 || large.Bytes < 1200<<10 {
		t.Fatal("a revision of more than a follower may have:", err)
	}
	if b, err = f.Next(t.Context(), 1, 2, everything); err != nil || text(b.Events) != "a@3" {
		t.Fatal(text(b.Events), err)
	}
	if f.bytes > 1000 {
		t.Errorf("%d bytes in the ring", f.bytes)
	}
}

// etcd 15271, etcd 20221: a state that a snapshot has replaced goes on where the old one was, and a follower of a
// revision to come gets nothing before.
func TestEtcd15271Snapshot(t *testing.T) {
	z, ahead := newReplica(), newReplica()
	for range 9 {
		ahead.put(t, "a", "v")
	}
	z.put(t, "a", "v")
	f := one(z)
	d, err := f.Open(1)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	take := func(after int64) string {
		b, _, err := d.Take(t.Context(), after, everything)
		return fmt.Sprint(text(b.Events), " through ", b.Through, " ", err)
	}
	if got := take(2); got != " through 2 <nil>" {
		t.Fatal(got)
	}
	ahead.compact(t, 5)
	z.change(func() { z.state = ahead.state })
	for after, want := range map[int64]string{
		7: "a@8 a@9 a@10 through 10 <nil>", 20: " through 20 <nil>", 4: "a@5 a@6 a@7 a@8 a@9 a@10 through 10 <nil>",
	} {
		if got := take(after); got != want {
			t.Errorf("after %d: %s", after, got)
		}
	}
	if _, _, err := d.Take(t.Context(), 2, everything); !errors.Is(err, kv.ErrCompacted) {
		t.Error(err)
	}
}

// BenchmarkFollowers is a change that a thousand followers of other keys, and one of its own, hear of.
func BenchmarkFollowers(b *testing.B) {
	z := newReplica()
	f := one(z)
	ctx, cancel := context.WithCancel(b.Context())
	var all sync.WaitGroup
	seen := make(chan struct{})
	for i := range 1000 {
		all.Go(func() {
			after, w := int64(1), Want{Key: fmt.Append(nil, "k", i)}
			for {
				batch, err := f.Next(ctx, 1, after, w)
				if err != nil {
					return
				}
				after = batch.Through
				if i == 0 && len(batch.Events) > 0 {
					seen <- struct{}{}
				}
			}
		})
	}
	for b.Loop() {
		z.put(b, "k0", "v")
		<-seen
	}
	cancel()
	all.Wait()
}
