package apply

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/storage"
)

// position is that of a command in the log: the index of its entry, its place in that, and whether the
// entry has more after it. What is no command has place 0.
type position struct {
	index nexusraft.Index
	place int
	more  bool
}

// follows reports whether a digest is of all that comes before the position.
func (p position) follows(d system.Digest) bool {
	if p.place > 0 {
		return d.Index == p.index
	}
	return d.Index == 0 || d.Index+1 == p.index
}

// digest chains what the command at a position, or what else is there, has done to the zone's digest: at which
// time, whether it was refused, which is effects nil, and what it has written. Not its answer, which is no
// state, and whose text may change with a release. Time comes from the log, so that it only tells of an
// older difference.
// The form is for ever, as the digest is stored.
//
// It returns the digest if the members are to compare it, which is after a whole entry.
func digest(
	base *storage.Overlay, p position, now int64, effects *storage.Overlay,
) (checkpoint system.Digest, err error) {
	d, ok, err := system.LoadDigest(base)
	if err != nil || !ok {
		return system.Digest{}, err
	}
	if !p.follows(d) {
		return system.Digest{}, system.DropDigest(base)
	}
	var head [3*8 + 1]byte
	binary.BigEndian.PutUint64(head[:], d.Sum)
	binary.BigEndian.PutUint64(head[8:], uint64(p.index))
	binary.BigEndian.PutUint64(head[16:], uint64(now))
	if effects != nil {
		head[24] = 1
	}
	h := xxhash.New()
	_, _ = h.Write(head[:])
	if effects != nil {
		effects.HashTo(h)
	}
	d = system.Digest{Index: p.index, Sum: h.Sum64()}
	if p.more {
		return system.Digest{}, system.StoreDigestInside(base, d)
	}
	if due, err := system.StoreDigest(base, d); err != nil || !due {
		return system.Digest{}, err
	}
	return d, nil
}

// Nothing applies an entry that says nothing, as a leader's first one. Its error is as Command's.
func Nothing(base *storage.Overlay, index nexusraft.Index) (o Effects, err error) {
	o.Checkpoint, err = digest(base, position{index: index}, 0, nil)
	return o, err
}

// Members applies what a conf change is to the zone's state, at its leader's time: events of the members
// that have changed. Its error is as Command's.
func Members(
	base *storage.Overlay, index nexusraft.Index, leaders int64, before, after nexusraft.Membership,
) (o Effects, err error) {
	now, err := system.AdvanceTime(base, leaders)
	if err != nil {
		return Effects{}, err
	}
	effects := storage.NewOverlay(base)
	if err := system.PublishMembers(effects, now, before, after); err != nil {
		return Effects{}, err
	}
	effects.MergeInto(base)
	o.Published = true
	o.Checkpoint, err = digest(base, position{index: index}, now, effects)
	return o, err
}
