package etcd

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/kv"
)

// endless is a state in which every range has pairs without end, as many as are read.
type endless struct {
	state
	revision uint64
	read     int
	value    []byte // of each pair; nil for a short one
}

// Get answers with the revision.
func (e *endless) Get(key []byte) ([]byte, bool, error) {
	return binary.BigEndian.AppendUint64(nil, e.revision), string(key) == "mrevision" && e.revision > 0, nil
}

func (e *endless) Scan(_, _ []byte) iter.Seq2[nexusraft.Pair, error] {
	pair := nexusraft.Pair{Key: []byte("kx"), Value: []byte{2, 2, 1, 0}}
	if e.value != nil {
		pair.Value = e.value
	}
	return func(yield func(nexusraft.Pair, error) bool) {
		for yield(pair, nil) {
			e.read++
		}
	}
}

// endlessZone reads an endless state.
type endlessZone struct {
	*fakeZone
	state *endless
}

func (z endlessZone) Read(_ context.Context, fn func(nexusraft.Reader) error) error {
	return fn(z.state)
}

func (z endlessZone) ReadLocal(_ context.Context, fn func(nexusraft.Reader) error) error {
	return fn(z.state)
}

// A delete that would take too long to apply is refused before it is proposed.
func TestDeleteOfTooManyKeys(t *testing.T) {
	z := endlessZone{newZone(), &endless{revision: kv.MaxDeleteKeys + 2}}
	client := etcdserverpb.NewKVClient(serve(t, fakeZones{nexusraft.RootZone: z}))
	_, err := client.DeleteRange(t.Context(), &etcdserverpb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("b")})
	if status.Code(err) != codes.InvalidArgument ||
		!strings.Contains(err.Error(), "more than 250000 keys, delete it in parts") {
		t.Errorf("got %v", err)
	}
	if z.proposals != 0 {
		t.Errorf("%d proposals", z.proposals)
	}
	if _, err := client.DeleteRange(t.Context(), &etcdserverpb.DeleteRangeRequest{Key: []byte("a")}); err != nil {
		t.Errorf("one key: %v", err)
	}
	z.state.revision, z.state.read = kv.MaxDeleteKeys+1, 0 // there can't be more keys than changes
	if err := kv.CheckDeleteCost(z.state, &etcdserverpb.DeleteRangeRequest{
		Key:      []byte("a"),
		RangeEnd: []byte("b"),
	}); err != nil || z.state.read > 0 {
		t.Errorf("after few changes: %v, and %d pairs were read", err, z.state.read)
	}
}

// leavingZone is a zone whose caller goes while the state is looked at.
type leavingZone struct {
	endlessZone
	leave func()
}

func (z leavingZone) ReadLocal(ctx context.Context, fn func(nexusraft.Reader) error) error {
	z.leave()
	return z.endlessZone.ReadLocal(ctx, fn)
}

// A delete whose caller goes before it is known how large it is, is not proposed: it may be of any
// size (I15).
func TestDeleteWhoseCallerGoes(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	z := leavingZone{endlessZone{newZone(), &endless{revision: kv.MaxDeleteKeys + 2}}, cancel}
	s := NewKV(fakeZones{nexusraft.RootZone: z}, func() Identity { return Identity{} })
	_, err := s.DeleteRange(ctx, &etcdserverpb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("b")})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
	if z.proposals != 0 {
		t.Errorf("%d proposals", z.proposals)
	}
}

// A read ends with its caller.
func TestScanEndsWithItsCaller(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e := &endless{}
	var last error
	for _, err := range (abortable{e, ctx, newTurns()}).Scan(nil, nil) {
		last = err
	}
	if !errors.Is(last, context.Canceled) || e.read > budget.ScanPairs {
		t.Errorf("ended with %v after %d pairs", last, e.read)
	}
}

// A long scan takes turns, and a short one needs none; a scan whose caller has gone gives its turn
// back.
func TestLongScansTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		fillWithOthers(turns.long)
		ctx, cancel := context.WithCancel(t.Context())
		read := 0
		var ended error
		scan := func(most int) {
			for _, err := range (abortable{&endless{}, ctx, turns}).Scan(nil, nil) {
				if ended = err; err != nil || read == most {
					return
				}
				read++
			}
		}
		scan(budget.ScanPairs - 1)
		if read != budget.ScanPairs-1 {
			t.Fatalf("a short scan read %d pairs without a turn", read)
		}
		read = 0
		go scan(10 * budget.ScanPairs)
		synctest.Wait()
		if read != budget.ScanPairs {
			t.Errorf("a long scan read %d pairs without a turn, want %d", read, budget.ScanPairs)
		}
		<-turns.long
		synctest.Wait()
		if read != 10*budget.ScanPairs || ended != nil || len(turns.long) != cap(turns.long)-1 {
			t.Errorf("a long scan read %d pairs, %v, and %d turns are taken", read, ended, len(turns.long))
		}
		read = 0
		turns.long <- struct{}{}
		go scan(10 * budget.ScanPairs)
		synctest.Wait()
		cancel()
		synctest.Wait()
		if !errors.Is(ended, context.Canceled) || len(turns.long) != cap(turns.long) || len(turns.reading) != 0 {
			t.Errorf("a scan whose caller has gone: %v, %d turns and %d places are taken", ended, len(turns.long),
				len(turns.reading))
		}
	})
}

// fillWithOthers takes all that there is.
func fillWithOthers(places chan struct{}) {
	for len(places) < cap(places) {
		places <- struct{}{}
	}
}

// A scan of few large pairs is a long one, too.
func TestLargePairsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		turns := newTurns()
		fillWithOthers(turns.long)
		read := 0
		go func() {
			for _, err := range (abortable{&endless{value: make([]byte, budget.ScanBytes/4)}, ctx, turns}).Scan(nil, nil) {
				if err == nil {
					read++
				}
			}
		}()
		synctest.Wait()
		if read != 4 {
			t.Errorf("a scan of pairs of %d bytes read %d without a turn, want 4", budget.ScanBytes/4, read)
		}
		cancel()
		synctest.Wait()
	})
}

// watched is a state that counts the scans that are open.
type watched struct {
	nexusraft.Reader
	open, most *atomic.Int32
}

func (w watched) counted(pairs iter.Seq2[nexusraft.Pair, error]) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		now := w.open.Add(1)
		defer w.open.Add(-1)
		for most := w.most.Load(); now > most && !w.most.CompareAndSwap(most, now); most = w.most.Load() {
		}
		pairs(yield)
	}
}

func (w watched) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return w.counted(w.Reader.Scan(start, end))
}

func (w watched) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return w.counted(w.Reader.ScanReverse(start, end))
}

// Scans that wait for their turns hold nothing of the store, and few read at once: each one would
// hold blocks as large as the largest value.
func TestScansThatWaitHoldNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		turns := newTurns()
		fillWithOthers(turns.long)
		var open, most atomic.Int32
		for range 20 * budget.ScansAtOnce {
			w := watched{&endless{value: make([]byte, 64)}, &open, &most}
			go func() {
				first := true
				for range (abortable{w, ctx, turns}).Scan(nil, nil) {
					if first {
						time.Sleep(time.Second) // in a read of the disk, so to say
					}
					first = false
				}
			}()
		}
		synctest.Wait()
		if got := open.Load(); got != budget.ScansAtOnce {
			t.Errorf("%d scans are open at once, want %d", got, budget.ScansAtOnce)
		}
		time.Sleep(time.Minute)
		if open.Load() != 0 || len(turns.reading) != 0 || most.Load() != budget.ScansAtOnce {
			t.Errorf("%d scans that wait are open, %d have a place, there were %d; want 0, 0 and %d", open.Load(),
				len(turns.reading), most.Load(), budget.ScansAtOnce)
		}
		cancel()
	})
}

// A scan that had to wait goes on after the pair that it yielded last, in both directions, and ends
// where it should.
func TestScansGoOnAfterAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := state{"": []byte("at the empty key")}
		for i := range 5*budget.ScanPairs + 7 {
			s[fmt.Sprintf("%05d", i)] = []byte(strconv.Itoa(i))
		}
		for _, bounds := range [][2][]byte{
			{nil, nil},
			{[]byte("00003"), []byte("04001")},
			{{}, []byte("02048")},
			{nil, []byte("01023")}, // so that a reverse scan waits at the empty key first
		} {
			for _, reverse := range []bool{false, true} {
				turns := newTurns()
				fillWithOthers(turns.long)
				var open, most atomic.Int32
				r := abortable{watched{s, &open, &most}, t.Context(), turns}
				got, want := r.Scan, s.Scan
				if reverse {
					got, want = r.ScanReverse, s.ScanReverse
				}
				var pairs []string
				ended := false
				go func() {
					defer func() { ended = true }()
					for p, err := range got(bounds[0], bounds[1]) {
						pairs = append(pairs, fmt.Sprintf("%s=%s %v", p.Key, p.Value, err))
					}
				}()
				waits := 0
				for synctest.Wait(); !ended; synctest.Wait() {
					if open.Load() != 0 {
						t.Fatalf("a scan that waits is open")
					}
					<-turns.long // for this scan, which gives it back after some pairs,
					turns.long <- struct{}{}
					waits++
				}
				if waits == 0 {
					t.Error("it never waited")
				}
				var all []string
				for p, err := range want(bounds[0], bounds[1]) {
					all = append(all, fmt.Sprintf("%s=%s %v", p.Key, p.Value, err))
				}
				if !slices.Equal(pairs, all) {
					t.Errorf("from %q to %q, reverse %v: %d pairs, want the %d that there are", bounds[0], bounds[1], reverse,
						len(pairs), len(all))
				}
			}
		}
	})
}
