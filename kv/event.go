package kv

import (
	"bytes"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Each change of the key space is published as an event of EventTopic, whose payload is an
// mvccpb.Event of etcd's API.
const (
	EventTopic = "key"

	EventPut = "put" // the pair as it is now

	// EventPutLarge is EventPut without its value, which has over MaxEventValueBytes, or whose revision
	// was compacted; then only key and mod revision are there. A subscriber that needs it reads the key.
	EventPutLarge = "put-large"

	EventDelete = "delete" // the key, and the revision that deleted it

	// EventDeleteRange stands for the keys of a DeleteRange that has removed more than MaxDeleteEvents, or together with
	// those before it in its transaction: the payload's key and value are the request's key and range end.
	EventDeleteRange = "delete-range"

	// EventDeleteLease stands for the keys that a revoke has removed, if they are more than MaxDeleteEvents: the
	// payload's lease is the one that they were on, its key the first of them, and its value the end of their range, in
	// which other keys are, too.
	EventDeleteLease = "delete-lease"
)

// MaxDeleteEvents is up to how many keys a DeleteRange or a revoke publishes one by one.
const MaxDeleteEvents = 1000

// MaxEventValueBytes is up to how many bytes of a value are in an event.
const MaxEventValueBytes = 1 << 10

// eventPutRef is EventPut or EventPutLarge as it is stored where old revisions are kept: the event has key and
// mod revision only, and ExpandEvent adds the rest from there.
const eventPutRef = "put-ref"

// publishPut publishes that a key has the version of that revision.
func publishPut(tx nexusraft.Tx, key []byte, rev int64) error {
	return tx.Publish(EventTopic, eventPutRef, appendPut(nil, key, record{mod: rev}, nil))
}

// ExpandEvent implements nexusraft.EventExpander.
func (StateMachine) ExpandEvent(r nexusraft.Reader, topic, kind string, payload []byte) (string, []byte, error) {
	if topic != EventTopic || kind != eventPutRef {
		return kind, payload, nil
	}
	payload = bytes.Clone(payload) // it is returned after reads
	e := new(mvccpb.Event)
	if err := proto.Unmarshal(payload, e); err != nil || len(e.GetKv().GetKey()) == 0 {
		return "", nil, errCorrupt("event % x", payload)
	}
	key, mod := e.Kv.Key, e.Kv.ModRevision
	rec, ok, err := get(r, key)
	if err == nil && (!ok || rec.mod != mod) {
		rec, ok, err = findSuperseded(r, key, mod)
	}
	switch {
	case err != nil:
		return "", nil, err
	case !ok: // compacted
		return EventPutLarge, payload, nil
	case rec.length > MaxEventValueBytes:
		return EventPutLarge, appendPut(nil, key, rec, nil), nil
	}
	value, err := rec.load(r, key)
	return EventPut, appendPut(nil, key, rec, value), err
}

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

// appendDelete appends the event that a key is gone, or with an end a range of keys, or those of it that were on a
// lease.
func appendDelete(b, key []byte, rev int64, end []byte, lease int64) []byte {
	p := appendBytes(nil, pairKey, key)
	p = appendInt(p, pairMod, rev)
	p = appendBytes(p, pairValue, end)
	p = appendInt(p, pairLease, lease)
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
