package storage

// Durability says what a write waits for. Whatever it is, writes become visible at once,
// and are kept in the order in which they became visible: a crash takes none without all
// that came after it.
type Durability int

const (
	// Sync waits until the write is on the disk: it survives a crash of the machine.
	Sync Durability = iota

	// NoSync waits for nothing. The write survives the end of the process once the log
	// got to it, a moment later, and a crash of the machine once something was synced: a
	// later write, or this one after Options.FlushInterval.
	NoSync
)

// syncs reports whether a write that was given d is to be synced. The last one counts;
// without any, the store's.
func (s *Store) syncs(d []Durability) bool {
	if len(d) == 0 {
		return s.options.Durability == Sync
	}
	return d[len(d)-1] == Sync
}

// Flush returns when all that is visible is on the disk. Its errors are those of
// Batch.Commit.
func (s *Store) Flush() error { return s.FlushAsync()() }

// FlushAsync begins a Flush; wait returns what Flush would.
func (s *Store) FlushAsync() (wait func() error) {
	b := s.NewBatch()
	synced := b.CommitAsync()
	return func() error {
		defer b.Close()
		return synced()
	}
}

// syncLater sees to it that what was written is synced within the interval. It is called
// after each write that is not.
//
// At most one timer is armed. It first says that it is armed no more and then looks for
// what is unsynced, a writer does both in the same order: one of them sees the other.
func (s *Store) syncLater() {
	s.unsynced.Store(true)
	if s.options.FlushInterval > 0 && s.syncArmed.CompareAndSwap(false, true) {
		s.syncTimer.Reset(s.options.FlushInterval)
	}
}

func (s *Store) syncInBackground() {
	s.syncArmed.Store(false)
	if s.unsynced.Load() {
		_ = s.Flush() // the store is dead then, and has said why; or closed, and synced
	}
}
