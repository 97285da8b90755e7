package storage

import (
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// idBlock is how many IDs are reserved by one sync.
const idBlock = 1 << 12

// ids gives out numbers below what is stored under keyIDs, and never one twice: what was
// reserved and not given out before a crash is skipped.
type ids struct {
	mu          sync.Mutex // guards what follows
	next, limit uint64     // next <= limit, and limit is what is stored, or 1
}

// GenerateID returns a number that is above all that it has ever returned for this store,
// crashes included; the first is 1. One call in 4,096 waits for a sync. Its errors are those of
// Batch.Commit.
func (s *Store) GenerateID() (uint64, error) {
	if err := s.enter(); err != nil {
		return 0, err
	}
	defer s.calls.exit()
	s.ids.mu.Lock()
	defer s.ids.mu.Unlock()
	if s.ids.next == s.ids.limit {
		if err := s.reserveIDs(); err != nil {
			return 0, fmt.Errorf("generate an ID: %w", err)
		}
	}
	id := s.ids.next
	s.ids.next++
	return id, nil
}

// reserveIDs stores a new limit. The caller holds s.ids.mu.
func (s *Store) reserveIDs() error {
	if s.ids.limit > math.MaxUint64-idBlock {
		return fmt.Errorf("store %s has none left", s.dir)
	}
	limit := s.ids.limit + idBlock
	if err := s.setOwn(record{keyIDs, binary.BigEndian.AppendUint64(nil, limit)}); err != nil {
		return err
	}
	s.ids.limit = limit
	return nil
}

// loadIDs takes over the limit that is stored, nil if there is none.
func (s *Store) loadIDs(stored []byte) error {
	s.ids.limit = 1
	if stored != nil {
		if len(stored) != 8 {
			return fmt.Errorf("%w: registry: the limit of IDs is %x", nexusraft.ErrCorrupt, stored)
		}
		s.ids.limit = binary.BigEndian.Uint64(stored)
	}
	s.ids.next = s.ids.limit
	return nil
}
