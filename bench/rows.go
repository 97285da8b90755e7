package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// row is one line of the table.
type row struct {
	name    string
	unit    string
	lower   bool // less is better
	once    bool // it doesn't depend on how busy the machine is: one round is enough
	measure func(*runner, engine) (float64, error)
}

var rows = []row{
	{name: "sequential writes", unit: "keys/s", measure: sequentialWrites},
	{name: "random writes in batches of 100", unit: "keys/s", measure: batches},
	{name: "synced writes by 1", unit: "keys/s", measure: syncedWrites(1)},
	{name: "synced writes by 64", unit: "keys/s", measure: syncedWrites(64)},
	{name: "synced writes by 256", unit: "keys/s", measure: syncedWrites(256)},
	{name: "random reads by 1", unit: "keys/s", measure: reads(1, store.get)},
	{name: "random reads by 8", unit: "keys/s", measure: reads(8, store.get)},
	{name: "reads into a buffer by 1", unit: "keys/s", measure: readsInto(1)},
	{name: "reads into a buffer by 8", unit: "keys/s", measure: readsInto(8)},
	{name: "prefix scans of 1000", unit: "scans/s", measure: scans},
	{name: "write amplification of sequential keys", unit: "x", lower: true, once: true, measure: amplificationSequential},
	{
		name: "write amplification of random overwrites", unit: "x", lower: true, once: true,
		measure: amplificationOverwrites,
	},
	{name: "reopen after a kill", unit: "s", lower: true, measure: reopen},
}

// sequentialWrites puts keys in order, one by one, without waiting for the disk.
func sequentialWrites(r *runner, e engine) (float64, error) {
	return r.fresh(e, 0, func(s store) (float64, error) {
		return r.timed(r.keys, 1, func(i int) error { return s.put(newKey(i), value(i)) })
	})
}

// batches puts keys in random order, a hundred at once, without waiting for the disk.
func batches(r *runner, e engine) (float64, error) {
	order := rand.New(rand.NewPCG(3, 0)).Perm(r.keys / batchOfPuts * batchOfPuts)
	return r.fresh(e, 0, func(s store) (float64, error) {
		return r.timed(len(order)/batchOfPuts, batchOfPuts, func(i int) error {
			return s.putAll(pairs(order[i*batchOfPuts : (i+1)*batchOfPuts]))
		})
	})
}

// syncedWrites puts random keys, by so many writers, each of which waits for the disk.
func syncedWrites(writers int) func(*runner, engine) (float64, error) {
	return func(r *runner, e engine) (float64, error) {
		return r.fresh(e, writers, func(s store) (float64, error) {
			return r.together(writers, func(rng *rand.Rand) error {
				i := rng.IntN(r.keys)
				return s.put(newKey(i), value(i))
			})
		})
	}
}

// reads reads random keys of those that are stored, by so many readers.
func reads(readers int, get func(store, []byte) ([]byte, error)) func(*runner, engine) (float64, error) {
	return func(r *runner, e engine) (float64, error) {
		return r.stored(e, func(s store) (float64, error) {
			return r.together(readers, func(rng *rand.Rand) error {
				var key [keyBytes]byte
				setKey(key[:], rng.IntN(r.keys))
				v, err := get(s, key[:])
				if err == nil && len(v) != valueBytes {
					err = fmt.Errorf("a value of %d bytes", len(v))
				}
				return err
			})
		})
	}
}

// readsInto is reads into a buffer that each reader keeps.
func readsInto(readers int) func(*runner, engine) (float64, error) {
	buffers := sync.Pool{New: func() any { return new([valueBytes]byte) }}
	return reads(readers, func(s store, key []byte) ([]byte, error) {
		b := buffers.Get().(*[valueBytes]byte)
		defer buffers.Put(b)
		return s.getTo(b[:0], key)
	})
}

// scans reads all pairs with one prefix.
func scans(r *runner, e engine) (float64, error) {
	return r.stored(e, func(s store) (float64, error) {
		return r.together(1, func(rng *rand.Rand) error {
			n, err := s.scan(newKey(rng.IntN(r.keys/prefixScan) * prefixScan)[:scanPrefix])
			if err == nil && n != prefixScan {
				err = fmt.Errorf("a scan of %d keys", n)
			}
			return err
		})
	})
}

// timed calls do, which does size things, with 0, 1, ... until n, or for as long as a row
// may take. It returns the rate.
func (r *runner) timed(n, size int, do func(i int) error) (float64, error) {
	start := time.Now()
	i := 0
	for i < n && (i%64 != 0 || time.Since(start) < 10*r.time) {
		if err := do(i); err != nil {
			return 0, err
		}
		i++
	}
	return float64(i*size) / time.Since(start).Seconds(), nil
}

// together has n goroutines call do over and over, for as long as a row measures, and
// returns the rate of all. The first error ends it.
func (r *runner) together(n int, do func(*rand.Rand) error) (float64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), r.time)
	defer cancel()
	var done atomic.Int64
	var g sync.WaitGroup
	errs := make([]error, n)
	start := time.Now()
	for i := range n {
		g.Go(func() {
			rng := rand.New(rand.NewPCG(4, uint64(i)))
			count := int64(0)
			for ; ctx.Err() == nil; count++ {
				if errs[i] = do(rng); errs[i] != nil {
					cancel()
				}
			}
			done.Add(count)
		})
	}
	g.Wait()
	return float64(done.Load()) / time.Since(start).Seconds(), errors.Join(errs...)
}
