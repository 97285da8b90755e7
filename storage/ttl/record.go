package ttl

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// stampBytes is the length of a stamp: a deadline and a random number.
const stampBytes = 16

// record is a stored value.
type record struct {
	deadline int64  // nanoseconds since 1970; never negative
	life     uint64 // the random number of its stamp
	value    []byte
}

// newStamp returns what a pair is stored with, and what its entry is stored at. The random number
// is the pair's life: it goes on when the pair gets a later deadline, and no two have the same,
// whatever the clock does. So once the pair has another one, an entry is of no use for ever.
// It has room for so many bytes more.
func newStamp(deadline int64, room int) []byte { return stampOf(deadline, rand.Uint64(), room) }

func stampOf(deadline int64, life uint64, room int) []byte {
	stamp := make([]byte, 0, stampBytes+room)
	stamp = binary.BigEndian.AppendUint64(stamp, uint64(deadline))
	return binary.BigEndian.AppendUint64(stamp, life)
}

// decode reads a record. Its value is a part of stored.
func (t *Tree) decode(key, stored []byte) (record, error) {
	if len(stored) < stampBytes || binary.BigEndian.Uint64(stored) > math.MaxInt64 {
		return record{}, fmt.Errorf("%w: expiring tree %q: at key %q is no stamp but %d bytes, the first of them %.16x",
			nexusraft.ErrCorrupt, t.name, key, len(stored), stored)
	}
	return record{
		deadline: deadlineOf(stored), life: binary.BigEndian.Uint64(stored[8:]), value: stored[stampBytes:],
	}, nil
}
