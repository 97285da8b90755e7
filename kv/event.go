package kv

import (
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Each change of the key space is published as an event of EventTopic, whose payload is an
// mvccpb.Event of etcd's API.
const (
	EventTopic = "key"

	EventPut = "put" // the pair as it is now

	// EventPutLarge is EventPut of a value over MaxEventValueBytes, which is not in it: it would be
	// written and kept twice. A subscriber that needs it reads the key.
	EventPutLarge = "put-large"

	EventDelete = "delete" // the key, and the revision that deleted it

	// EventDeleteRange stands for the keys of a DeleteRange that has removed more than
	// MaxDeleteEvents: the payload's key and value are the request's key and range end.
	EventDeleteRange = "delete-range"
)

// MaxDeleteEvents is up to how many keys a DeleteRange publishes one by one.
const MaxDeleteEvents = 1000

// MaxEventValueBytes is up to how many bytes of a value are in an event.
const MaxEventValueBytes = 1 << 10

// newPut returns the type and payload of the event that a key has that record now.
func newPut(key []byte, r record) (kind string, payload []byte) {
	if len(r.value) > MaxEventValueBytes {
		r.value = nil
		return EventPutLarge, appendPut(nil, key, r)
	}
	return EventPut, appendPut(nil, key, r)
}

// publishDeleted publishes that the pairs of a range are gone.
func publishDeleted(tx nexusraft.Tx, req *etcdserverpb.DeleteRangeRequest, d doomed, rev int64) error {
	if d.many() {
		return tx.Publish(EventTopic, EventDeleteRange, appendDelete(nil, req.Key, rev, req.RangeEnd))
	}
	var b []byte
	for _, k := range d.keys {
		b = appendDelete(b[:0], k[1:], rev, nil)
		if err := tx.Publish(EventTopic, EventDelete, b); err != nil {
			return err
		}
	}
	return nil
}

// The payloads are written field by field, in the order of etcd's definition: they become
// state, so every release must make the same bytes of them, which the marshaller does not
// promise. The numbers are those of mvccpb.Event and mvccpb.KeyValue.
const (
	eventTypeField, eventTypeDelete = 1, 1 // PUT is 0 and left out
	eventPairField                  = 2

	pairKey, pairCreate, pairMod, pairVersion, pairValue, pairLease = 1, 2, 3, 4, 5, 6
)

// appendPut appends the event that a key has that record now.
func appendPut(b, key []byte, r record) []byte {
	p := make([]byte, 0, len(key)+len(r.value)+pairOverhead)
	p = appendBytes(p, pairKey, key)
	p = appendInt(p, pairCreate, r.create)
	p = appendInt(p, pairMod, r.mod)
	p = appendInt(p, pairVersion, r.version)
	p = appendBytes(p, pairValue, r.value)
	p = appendInt(p, pairLease, r.lease)
	return appendBytes(b, eventPairField, p)
}

// appendDelete appends the event that a key is gone, or with an end a range of keys.
func appendDelete(b, key []byte, rev int64, end []byte) []byte {
	p := appendBytes(nil, pairKey, key)
	p = appendInt(p, pairMod, rev)
	p = appendBytes(p, pairValue, end)
	b = appendInt(b, eventTypeField, eventTypeDelete)
	return appendBytes(b, eventPairField, p)
}

func appendBytes(b []byte, field protowire.Number, v []byte) []byte {
	if len(v) == 0 {
		return b
	}
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

func appendInt(b []byte, field protowire.Number, v int64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), uint64(v))
}
