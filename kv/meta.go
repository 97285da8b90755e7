package kv

import (
	"encoding/binary"
	"fmt"
	"math"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Layouts of the state tree. A zone begins with layoutNewest, and goes over to layoutVersions with the first
// command that it applies in version VersionHistory: for good, and on all replicas alike.
const (
	layoutNewest   = 1 // what releases before VersionHistory know: the newest pair of each key, and nothing else
	layoutVersions = 2 // see the package's documentation
)

// firstRevision is the revision of a key space that was never changed, neverCompacted the compaction revision of
// one that was never compacted: as in etcd, a compaction at 0 is possible, once.
const (
	firstRevision  = 1
	neverCompacted = -1
)

var metaKey = append([]byte{prefixMeta}, "revision"...)

// meta is what a key space knows of itself.
//
// Of the changes, those of revisions below compacted are not read any more; they go in steps, in the order
// in which they were made. Each change names the version that it has superseded, which nobody can
// read once the change is compacted:
//
//	cleared <= swept, or swept was set back to the compaction revision before this one
//	swept <= (compacted+1, 0); swept.rev > compacted: nothing is left to sweep
//	changes before swept and of revisions below compacted are gone
//	versions superseded by changes before max(swept, cleared) are gone
type meta struct {
	layout    int
	revision  int64
	compacted int64    // reads below it are refused
	swept     position // the first change that a sweep has still to look at
	cleared   position // versions that were superseded by changes before it are gone

	// How many keys there are, and what the rows of k, v, d, r, l, a and g take, keys and values; rows that still have
	// their form of layoutNewest are not in them.
	keys, bytes int64

	// Rows of layoutNewest at moved and above it are still to be written anew.
	moving bool
	moved  []byte
}

// position is the place of a change: the revision, and which change of that it is.
type position struct {
	rev int64
	sub uint32
}

func (p position) before(q position) bool { return p.rev < q.rev || p.rev == q.rev && p.sub < q.sub }

// loadMeta returns a key space's meta. A state of layoutNewest has nothing but its newest revision, to which
// it is as good as compacted.
func loadMeta(r nexusraft.Reader) (meta, error) {
	b, ok, err := r.Get(metaKey)
	switch {
	case err != nil:
		return meta{}, err
	case !ok:
		return meta{layout: layoutNewest, revision: firstRevision, compacted: neverCompacted}, nil
	case len(b) > 0 && b[0] == layoutVersions:
		return decodeMeta(b)
	case len(b) != 8 || binary.BigEndian.Uint64(b) > math.MaxInt64 || binary.BigEndian.Uint64(b) <= firstRevision:
		return meta{}, errCorrupt("revision % x", b)
	}
	rev := int64(binary.BigEndian.Uint64(b))
	return meta{layout: layoutNewest, revision: rev, compacted: rev}, nil
}

// store writes the meta of a layoutVersions.
func (m meta) store(tx nexusraft.Tx) error { return tx.Set(metaKey, m.encode()) }

func (m meta) encode() []byte {
	b := make([]byte, 0, 48)
	b = append(b, layoutVersions)
	for _, v := range [...]int64{
		m.revision, m.compacted + 1, m.swept.rev, int64(m.swept.sub), m.cleared.rev, int64(m.cleared.sub), m.keys, m.bytes,
	} {
		b = binary.AppendUvarint(b, uint64(v))
	}
	if m.moving {
		b = append(b, 1)
		b = append(b, m.moved...)
	}
	return b
}

func decodeMeta(b []byte) (meta, error) {
	var v [8]int64
	rest := b[1:]
	for i := range v {
		var ok bool
		if v[i], rest, ok = uvarint(rest); !ok {
			return meta{}, errCorrupt("meta % x", b)
		}
	}
	m := meta{
		layout: layoutVersions, revision: v[0], compacted: v[1] - 1, swept: position{v[2], uint32(v[3])},
		cleared: position{v[4], uint32(v[5])}, keys: v[6], bytes: v[7],
	}
	if len(rest) > 0 && rest[0] == 1 {
		m.moving, m.moved, rest = true, append([]byte{}, rest[1:]...), nil
	}
	if len(rest) > 0 || v[3] > math.MaxUint32 || v[5] > math.MaxUint32 || !m.valid() {
		return meta{}, errCorrupt("meta % x", b)
	}
	return m, nil
}

func (m meta) valid() bool {
	end := position{m.compacted + 1, 0}
	return m.revision >= firstRevision && m.compacted <= m.revision && !end.before(m.swept) && !end.before(m.cleared)
}

// uvarint reads a canonical uvarint that is an int64.
func uvarint(b []byte) (v int64, rest []byte, ok bool) {
	u, n := binary.Uvarint(b)
	if n <= 0 || n > 1 && b[n-1] == 0 || u > math.MaxInt64 {
		return 0, nil, false
	}
	return int64(u), b[n:], true
}

func errCorrupt(format string, args ...any) error {
	return fmt.Errorf("kv: stored "+format+": %w", append(args, nexusraft.ErrCorrupt)...)
}
