package storage

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// What is stored under keyClosed. A store that was written before there was such a record has
// none until it is opened again: how it ended is unknown, and no crash is made up for it.
const (
	stateOpen   = 0
	stateClosed = 1
)

// loadEnd learns from what is stored whether the store was closed in order.
func (s *Store) loadEnd(stored []byte) error {
	if len(stored) > 1 || len(stored) == 1 && stored[0] > stateClosed {
		return fmt.Errorf("%w: registry: how the store was closed is %x", nexusraft.ErrCorrupt, stored)
	}
	s.recovered = len(stored) == 1 && stored[0] == stateOpen
	return nil
}

// noteOpened stores that the store is open. It is not synced: a crash that takes it takes all
// that is written after it, too, and then nothing was lost since the store was closed.
func (s *Store) noteOpened() (err error) {
	if s.options.ReadOnly {
		return nil
	}
	defer s.guard(&err)
	return s.db.Set(appendKey(nil, registry, []byte(keyClosed)), []byte{stateOpen}, pebble.NoSync)
}

// noteClosed syncs what was written, and with it that the store was closed in order. No
// calls may be running, and none can begin.
func (s *Store) noteClosed() error {
	if s.options.ReadOnly || s.failstop.cause() != nil {
		return nil
	}
	b := s.NewBatch()
	defer b.Close()
	b.UseReserve()
	if err := b.set(registry, []byte(keyClosed), []byte{stateClosed}); err != nil {
		return err
	}
	if err := b.apply(true); err != nil {
		return err
	}
	return b.awaitSync()
}
