package kv

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Version is one version of a key that is kept, or what has deleted it.
type Version struct {
	Revision int64 // that made it
	Create   int64 // the first one since the key was there
	Version  int64 // 1 at Create; 0: the key was deleted
	Lease    int64
	Bytes    int // of the value
}

// Deleted reports whether the key was deleted at that revision.
func (v Version) Deleted() bool { return v.Version == 0 }

// History calls fn for all that is kept of a key, oldest first, until it returns an error: the versions, and its
// deletions after the compaction revision.
func History(r nexusraft.Reader, key []byte, fn func(Version) error) error {
	if len(key) == 0 {
		return ErrEmptyKey
	}
	m, err := loadMeta(r)
	if err != nil {
		return err
	}
	from := stateKey(key)
	return lives(r, from, append(bytes.Clone(from), 0), m, m.revision, func(_ []byte, v Version, _ record) error {
		return fn(v)
	})
}

// lives calls fn for all that was kept of the keys in [from, to) as of revision rev, which is not compacted: versions
// that some read from the compaction revision on can see, and deletions after it. What a sweep has not yet removed
// is left out, so that it does not matter how far that is. The record is the zero value for a deletion.
func lives(
	r nexusraft.Reader, from, to []byte, m meta, rev int64, fn func(key []byte, v Version, rec record) error,
) error {
	var dead *keyed // what was superseded last, if nothing of its key has followed yet
	bury := func() error {
		d := dead
		if dead = nil; d == nil || d.rec.end > rev {
			return nil
		}
		return fn(d.key, Version{Revision: d.rec.end}, record{})
	}
	err := versions(r, from, to, false, func(key []byte, rec record) error {
		if rec.end != 0 && rec.end <= m.compacted {
			return nil
		}
		key, rec.value = bytes.Clone(key), bytes.Clone(rec.value)
		follows := dead != nil && dead.rec.end == rec.mod && bytes.Equal(dead.key, key)
		if follows {
			dead = nil
		} else if err := bury(); err != nil {
			return err
		}
		seen := rec.mod != rec.end // otherwise its own revision has superseded it
		if rec.end != 0 && (seen || follows) {
			dead = &keyed{key, rec}
		}
		if rec.mod > rev || !seen {
			return nil
		}
		return fn(key, Version{
			Revision: rec.mod, Create: rec.create, Version: rec.version, Lease: rec.lease, Bytes: rec.length,
		}, rec)
	})
	if err != nil {
		return err
	}
	return bury()
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Hash is a checksum of what a key space keeps.
type Hash struct {
	Sum       uint32
	Revision  int64 // of the state as of which it was computed
	Compacted int64 // the compaction revision, -1 if there was none
	Newest    int64 // the newest revision
}

// HashKV returns the checksum of all that is kept of the revisions up to rev, or up to the newest one if rev is 0: it
// is the same on all replicas for the same revision and compaction revision, however far each has swept. It
// is CRC-32C over keys, revisions, versions, leases and values in the order of the keys and revisions, and not what
// etcd computes. It reads everything; the errors are ErrCompacted, ErrFutureRevision, and those of r.
func HashKV(r nexusraft.Reader, rev int64) (Hash, error) {
	m, err := loadMeta(r)
	if err != nil {
		return Hash{}, err
	}
	v, err := m.view(r, m.revision, rev)
	if err != nil {
		return Hash{}, err
	}
	h := Hash{Revision: v.at, Compacted: m.compacted, Newest: m.revision}
	var b []byte
	err = lives(r, []byte{prefixKey}, []byte{prefixKey + 1}, m, v.at, func(key []byte, ver Version, rec record) error {
		b = binary.BigEndian.AppendUint32(b[:0], uint32(len(key)))
		b = append(b, key...)
		for _, n := range [...]int64{ver.Revision, ver.Create, ver.Version, ver.Lease, int64(ver.Bytes)} {
			b = binary.BigEndian.AppendUint64(b, uint64(n))
		}
		if !ver.Deleted() {
			value, err := rec.load(r, key)
			if err != nil {
				return err
			}
			b = append(b, value...)
		}
		h.Sum = crc32.Update(h.Sum, castagnoli, b)
		return nil
	})
	return h, err
}
