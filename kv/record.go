package kv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"go.etcd.io/etcd/api/v3/mvccpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// The first byte of a key in the state tree.
const (
	prefixKey  byte = 'k'
	prefixMeta byte = 'm'
)

// firstRevision is the revision of a key space that was never changed.
const firstRevision = 1

var revisionKey = append([]byte{prefixMeta}, "revision"...)

// stateKey returns where the pair of a user's key is stored.
func stateKey(key []byte) []byte {
	return append([]byte{prefixKey}, key...)
}

// bounds returns the stretch of the state tree that holds the user's keys from key up to,
// and without, end. A single zero byte as end means no upper bound, as in etcd.
func bounds(key, end []byte) (from, to []byte) {
	if bytes.Equal(end, []byte{0}) {
		return stateKey(key), []byte{prefixKey + 1}
	}
	return stateKey(key), stateKey(end)
}

// record is the stored form of one pair, without its key.
//
// 1 < create <= mod, and 1 <= version <= mod-create+1: each version is a revision.
type record struct {
	create, mod, version int64
	lease                int64
	value                []byte
}

func (r record) encode() []byte {
	b := make([]byte, 0, 4*binary.MaxVarintLen64+len(r.value))
	for _, v := range [...]int64{r.create, r.mod, r.version, r.lease} {
		b = binary.AppendUvarint(b, uint64(v))
	}
	return append(b, r.value...)
}

// decodeRecord reads what encode wrote; the value is a part of b. It returns
// nexusraft.ErrCorrupt, naming the key, for everything else.
func decodeRecord(key, b []byte) (record, error) {
	var header [4]int64
	rest := b
	for i := range header {
		v, n := binary.Uvarint(rest)
		minimal := n == 1 || n > 1 && rest[n-1] != 0
		if !minimal || v > math.MaxInt64 {
			return record{}, fmt.Errorf("kv: header of key %q: %w", key, nexusraft.ErrCorrupt)
		}
		header[i], rest = int64(v), rest[n:]
	}
	r := record{create: header[0], mod: header[1], version: header[2], lease: header[3], value: rest}
	if !r.valid() {
		return record{}, fmt.Errorf("kv: revisions of key %q (created %d, modified %d, version %d): %w",
			key, r.create, r.mod, r.version, nexusraft.ErrCorrupt)
	}
	return r, nil
}

func (r record) valid() bool {
	return r.create > firstRevision && r.mod >= r.create && r.version >= 1 && r.version <= r.mod-r.create+1
}

// keyValue returns the pair in etcd's form; it keeps key and shares nothing else.
func (r record) keyValue(key []byte) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{
		Key:            key,
		CreateRevision: r.create,
		ModRevision:    r.mod,
		Version:        r.version,
		Lease:          r.lease,
		Value:          bytes.Clone(r.value),
	}
}

// get returns the record of a user's key; its value is borrowed from r.
func get(r nexusraft.Reader, key []byte) (record, bool, error) {
	b, ok, err := r.Get(stateKey(key))
	if err != nil || !ok {
		return record{}, false, err
	}
	rec, err := decodeRecord(key, b)
	return rec, err == nil, err
}

// revision returns the newest revision.
func revision(r nexusraft.Reader) (int64, error) {
	b, ok, err := r.Get(revisionKey)
	if err != nil {
		return 0, err
	}
	if !ok {
		return firstRevision, nil
	}
	if len(b) != 8 || binary.BigEndian.Uint64(b) > math.MaxInt64 || binary.BigEndian.Uint64(b) <= firstRevision {
		return 0, fmt.Errorf("kv: stored revision % x: %w", b, nexusraft.ErrCorrupt)
	}
	return int64(binary.BigEndian.Uint64(b)), nil
}

func setRevision(tx nexusraft.Tx, rev int64) error {
	return tx.Set(revisionKey, binary.BigEndian.AppendUint64(nil, uint64(rev)))
}
