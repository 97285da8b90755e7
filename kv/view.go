package kv

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// view is a key space as it was at one revision.
type view struct {
	r       nexusraft.Reader
	at      int64 // the revision
	current int64 // the newest there is; in a transaction that has changed something, its own

	counting bool // only keys are asked for: a visit gets any record
}

// viewOf returns the state as of a revision, or of the newest one if that is 0 or less, as etcd has it.
func viewOf(r nexusraft.Reader, rev int64) (view, error) {
	m, err := loadMeta(r)
	if err != nil {
		return view{}, err
	}
	return m.view(r, m.revision, rev)
}

func (m meta) view(r nexusraft.Reader, current, rev int64) (view, error) {
	switch {
	case rev > current:
		return view{}, ErrFutureRevision
	case rev <= 0:
		rev = current
	case rev < m.compacted:
		return view{}, ErrCompacted
	}
	return view{r: r, at: rev, current: current}, nil
}

// visit is called for a version of a key. Both arguments are borrowed until it returns, or until it reads.
type visit func(key []byte, rec record) error

// scan calls fn for each pair of the range, in ascending or descending order of keys, until it returns an
// error. While it runs, fn may get single keys of the view's Reader.
func (v view) scan(key, end []byte, descending bool, fn visit) error {
	if len(end) == 0 {
		rec, ok, err := v.get(key)
		if err != nil || !ok {
			return err
		}
		return fn(key, rec)
	}
	from, to := bounds(key, end)
	if bytes.Compare(from, to) >= 0 {
		return nil
	}
	if v.at == v.current {
		return scanNewest(v.r, from, to, descending, fn)
	}
	undo, err := v.undo(from, to)
	if errors.Is(err, errManyChanges) {
		return v.scanVersions(from, to, descending, fn)
	}
	if err != nil {
		return err
	}
	undo.counting = v.counting
	return undo.scan(v.r, from, to, descending, fn)
}

// get returns the pair of a key; its value is borrowed.
func (v view) get(key []byte) (record, bool, error) {
	rec, ok, err := get(v.r, key)
	if err != nil || ok && rec.mod <= v.at {
		return rec, ok, err
	}
	if v.at == v.current {
		return record{}, false, nil
	}
	from, to := escape(prefixVersion, key), versionKey(prefixVersion, key, v.at+1)
	for p, err := range v.r.ScanReverse(from, to) {
		if err != nil {
			return record{}, false, err
		}
		rec, err := decodeVersion(key, p.Value, true)
		if err != nil {
			return record{}, false, err
		}
		return rec, rec.end > v.at, nil
	}
	return record{}, false, nil
}

// scanNewest calls fn for each row of k in a stretch of the state tree.
func scanNewest(r nexusraft.Reader, from, to []byte, descending bool, fn visit) error {
	rows := r.Scan
	if descending {
		rows = r.ScanReverse
	}
	for p, err := range rows(from, to) {
		if err != nil {
			return err
		}
		if len(p.Key) == 0 {
			return errCorrupt("empty key")
		}
		rec, err := decodeRecord(p.Key[1:], p.Value)
		if err != nil {
			return err
		}
		if err := fn(p.Key[1:], rec); err != nil {
			return err
		}
	}
	return nil
}

// A read of an old revision has two ways that give the same. One takes back the changes that were made since, and
// costs their number, however many versions there are; beyond maxUndone of them, or maxUndoneBytes of their keys, which
// are in memory, the other one reads all versions of all keys in the range.
const maxUndoneBytes = 8 << 20

var maxUndone = 200_000 // tests have a lower one

var errManyChanges = errors.New("kv: more changes than are taken back")

// undone are the keys of a range that have changed since a revision, in order, with the version that was
// the newest one then, 0 if there was none.
type undone struct {
	keys []string
	mods map[string]int64

	counting bool // as in view
}

// undo returns what has changed since the view's revision between two state keys.
func (v view) undo(from, to []byte) (undone, error) {
	u := undone{mods: make(map[string]int64)}
	n, size := 0, 0
	for p, err := range v.r.Scan(changeKey(position{v.at + 1, 0}), []byte{prefixChange + 1}) {
		if err != nil {
			return undone{}, err
		}
		_, c, err := decodeChange(p.Key, p.Value)
		if err != nil {
			return undone{}, err
		}
		if n++; n > maxUndone {
			return undone{}, errManyChanges
		}
		if !within(c.key, from, to) {
			continue
		}
		if _, known := u.mods[string(c.key)]; known { // only the first change since then names it
			continue
		}
		k := string(c.key)
		u.mods[k], u.keys = c.prev, append(u.keys, k)
		if size += len(k); size > maxUndoneBytes {
			return undone{}, errManyChanges
		}
	}
	slices.Sort(u.keys)
	return u, nil
}

// within reports whether the newest version of a user's key is stored in [from, to).
func within(key, from, to []byte) bool {
	k := func(bound []byte) int { // how the key's place compares with a bound, which has at least its prefix
		if bound[0] != prefixKey {
			return cmp.Compare(prefixKey, bound[0])
		}
		return bytes.Compare(key, bound[1:])
	}
	return k(from) >= 0 && k(to) < 0
}

// scan calls fn for each pair in [from, to) as it was.
func (u undone) scan(r nexusraft.Reader, from, to []byte, descending bool, fn visit) error {
	keys, order := u.keys, 1
	if descending {
		slices.Reverse(keys)
		order = -1
	}
	next := 0
	before := func(key []byte) error { // what was there before key and has changed
		for next < len(keys) && (key == nil || order*cmp.Compare(keys[next], string(key)) < 0) {
			k := keys[next]
			next++
			if err := u.visit(r, k, fn); err != nil {
				return err
			}
		}
		return nil
	}
	err := scanNewest(r, from, to, descending, func(key []byte, rec record) error {
		if next < len(keys) && order*cmp.Compare(keys[next], string(key)) <= 0 {
			key, rec.value = bytes.Clone(key), bytes.Clone(rec.value) // reading takes away what is borrowed
			if err := before(key); err != nil {
				return err
			}
			if _, changed := u.mods[string(key)]; changed {
				k := keys[next]
				next++
				return u.visit(r, k, fn)
			}
		}
		return fn(key, rec)
	})
	if err != nil {
		return err
	}
	return before(nil)
}

// visit calls fn for what a changed key was, unless it was not there.
func (u undone) visit(r nexusraft.Reader, k string, fn visit) error {
	mod := u.mods[k]
	if mod == 0 {
		return nil
	}
	key := []byte(k)
	if u.counting {
		return fn(key, record{})
	}
	rec, err := superseded(r, key, mod)
	if err != nil {
		return err
	}
	return fn(key, rec)
}

// superseded returns a version that is not the newest one any more; its value is borrowed.
func superseded(r nexusraft.Reader, key []byte, mod int64) (record, error) {
	rec, ok, err := findSuperseded(r, key, mod)
	if err == nil && !ok {
		err = errCorrupt("changes name a version of key %q at revision %d, which is missing", key, mod)
	}
	return rec, err
}

// findSuperseded is superseded for a version that may have been swept.
func findSuperseded(r nexusraft.Reader, key []byte, mod int64) (record, bool, error) {
	b, ok, err := r.Get(versionKey(prefixVersion, key, mod))
	if err != nil || !ok {
		return record{}, false, err
	}
	rec, err := decodeVersion(key, b, true)
	return rec, err == nil, err
}

// scanVersions is scan by way of all versions.
func (v view) scanVersions(from, to []byte, descending bool, fn visit) error {
	return versions(v.r, from, to, descending, func(key []byte, rec record) error {
		if rec.mod > v.at || rec.end != 0 && rec.end <= v.at {
			return nil
		}
		return fn(key, rec)
	})
}

// Of the newest versions so many are gathered at once, before the superseded ones between them are read.
const (
	gatherRows  = 512
	gatherBytes = 256 << 10
)

// versions calls fn for all versions of the keys that are stored in [from, to), newest and superseded, in the
// order of the keys and of their revisions, or in the opposite one. One scan has ended when the next
// begins, which a Reader that takes turns asks for.
func versions(r nexusraft.Reader, from, to []byte, descending bool, fn visit) error {
	for {
		newest, whole, err := gather(r, from, to, descending)
		if err != nil {
			return err
		}
		until := from // how far this step reads, in the direction of the scan
		if !descending {
			until = to
		}
		if !whole {
			until = stateKey(newest[len(newest)-1].key)
			if !descending {
				until = append(until, 0)
			}
		}
		low, high := from, until
		if descending {
			low, high = until, to
		}
		if err := mergeVersions(r, newest, low, high, descending, fn); err != nil || whole {
			return err
		}
		if descending {
			to = until
		} else {
			from = until
		}
	}
}

// keyed is a version with its key; both are slices of its own.
type keyed struct {
	key []byte
	rec record
}

var errGathered = errors.New("kv: enough")

// gather returns the first newest versions in a stretch; whole says that there are no more.
func gather(r nexusraft.Reader, from, to []byte, descending bool) (newest []keyed, whole bool, err error) {
	size := 0
	err = scanNewest(r, from, to, descending, func(key []byte, rec record) error {
		rec.value = bytes.Clone(rec.value)
		newest = append(newest, keyed{bytes.Clone(key), rec})
		if size += len(key) + len(rec.value); len(newest) == gatherRows || size >= gatherBytes {
			return errGathered
		}
		return nil
	})
	if errors.Is(err, errGathered) {
		return newest, false, nil
	}
	return newest, true, err
}

// mergeVersions calls fn for what was gathered of a stretch and for its superseded versions, in order.
func mergeVersions(r nexusraft.Reader, newest []keyed, from, to []byte, descending bool, fn visit) error {
	order, rows := 1, r.Scan
	if descending {
		order, rows = -1, r.ScanReverse
	}
	// ahead calls fn for the newest versions that come before a superseded one of key, or all of them.
	ahead := func(key []byte) error {
		for len(newest) > 0 {
			c := order * bytes.Compare(newest[0].key, key)
			if key != nil && (c > 0 || c == 0 && !descending) {
				return nil
			}
			p := newest[0]
			newest = newest[1:]
			if err := fn(p.key, p.rec); err != nil {
				return err
			}
		}
		return nil
	}
	for p, err := range rows(versionBound(from), versionBound(to)) {
		if err != nil {
			return err
		}
		key, mod, ok := splitVersionKey(p.Key)
		if !ok {
			return errCorrupt("version % x", p.Key)
		}
		rec, err := decodeVersion(key, p.Value, true)
		if err != nil {
			return err
		}
		if rec.mod != mod {
			return errCorrupt("version of key %q at revision %d, which says %d", key, mod, rec.mod)
		}
		if len(newest) > 0 && order*bytes.Compare(newest[0].key, key) <= 0 {
			rec.value = bytes.Clone(rec.value) // fn may read
		}
		if err := ahead(key); err != nil {
			return err
		}
		if err := fn(key, rec); err != nil {
			return err
		}
	}
	return ahead(nil)
}

// versionBound returns the bound of v that divides keys as a bound of k does.
func versionBound(bound []byte) []byte {
	if bound[0] != prefixKey {
		return []byte{prefixVersion + 1}
	}
	b := escape(prefixVersion, bound[1:])
	return b[:len(b)-2] // what ends an escaped key sorts below every byte that goes on
}
