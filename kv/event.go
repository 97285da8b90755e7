package kv

import "google.golang.org/protobuf/encoding/protowire"

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

// eventKind returns the type of the event that a key has that value now.
func eventKind(value []byte) string {
	if len(value) > MaxEventValueBytes {
		return EventPutLarge
	}
	return EventPut
}

// eventValue returns the value as it is in the event.
func eventValue(value []byte) []byte {
	if len(value) > MaxEventValueBytes {
		return nil
	}
	return value
}

// The payloads are written field by field, in the order of etcd's definition: they become
// state, so every release must make the same bytes of them, which the marshaller does not
// promise. The numbers are those of mvccpb.Event and mvccpb.KeyValue.
const (
	eventTypeField, eventTypeDelete = 1, 1 // PUT is 0 and left out
	eventPairField                  = 2

	pairKey, pairCreate, pairMod, pairVersion, pairValue, pairLease = 1, 2, 3, 4, 5, 6
)

// appendPut appends the event that a key has that version now, and that value in it.
func appendPut(b, key []byte, r record, value []byte) []byte {
	p := make([]byte, 0, len(key)+len(value)+pairOverhead)
	p = appendBytes(p, pairKey, key)
	p = appendInt(p, pairCreate, r.create)
	p = appendInt(p, pairMod, r.mod)
	p = appendInt(p, pairVersion, r.version)
	p = appendBytes(p, pairValue, value)
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
