package storage

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TestGenerateIDOverCrashes crashes again and again: no ID comes twice, nor a lower one.
func TestGenerateIDOverCrashes(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	fs := NewMemFS()
	last := uint64(0)
	for range 30 {
		s := mustOpen(t, fs)
		for range rng.IntN(2 * idBlock) {
			id, err := s.GenerateID()
			check(t, err)
			if id <= last {
				t.Fatalf("got %d after %d", id, last)
			}
			last = id
		}
		crashed := fs.CrashClone(rng, rng.IntN(101))
		check(t, s.Close())
		if rng.IntN(4) > 0 {
			fs = crashed
		}
	}
}

func TestGenerateIDFewSyncs(t *testing.T) {
	var syncs atomic.Int64
	s := mustOpen(t, errorfs.Wrap(NewMemFS(), countSyncs(&syncs)))
	defer func() { check(t, s.Close()) }()
	before := syncs.Load()
	for want := uint64(1); want <= 3*idBlock; want++ {
		got, err := s.GenerateID()
		check(t, err)
		if got != want {
			t.Fatalf("got %d, want %d", got, want)
		}
	}
	if got := syncs.Load() - before; got != 3 {
		t.Errorf("got %d syncs, want 3", got)
	}
}

func TestGenerateIDConcurrently(t *testing.T) {
	s := newStore(t)
	var mu sync.Mutex
	seen := make(map[uint64]bool)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			last := uint64(0)
			for range idBlock {
				id, err := s.GenerateID()
				mu.Lock()
				if err != nil || id <= last || seen[id] {
					t.Errorf("got %d, %v after %d, seen before: %v", id, err, last, seen[id])
				}
				seen[id], last = true, id
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

func TestGenerateIDEnds(t *testing.T) {
	fs := NewMemFS()
	writeOwn(t, fs, keyIDs, string(binary.BigEndian.AppendUint64(nil, math.MaxUint64-idBlock)))
	s := mustOpen(t, fs)
	if id, err := s.GenerateID(); id != math.MaxUint64-idBlock || err != nil {
		t.Errorf("got %d, %v", id, err)
	}
	check(t, s.Close())
	for range 2 {
		s = mustOpen(t, fs)
		if id, err := s.GenerateID(); err == nil {
			t.Errorf("got %d, want an error", id)
		}
		check(t, s.Close())
	}
	if _, err := s.GenerateID(); !errors.Is(err, nexusraft.ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}
