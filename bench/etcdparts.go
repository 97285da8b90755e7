package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// etcdRunner measures both, and fills the report.
type etcdRunner struct {
	etcdCommand

	programs etcdPrograms
	report   *etcdReport
}

// part measures one part of a new store of one side.
func (r *etcdRunner) part(ctx context.Context, dir string, p etcdPart, ours bool) error {
	dir, err := os.MkdirTemp(dir, "store-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, r.Most)
	defer cancel()
	s, err := startStore(ctx, dir, r.programs, ours)
	defer s.stop()
	if err != nil {
		return errors.Join(err, s.logs())
	}
	return p.run(r, ctx, s)
}

// etcdLoad is what a load of puts has come to.
type etcdLoad struct {
	done     int64
	took     time.Duration
	slow     []time.Duration // of each put, in order
	cpu      float64         // seconds of all processes
	written  float64         // bytes that the leader has had written to its disk
	perPut   float64
	p50, p99 float64 // ms
}

// load puts random values of so many bytes at random keys, until enough says that it is enough.
func (r *etcdRunner) load(ctx context.Context, s *etcdStore, keys, size int, enough func(done int64) bool) (etcdLoad, error) {
	var l etcdLoad
	before, err := s.used()
	if err != nil {
		return l, err
	}
	var done atomic.Int64
	var mu sync.Mutex
	var failed error
	began := time.Now()
	var wg sync.WaitGroup
	for range r.Clients {
		wg.Go(func() {
			value := make([]byte, size)
			var slow []time.Duration
			var err error
			for err == nil && !enough(done.Load()) {
				for i := 0; i+8 <= len(value); i += 8 {
					binary.LittleEndian.PutUint64(value[i:], rand.Uint64())
				}
				at := time.Now()
				_, err = s.kv.Put(ctx, &etcdserverpb.PutRequest{Key: benchKey(rand.IntN(keys)), Value: value})
				slow = append(slow, time.Since(at))
				done.Add(1)
			}
			mu.Lock()
			defer mu.Unlock()
			l.slow, failed = append(l.slow, slow...), errors.Join(failed, err)
		})
	}
	wg.Wait()
	if failed != nil {
		return l, failed
	}
	after, err := s.used()
	if err != nil {
		return l, err
	}
	l.took, l.done = time.Since(began), done.Load()
	l.cpu, l.written = after.cpu-before.cpu, after.written-before.written
	l.perPut = l.cpu / float64(l.done) * 1e6
	slices.Sort(l.slow)
	l.p50, l.p99 = milliseconds(l.slow[len(l.slow)/2]), milliseconds(l.slow[len(l.slow)*99/100])
	return l, nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func benchKey(i int) []byte { return fmt.Appendf(nil, "registry/%07d", i) }

// forTime returns an enough that lasts so long.
func forTime(d time.Duration) func(int64) bool {
	end := time.Now().Add(d)
	return func(int64) bool { return time.Now().After(end) }
}

func (r *etcdRunner) puts(ctx context.Context, s *etcdStore) error {
	for _, size := range []int{128, 4 << 10} {
		if _, err := r.load(ctx, s, 10_000, size, forTime(r.Time/4)); err != nil { // it gets going
			return err
		}
		l, err := r.load(ctx, s, 10_000, size, forTime(r.Time))
		if err != nil {
			return err
		}
		name := fmt.Sprintf("puts of %d B", size)
		r.report.add(name, "1/s", "more", s.ours, float64(l.done)/l.took.Seconds())
		r.report.add(name+": CPU of all processes", "us", "less", s.ours, l.perPut)
		r.report.add(name+": p99", "ms", "less", s.ours, l.p99)
		r.report.add(name+": written by the leader", "B", "less", s.ours, l.written/float64(l.done))
	}
	return nil
}

// fill puts each of so many keys once.
func (r *etcdRunner) fill(ctx context.Context, s *etcdStore, keys, size int) error {
	var next atomic.Int64
	var mu sync.Mutex
	var failed error
	var wg sync.WaitGroup
	for range r.Clients {
		wg.Go(func() {
			value := make([]byte, size)
			for i := int(next.Add(1)) - 1; i < keys; i = int(next.Add(1)) - 1 {
				_, err := s.kv.Put(ctx, &etcdserverpb.PutRequest{Key: benchKey(i), Value: value})
				if err != nil {
					mu.Lock()
					defer mu.Unlock()
					failed = errors.Join(failed, err)
					return
				}
			}
		})
	}
	wg.Wait()
	return failed
}

// list times a list of all keys.
func (r *etcdRunner) list(ctx context.Context, s *etcdStore, name string, rev int64, want int) error {
	var took []time.Duration
	for range 5 {
		at := time.Now()
		resp, err := s.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: rev})
		if err != nil {
			return err
		}
		if took = append(took, time.Since(at)); len(resp.Kvs) != want {
			return fmt.Errorf("%s: %d pairs, want %d", name, len(resp.Kvs), want)
		}
	}
	slices.Sort(took)
	r.report.add(name, "ms", "less", s.ours, milliseconds(took[len(took)/2]))
	return nil
}

func (r *etcdRunner) lists(ctx context.Context, s *etcdStore) error {
	if err := r.fill(ctx, s, r.Objects, 4<<10); err != nil {
		return err
	}
	rev, err := s.revision(ctx)
	if err != nil {
		return err
	}
	if err := r.list(ctx, s, "list of pairs of 4 KiB", 0, r.Objects); err != nil {
		return err
	}
	changes := int64(r.Objects)
	if _, err := r.load(ctx, s, r.Objects, 4<<10, func(done int64) bool { return done >= changes }); err != nil {
		return err
	}
	return r.list(ctx, s, "the same, as many changes back", rev, r.Objects)
}

func (r *etcdRunner) versions(ctx context.Context, s *etcdStore) error {
	if err := r.fill(ctx, s, 1000, 128); err != nil {
		return err
	}
	l, err := r.load(ctx, s, 1, 128, func(done int64) bool { return done >= int64(r.Versions) })
	if err != nil {
		return err
	}
	r.report.add("puts of one hot key", "1/s", "more", s.ours, float64(l.done)/l.took.Seconds())
	if err := r.list(ctx, s, "list of 1,000 pairs beside the hot key", 0, 1000); err != nil {
		return err
	}
	calm, err := r.load(ctx, s, 1000, 128, forTime(r.Time))
	if err != nil {
		return err
	}
	rev, err := s.revision(ctx)
	if err != nil {
		return err
	}
	if _, err := s.kv.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: rev}); err != nil {
		return err
	}
	swept, err := r.load(ctx, s, 1000, 128, forTime(r.Time))
	if err != nil {
		return err
	}
	r.report.add("puts after a compaction, of those before", "", "more", s.ours,
		float64(swept.done)/swept.took.Seconds()/(float64(calm.done)/calm.took.Seconds()))
	r.report.add("the same: p99, of that before", "", "less", s.ours, swept.p99/calm.p99)
	r.report.add("the same: the slowest put", "ms", "less", s.ours, milliseconds(swept.slow[len(swept.slow)-1]))
	return nil
}

func (r *etcdRunner) deletes(ctx context.Context, s *etcdStore) error {
	if err := r.fill(ctx, s, r.Range, 128); err != nil {
		return err
	}
	at := time.Now()
	resp, err := s.kv.DeleteRange(ctx, &etcdserverpb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		return err
	}
	if int(resp.Deleted) != r.Range {
		return fmt.Errorf("%d keys were deleted, want %d", resp.Deleted, r.Range)
	}
	r.report.add("delete of a range", "ms", "less", s.ours, milliseconds(time.Since(at)))
	return nil
}

func (r *etcdRunner) memory(ctx context.Context, s *etcdStore) error {
	if err := r.fill(ctx, s, r.Keys, 128); err != nil {
		return err
	}
	puts := int64(9 * r.Keys)
	l, err := r.load(ctx, s, r.Keys, 128, func(done int64) bool { return done >= puts })
	if err != nil {
		return err
	}
	after, err := s.used()
	if err != nil {
		return err
	}
	r.report.add("memory of the leader, ten versions of each key", "MiB", "less", s.ours, after.resident/(1<<20))
	r.report.add("puts meanwhile", "1/s", "more", s.ours, float64(l.done)/l.took.Seconds())
	return nil
}
