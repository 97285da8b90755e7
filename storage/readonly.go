package storage

import (
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// readOnly is what the commit of a batch to a store that is only to be read returns. An
// empty batch, that of a Flush, has nothing to write.
func (s *Store) readOnly(b *Batch) error {
	if b.Empty() {
		b.committed = true
		return nil
	}
	return fmt.Errorf("commit batch, nothing was written: %w: store %s was opened with Options.ReadOnly",
		nexusraft.ErrRefused, s.dir)
}
