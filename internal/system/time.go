package system

import (
	"encoding/binary"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// timeKey holds the time of the last command, 8 bytes big-endian. Time never goes backwards,
// whichever replica leads and whatever its clock says (I4).
var timeKey = []byte{Prefix, 't'}

// AdvanceTime stores and returns the time of a command: the leader's, unless that went back.
func AdvanceTime(base nexusraft.ReadWriter, leaders int64) (int64, error) {
	b, ok, err := base.Get(timeKey)
	if err != nil {
		return 0, fmt.Errorf("read the zone's time: %w", err)
	}
	if ok && len(b) != 8 {
		return 0, fmt.Errorf("%w: the zone's time has %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	if ok {
		leaders = max(leaders, int64(binary.BigEndian.Uint64(b)))
	}
	return leaders, base.Set(timeKey, binary.BigEndian.AppendUint64(nil, uint64(leaders)))
}
