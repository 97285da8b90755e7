package kv

import (
	"google.golang.org/protobuf/encoding/protowire"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

var _ nexusraft.Batched = StateMachine{}

// Alone implements nexusraft.Batched: a command that answers with what is there, keeps a value or deletes a
// range may make far more than it has bytes. Of a Put and a DeleteRange it looks for the fields that ask for that,
// and decodes nothing; any other command but a grant is alone.
func (StateMachine) Alone(command []byte) bool {
	if len(command) == 0 {
		return true
	}
	if command[0] == kindGrant {
		return false
	}
	kind, b := command[0], command[1:]
	for len(b) > 0 {
		field, typ, n := protowire.ConsumeTag(b)
		if n < 0 || amplifies(kind, field) {
			return true
		}
		b = b[n:]
		if n = protowire.ConsumeFieldValue(field, typ, b); n < 0 {
			return true
		}
		b = b[n:]
	}
	return kind != kindPut && kind != kindDeleteRange
}

// amplifies reports whether a field of etcd's request asks for more than is in the request. False is not in it.
func amplifies(kind byte, field protowire.Number) bool {
	const (
		putPrevKV, putIgnoreValue    = 4, 5
		deleteRangeEnd, deletePrevKV = 2, 3
	)
	return kind == kindPut && (field == putPrevKV || field == putIgnoreValue) ||
		kind == kindDeleteRange && (field == deleteRangeEnd || field == deletePrevKV)
}
