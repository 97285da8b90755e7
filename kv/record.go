package kv

import (
	"bytes"
	"encoding/binary"

	"go.etcd.io/etcd/api/v3/mvccpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// The first byte of a key in the state tree.
const (
	prefixKey     byte = 'k'
	prefixVersion byte = 'v'
	prefixValue   byte = 'd'
	prefixChange  byte = 'r'
	prefixMeta    byte = 'm'

	prefixLease      byte = 'l'
	prefixAttached   byte = 'a'
	prefixGeneration byte = 'g'
)

// maxInline is up to how many bytes of a value are in the row of its version: those are read as fast as
// the row, and written once more when the version is superseded. Longer values are written once, in a row
// of their own. Changing it changes history.
const maxInline = 1 << 10

// The first byte of a row of k or v. In layoutNewest a row begins with its create revision, which is above both.
const (
	tagInline    = 0 // the value is in the row
	tagElsewhere = 1 // the value's length is, and the value has a row of d
)

// stateKey returns where the newest version of a user's key is stored.
func stateKey(key []byte) []byte {
	return append([]byte{prefixKey}, key...)
}

// bounds returns the stretch of the state tree that holds the newest versions of the user's keys from key up to,
// and without, end. A single zero byte as end means no upper bound, as in etcd.
func bounds(key, end []byte) (from, to []byte) {
	if bytes.Equal(end, []byte{0}) {
		return stateKey(key), []byte{prefixKey + 1}
	}
	return stateKey(key), stateKey(end)
}

// versionKey returns where a version of a user's key is stored once it is superseded, or with prefixValue its
// value from the beginning: versions are in the order of their keys and, of one key, of their revisions.
func versionKey(prefix byte, key []byte, mod int64) []byte {
	return binary.BigEndian.AppendUint64(escape(prefix, key), uint64(mod))
}

// escape returns prefix and key so that they compare as keys do, whatever follows: a zero byte becomes 00 FF, and
// 00 01 ends it.
func escape(prefix byte, key []byte) []byte {
	b := make([]byte, 1, len(key)+12)
	b[0] = prefix
	for {
		i := bytes.IndexByte(key, 0)
		if i < 0 {
			break
		}
		b = append(b, key[:i]...)
		b = append(b, 0, 0xff)
		key = key[i+1:]
	}
	b = append(b, key...)
	return append(b, 0, 1)
}

// splitVersionKey reads what versionKey wrote; the key is a slice of its own.
func splitVersionKey(b []byte) (key []byte, mod int64, ok bool) {
	if len(b) < 1+2+8 {
		return nil, 0, false
	}
	key = make([]byte, 0, len(b)-11)
	for rest := b[1:]; ; {
		i := bytes.IndexByte(rest, 0)
		if i < 0 || i+1 >= len(rest) {
			return nil, 0, false
		}
		key = append(key, rest[:i]...)
		end := rest[i+1]
		rest = rest[i+2:]
		switch {
		case end == 0xff:
			key = append(key, 0)
		case end == 1 && len(rest) == 8 && rest[0] < 0x80:
			return key, int64(binary.BigEndian.Uint64(rest)), true
		default:
			return nil, 0, false
		}
	}
}

// record is one version of a key, without the key.
//
// 1 < create <= mod, and 1 <= version <= mod-create+1: each version is a revision.
type record struct {
	create, mod, version int64
	lease                int64
	sub                  int64 // which change of its revision made it
	end                  int64 // the revision that has superseded it; 0 in a row of k

	value     []byte // nil if it is elsewhere
	elsewhere bool
	length    int // of the value, wherever it is

	newest bool // the row has the form of layoutNewest
	stored int  // bytes of the row's value
}

// encode returns the row of a version: of k if it has no end, otherwise of v.
func (r record) encode() []byte {
	b := make([]byte, 1, 7*binary.MaxVarintLen64+len(r.value))
	numbers := [...]int64{r.create, r.mod, r.version, r.lease, r.sub, r.end}
	used := len(numbers)
	if r.end == 0 {
		used--
	}
	for _, v := range numbers[:used] {
		b = binary.AppendUvarint(b, uint64(v))
	}
	if r.elsewhere {
		b[0] = tagElsewhere
		return binary.AppendUvarint(b, uint64(r.length))
	}
	return append(b, r.value...)
}

// encodeNewest returns the row in the form of layoutNewest.
func (r record) encodeNewest() []byte {
	b := make([]byte, 0, 4*binary.MaxVarintLen64+len(r.value))
	for _, v := range [...]int64{r.create, r.mod, r.version, r.lease} {
		b = binary.AppendUvarint(b, uint64(v))
	}
	return append(b, r.value...)
}

// decodeRecord reads a row of k, in the form of either layout; the value is a part of b. It returns
// nexusraft.ErrCorrupt, naming the key, for everything that is no such row.
func decodeRecord(key, b []byte) (record, error) {
	if len(b) > 0 && b[0] <= tagElsewhere {
		return decodeVersion(key, b, false)
	}
	r := record{newest: true, stored: len(b)}
	rest, ok := decodeNumbers(b, &r.create, &r.mod, &r.version, &r.lease)
	if !ok || !r.valid() {
		return record{}, errCorrupt("pair of key %q", key)
	}
	r.value, r.length = rest, len(rest)
	return r, nil
}

// decodeVersion reads what encode wrote, a row of v if it is to have an end; the value is a part of b.
func decodeVersion(key, b []byte, ended bool) (record, error) {
	if len(b) == 0 || b[0] > tagElsewhere {
		return record{}, errCorrupt("version of key %q", key)
	}
	r := record{stored: len(b), elsewhere: b[0] == tagElsewhere}
	rest, ok := decodeNumbers(b[1:], &r.create, &r.mod, &r.version, &r.lease, &r.sub)
	if ok && ended {
		rest, ok = decodeNumbers(rest, &r.end)
		ok = ok && r.end >= r.mod
	}
	var length int64
	if ok && r.elsewhere {
		length, rest, ok = uvarint(rest)
		ok = ok && len(rest) == 0 && length > maxInline && length <= MaxRequestBytes
		rest = nil
	} else {
		length = int64(len(rest))
		ok = ok && length <= maxInline
	}
	if !ok || !r.valid() {
		return record{}, errCorrupt("version of key %q", key)
	}
	r.value, r.length = rest, int(length)
	return r, nil
}

func (r record) valid() bool {
	return r.create > firstRevision && r.mod >= r.create && r.version >= 1 && r.version <= r.mod-r.create+1
}

// keyValue returns the pair in etcd's form; it keeps key and value.
func (r record) keyValue(key, value []byte) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key:            key,
		CreateRevision: r.create,
		ModRevision:    r.mod,
		Version:        r.version,
		Lease:          r.lease,
		Value:          value,
	}
}

// load returns the value of a version of key, a slice of its own.
func (r record) load(from nexusraft.Reader, key []byte) ([]byte, error) {
	if !r.elsewhere {
		return bytes.Clone(r.value), nil
	}
	b, err := r.peek(from, key)
	return bytes.Clone(b), err
}

// peek returns the value of a version of key that is elsewhere; it is borrowed.
func (r record) peek(from nexusraft.Reader, key []byte) ([]byte, error) {
	b, ok, err := from.Get(versionKey(prefixValue, key, r.mod))
	switch {
	case err != nil:
		return nil, err
	case !ok || len(b) != r.length:
		return nil, errCorrupt("value of key %q at revision %d", key, r.mod)
	}
	return b, nil
}

// get returns the newest version of a user's key; its value is borrowed from r.
func get(r nexusraft.Reader, key []byte) (record, bool, error) {
	b, ok, err := r.Get(stateKey(key))
	if err != nil || !ok {
		return record{}, false, err
	}
	rec, err := decodeRecord(key, b)
	return rec, err == nil, err
}

// change is one change of a key: a row of r.
type change struct {
	deleted   bool
	key       []byte
	prev      int64 // mod of the version that it has superseded; 0: there was none
	elsewhere bool  // the value of that has a row of d
	prevBytes int64 // what that takes, in rows of v and d
}

const (
	changeDeleted   = 1 << 0
	changeElsewhere = 1 << 1
)

// changeKey returns where a change is stored: changes are in the order in which they were made.
func changeKey(p position) []byte {
	b := make([]byte, 1, 13)
	b[0] = prefixChange
	b = binary.BigEndian.AppendUint64(b, uint64(p.rev))
	return binary.BigEndian.AppendUint32(b, p.sub)
}

func splitChangeKey(b []byte) (p position, ok bool) {
	if len(b) != 13 || b[1] >= 0x80 {
		return position{}, false
	}
	return position{int64(binary.BigEndian.Uint64(b[1:])), binary.BigEndian.Uint32(b[9:])}, true
}

func (c change) encode() []byte {
	b := make([]byte, 1, 1+2*binary.MaxVarintLen64+len(c.key))
	if c.deleted {
		b[0] |= changeDeleted
	}
	if c.elsewhere {
		b[0] |= changeElsewhere
	}
	b = binary.AppendUvarint(b, uint64(c.prev))
	if c.prev != 0 {
		b = binary.AppendUvarint(b, uint64(c.prevBytes))
	}
	return append(b, c.key...)
}

// decodeChange reads a row of r; the change's key is a part of b.
func decodeChange(k, b []byte) (position, change, error) {
	p, ok := splitChangeKey(k)
	if !ok || len(b) == 0 || b[0] > changeDeleted|changeElsewhere {
		return position{}, change{}, errCorrupt("change % x", k)
	}
	c := change{deleted: b[0]&changeDeleted != 0, elsewhere: b[0]&changeElsewhere != 0}
	c.prev, b, ok = uvarint(b[1:])
	if ok && c.prev != 0 {
		c.prevBytes, b, ok = uvarint(b)
	}
	c.key = b
	if !ok || len(b) == 0 || c.prev > p.rev || c.prev == 0 && (c.deleted || c.elsewhere) {
		return position{}, change{}, errCorrupt("change %d.%d", p.rev, p.sub)
	}
	return p, c, nil
}
