package system

import (
	"encoding/binary"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// A zone keeps a digest of what its entries have done, each chained to the one before. Replicas that have
// applied the same entries have the same digest, or one of them has made something else of an entry (I4).
// internal/apply makes it. Each replica remembers it as it was after certain entries, and the leader has
// the members compare what they remember, by a command.
//
// It begins with the zone: with the founding of a cluster, with the record of a zone that is made, and in a
// root zone that an earlier release has founded with the command that raises the cluster's version. A
// zone without one has its commands applied all the same, and nothing is compared.
var (
	digestKey      = []byte{Prefix, 'd'}
	checkpointsKey = []byte{Prefix, 'd', 'c'}
	divergedKey    = []byte{Prefix, 'd', 'x'}
)

// Changing these changes history.
const (
	checkpointEvery = 256 // entries
	maxCheckpoints  = 128 // so that those of all commands that may be on their way in a zone are remembered
	digestBytes     = 2 * 8
	divergedBytes   = 3 * 8
)

// Digest is a zone's after an entry. Before the first one its index is 0.
type Digest struct {
	Index nexusraft.Index
	Sum   uint64
}

func (d Digest) append(b []byte) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, uint64(d.Index)), d.Sum)
}

// decodeDigest reads the first of some digests.
func decodeDigest(b []byte) Digest {
	return Digest{nexusraft.Index(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint64(b[8:])}
}

// FoundingDigest is what a zone's state begins with, so that it has a digest.
func FoundingDigest() nexusraft.Pair {
	return nexusraft.Pair{Key: digestKey, Value: Digest{}.append(nil)}
}

// LoadDigest returns a zone's digest; false if it has none.
func LoadDigest(r nexusraft.Reader) (Digest, bool, error) {
	b, ok, err := r.Get(digestKey)
	switch {
	case err != nil:
		return Digest{}, false, fmt.Errorf("read the zone's digest: %w", err)
	case !ok:
		return Digest{}, false, nil
	case len(b) != digestBytes:
		return Digest{}, false, fmt.Errorf("%w: the zone's digest has %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	return decodeDigest(b), true, nil
}

// StoreDigest stores the digest after one more entry, and reports whether it is a checkpoint: then it is
// remembered, and is to be compared.
func StoreDigest(base nexusraft.ReadWriter, d Digest) (checkpoint bool, err error) {
	if err := StoreDigestInside(base, d); err != nil || d.Index%checkpointEvery != 0 {
		return false, err
	}
	all, err := checkpoints(base)
	if err != nil {
		return false, err
	}
	if len(all) >= maxCheckpoints*digestBytes {
		all = all[digestBytes:]
	}
	return true, base.Set(checkpointsKey, d.append(append([]byte(nil), all...)))
}

// StoreDigestInside stores the digest after a command whose entry has more of them: no checkpoint, and what
// is stored with the applied index is the digest after the last one.
func StoreDigestInside(base nexusraft.ReadWriter, d Digest) error {
	return base.Set(digestKey, d.append(nil))
}

// DropDigest ends a zone's digest on this replica: there were entries that it is not of, since an earlier
// release has applied them. With another replica's state it begins again.
func DropDigest(base nexusraft.ReadWriter) error {
	if err := base.Delete(digestKey); err != nil {
		return err
	}
	return base.Delete(checkpointsKey)
}

// checkpoints returns what is remembered, the oldest first. The bytes are borrowed.
func checkpoints(r nexusraft.Reader) ([]byte, error) {
	b, _, err := r.Get(checkpointsKey)
	if err != nil {
		return nil, fmt.Errorf("read the zone's earlier digests: %w", err)
	}
	if len(b)%digestBytes != 0 || len(b) > maxCheckpoints*digestBytes {
		return nil, fmt.Errorf("%w: the zone's earlier digests have %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	return b, nil
}

// DivergedError says that a replica has made something else of the same entries than the leader, whose state
// is what counts: of two members none can be outvoted. It matches ErrCorrupt.
type DivergedError struct {
	Index        nexusraft.Index // of the last of those entries
	Here, Leader uint64          // the digests
}

// Error implements error.
func (e *DivergedError) Error() string {
	return fmt.Sprintf("%v: this member's state differs from the leader's: after entry %d its digest is %016x, and the "+
		"leader's is %016x; either the state machine is not the same function on both, or a machine's memory is bad",
		nexusraft.ErrCorrupt, e.Index, e.Here, e.Leader)
}

// Unwrap makes it match ErrCorrupt.
func (e *DivergedError) Unwrap() error { return nexusraft.ErrCorrupt }

// applyVerify returns a DivergedError if this replica remembers another digest than the leader's. One that
// remembers none, as it has applied more since than it remembers, passes.
func applyVerify(r nexusraft.Reader, c *pb.VerifyState) error {
	all, err := checkpoints(r)
	if err != nil {
		return err
	}
	for ; len(all) > 0; all = all[digestBytes:] {
		d := decodeDigest(all)
		if uint64(d.Index) == c.GetIndex() && d.Sum != c.GetDigest() {
			return &DivergedError{Index: d.Index, Here: d.Sum, Leader: c.GetDigest()}
		}
	}
	return nil
}

// MarkDiverged returns the pair that marks a replica's state as one that differs from the leader's. It is
// this replica's alone: no command writes it, and another replica's state takes it away.
func MarkDiverged(e *DivergedError) nexusraft.Pair {
	b := Digest{e.Index, e.Here}.append(nil)
	return nexusraft.Pair{Key: divergedKey, Value: binary.BigEndian.AppendUint64(b, e.Leader)}
}

// CheckDiverged returns a DivergedError if the state is marked as one that differs from the leader's.
func CheckDiverged(r nexusraft.Reader) error {
	b, ok, err := r.Get(divergedKey)
	switch {
	case err != nil || !ok:
		return err
	case len(b) != divergedBytes:
		return fmt.Errorf("%w: the mark of a state that differs has %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	d := decodeDigest(b)
	return &DivergedError{Index: d.Index, Here: d.Sum, Leader: binary.BigEndian.Uint64(b[digestBytes:])}
}
