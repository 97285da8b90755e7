package kv

import (
	"bytes"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// MaxSweep is up to how many changes one Sweep looks at. Changing it, or what follows, changes history.
const MaxSweep = 4096

// What one command sweeps is in memory at once: so many bytes of keys, and of pairs that it writes anew.
const (
	sweepBytes = 1 << 20
	moveBytes  = 256 << 10
)

// compact sets the compaction revision. From then on reads of older ones are refused; sweeps remove what
// nobody can read any more.
func (w *writer) compact(req *etcdserverpb.CompactionRequest) (*etcdserverpb.CompactionResponse, error) {
	m := &w.meta
	switch {
	case req.Revision <= m.compacted:
		return nil, ErrCompacted
	case req.Revision > m.revision:
		return nil, ErrFutureRevision
	}
	// The changes at the compaction revision before this one are there, although a sweep has passed them.
	if again := (position{m.compacted, 0}); m.compacted > 0 && again.before(m.swept) {
		m.cleared, m.swept = m.swept, again
	}
	m.compacted = req.Revision
	return &etcdserverpb.CompactionResponse{Header: &etcdserverpb.ResponseHeader{Revision: m.revision}}, nil
}

// sweepOnly is a Sweep; finish sweeps a little more. Only a Sweep moves rows of layoutNewest, which may be large: other
// commands may share an entry of the log (Alone).
func (w *writer) sweepOnly(n int) (*etcdserverpb.CompactionResponse, error) {
	if err := w.move(n); err != nil {
		return nil, err
	}
	return &etcdserverpb.CompactionResponse{Header: &etcdserverpb.ResponseHeader{Revision: w.meta.revision}}, w.sweep(n)
}

// Standing is how far a key space is compacted, and how far sweeps have followed.
type Standing struct {
	Newest    int64 // revision
	Compacted int64 // revision; -1: never
	Unswept   int64 // compacted revisions with changes that sweeps have not all looked at; 0: all are
	Moving    bool  // rows of a zone that has kept the newest pairs only are still to be written anew
}

// Left reports whether there is anything for EncodeSweep to do.
func (s Standing) Left() bool { return s.Unswept > 0 || s.Moving }

// StandingOf returns how far the key space is that r reads. In a zone that keeps the newest pairs only, which a Sweep
// ends once the zone's version is VersionHistory, everything is left.
func StandingOf(r nexusraft.Reader) (Standing, error) {
	m, err := loadMeta(r)
	if err != nil {
		return Standing{}, err
	}
	moving := m.moving || m.layout == layoutNewest && m.revision > firstRevision
	return Standing{m.revision, m.compacted, max(0, m.compacted+1-m.swept.rev), moving}, nil
}

// sweep looks at n compacted changes, in the order in which they were made, and removes what they stand for. It
// reads the changes and nothing else, and costs their number whatever the state has.
func (w *writer) sweep(n int) error {
	m := &w.meta
	if m.swept.rev > m.compacted {
		return nil
	}
	rows, whole, err := w.unsweptChanges(n)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := w.sweepChange(row); err != nil {
			return err
		}
	}
	if m.swept = (position{m.compacted + 1, 0}); !whole {
		last := rows[len(rows)-1].at
		m.swept = position{last.rev, last.sub + 1}
	}
	return nil
}

// changeRow is a row of r.
type changeRow struct {
	at     position
	change change
	bytes  int // of the row
}

// unsweptChanges returns the first n changes that are still to be swept, or fewer that have sweepBytes; whole says
// that there are no more.
func (w *writer) unsweptChanges(n int) (rows []changeRow, whole bool, err error) {
	size := 0
	for p, err := range w.tx.Scan(changeKey(w.meta.swept), changeKey(position{w.meta.compacted + 1, 0})) {
		if err != nil {
			return nil, false, err
		}
		at, c, err := decodeChange(p.Key, p.Value)
		if err != nil {
			return nil, false, err
		}
		c.key = bytes.Clone(c.key)
		rows = append(rows, changeRow{at, c, len(p.Key) + len(p.Value)})
		if size += len(p.Value); len(rows) == n || size >= sweepBytes {
			return rows, false, nil
		}
	}
	return rows, true, nil
}

// sweepChange removes the version that a change has superseded, and the change, unless it is of the compaction
// revision: that one is still seen by who follows changes from there.
func (w *writer) sweepChange(row changeRow) error {
	c := row.change
	if c.prev != 0 && !row.at.before(w.meta.cleared) {
		w.meta.bytes -= c.prevBytes
		if err := w.tx.Delete(versionKey(prefixVersion, c.key, c.prev)); err != nil {
			return err
		}
		if c.elsewhere {
			if err := w.tx.Delete(versionKey(prefixValue, c.key, c.prev)); err != nil {
				return err
			}
		}
	}
	if row.at.rev >= w.meta.compacted {
		return nil
	}
	w.meta.bytes -= int64(row.bytes)
	return w.tx.Delete(changeKey(row.at))
}

// move writes up to n rows of layoutNewest in the form of this layout.
func (w *writer) move(n int) error {
	m := &w.meta
	if !m.moving {
		return nil
	}
	var rows []keyed
	whole, size := true, 0
	from := stateKey(m.moved)
	err := scanNewest(w.tx, from, []byte{prefixKey + 1}, false, func(key []byte, rec record) error {
		rec.value = append([]byte{}, rec.value...)
		rows = append(rows, keyed{append([]byte(nil), key...), rec})
		if size += len(key) + len(rec.value); len(rows) == n || size >= moveBytes {
			whole = false
			return errGathered
		}
		return nil
	})
	if err != nil && whole {
		return err
	}
	for _, p := range rows {
		if !p.rec.newest {
			continue
		}
		rec, err := w.counted(p.key, p.rec)
		if err != nil {
			return err
		}
		if err := w.write(stateKey(p.key), rec.encode()); err != nil {
			return err
		}
	}
	if m.moving = !whole; whole {
		m.moved = nil
	} else {
		m.moved = append(rows[len(rows)-1].key, 0)
	}
	return nil
}
