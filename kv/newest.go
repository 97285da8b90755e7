package kv

import (
	"bytes"
	"encoding/binary"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// What is in this file applies commands to a layoutNewest, as releases before VersionHistory do, byte by byte: a
// zone's replicas run different releases while they are updated one after the other.

func putNewest(tx nexusraft.Tx, m meta, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if err := checkPut(req); err != nil {
		return nil, err
	}
	if req.Lease != 0 {
		return nil, ErrLeaseNotFound
	}
	rev := m.revision + 1
	prev, existed, err := get(tx, req.Key)
	if err != nil {
		return nil, err
	}
	if !existed && (req.IgnoreValue || req.IgnoreLease) {
		return nil, ErrKeyNotFound
	}
	resp := &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: rev}}
	next := record{create: rev, mod: rev, version: 1, value: req.Value}
	if existed {
		next.create, next.version = prev.create, prev.version+1
		if req.IgnoreLease {
			next.lease = prev.lease
		}
		if req.IgnoreValue {
			next.value = prev.value
		}
		if req.PrevKv {
			resp.PrevKv = prev.keyValue(req.Key, bytes.Clone(prev.value))
		}
	}
	// Before Set, after which the borrowed value is void.
	kind, event := eventKind(next.value), appendPut(nil, req.Key, next, eventValue(next.value))
	if err := tx.Set(stateKey(req.Key), next.encodeNewest()); err != nil {
		return nil, err
	}
	if err := setRevisionNewest(tx, rev); err != nil {
		return nil, err
	}
	return resp, tx.Publish(EventTopic, kind, event)
}

func setRevisionNewest(tx nexusraft.Tx, rev int64) error {
	return tx.Set(metaKey, binary.BigEndian.AppendUint64(nil, uint64(rev)))
}

// deleteRangeNewest reads the whole range before it changes anything: an iteration does not
// survive a write to what it walks over, and a refusal must leave nothing behind.
func deleteRangeNewest(tx nexusraft.Tx, m meta, req *etcdserverpb.DeleteRangeRequest) (
	*etcdserverpb.DeleteRangeResponse, error,
) {
	if err := checkDeleteRange(req); err != nil {
		return nil, err
	}
	rev := m.revision
	d, err := findDoomed(tx, rev, req)
	if err != nil {
		return nil, err
	}
	if d.count > 0 {
		rev++
		if err := d.remove(tx, req); err != nil {
			return nil, err
		}
		if err := setRevisionNewest(tx, rev); err != nil {
			return nil, err
		}
		told := deletions{keys: d.keys, many: d.many()}
		if err := told.publish(tx, EventDeleteRange, req.Key, req.RangeEnd, rev, 0); err != nil {
			return nil, err
		}
	}
	return &etcdserverpb.DeleteRangeResponse{
		Header:  &etcdserverpb.ResponseHeader{Revision: rev},
		Deleted: d.count,
		PrevKvs: d.prev,
	}, nil
}

// doomed is what a DeleteRange removes. Its size has a bound, whatever that of the range is
// (invariant I15): many keys are removed as a range, and only counted.
type doomed struct {
	count int64
	keys  [][]byte           // only the first ones if there are many
	prev  []*mvccpb.KeyValue // the pairs, if the request asks for them
	size  int                // of prev
}

func (d *doomed) many() bool { return d.count > MaxDeleteEvents }

func findDoomed(r nexusraft.Reader, rev int64, req *etcdserverpb.DeleteRangeRequest) (d doomed, err error) {
	err = view{r: r, at: rev, current: rev}.scan(req.Key, req.RangeEnd, false, func(key []byte, rec record) error {
		if d.count++; !d.many() {
			d.keys = append(d.keys, bytes.Clone(key))
		}
		if !req.PrevKv {
			return nil
		}
		kv := rec.keyValue(bytes.Clone(key), bytes.Clone(rec.value))
		d.prev = append(d.prev, kv)
		if d.size += proto.Size(kv); d.size > MaxPrevKVBytes {
			return ErrResponseTooLarge
		}
		return nil
	})
	return d, err
}

// remove deletes the keys one by one, or many of them as a range. The state is the same; few
// keys are cheaper for the store one by one, and a range takes no memory for each key.
func (d *doomed) remove(tx nexusraft.Tx, req *etcdserverpb.DeleteRangeRequest) error {
	if d.many() {
		from, to := bounds(req.Key, req.RangeEnd)
		return tx.DeleteRange(shortBound(from), shortBound(to))
	}
	for _, k := range d.keys {
		if err := tx.Delete(stateKey(k)); err != nil {
			return err
		}
	}
	return nil
}

// shortBound returns a bound of state keys that divides them as b does, and is hardly longer than
// they are: a request's may be of any length, and Tx refuses what is too long.
func shortBound(b []byte) []byte {
	const longest = 1 + MaxKeyBytes
	if len(b) <= longest {
		return b
	}
	return append(bytes.Clone(b[:longest]), 0) // no key is between: it would be longer than the longest
}
