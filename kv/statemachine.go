package kv

import (
	"bytes"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// StateMachine applies the commands of this package. It has no state of its own: one
// value serves any number of zones at once.
type StateMachine struct{}

var _ nexusraft.StateMachine = StateMachine{}

// Apply runs one command. A refused command is a result, see DecodePutResult, and changes
// nothing. The errors are those of tx, and nexusraft.ErrCorrupt, with the key, for stored
// bytes that do not decode.
func (StateMachine) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	req, err := decodeCommand(cmd.Data)
	if err != nil {
		return encodeResult(nil, err)
	}
	var resp proto.Message
	switch req := req.(type) {
	case *etcdserverpb.PutRequest:
		resp, err = put(tx, req)
	case *etcdserverpb.DeleteRangeRequest:
		resp, err = deleteRange(tx, req)
	default:
		return nil, fmt.Errorf("kv: apply: no way to run a %T", req)
	}
	return encodeResult(resp, err)
}

func put(tx nexusraft.Tx, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if err := checkPut(req); err != nil {
		return nil, err
	}
	rev, err := revision(tx)
	if err != nil {
		return nil, err
	}
	rev++
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
			resp.PrevKv = prev.keyValue(req.Key)
		}
	}
	kind, event := newPut(req.Key, next) // before Set, after which the borrowed value is void
	if err := tx.Set(stateKey(req.Key), next.encode()); err != nil {
		return nil, err
	}
	if err := setRevision(tx, rev); err != nil {
		return nil, err
	}
	return resp, tx.Publish(EventTopic, kind, event)
}

// deleteRange reads the whole range before it changes anything: an iteration does not
// survive a write to what it walks over, and a refusal must leave nothing behind.
func deleteRange(tx nexusraft.Tx, req *etcdserverpb.DeleteRangeRequest) (*etcdserverpb.DeleteRangeResponse, error) {
	if err := checkDeleteRange(req); err != nil {
		return nil, err
	}
	rev, err := revision(tx)
	if err != nil {
		return nil, err
	}
	keys, prev, err := doomed(tx, req)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if err := tx.Delete(k); err != nil {
			return nil, err
		}
	}
	if len(keys) > 0 {
		rev++
		if err := setRevision(tx, rev); err != nil {
			return nil, err
		}
		if err := publishDeleted(tx, req, keys, rev); err != nil {
			return nil, err
		}
	}
	return &etcdserverpb.DeleteRangeResponse{
		Header:  &etcdserverpb.ResponseHeader{Revision: rev},
		Deleted: int64(len(keys)),
		PrevKvs: prev,
	}, nil
}

// doomed returns the state keys that req removes and, if it asks for them, the pairs.
func doomed(r nexusraft.Reader, req *etcdserverpb.DeleteRangeRequest) (keys [][]byte, prev []*mvccpb.KeyValue, err error) {
	size := 0
	err = scan(r, req.Key, req.RangeEnd, false, func(key []byte, rec record) error {
		keys = append(keys, stateKey(key))
		if !req.PrevKv {
			return nil
		}
		kv := rec.keyValue(bytes.Clone(key))
		prev = append(prev, kv)
		if size += proto.Size(kv); size > MaxPrevKVBytes {
			return ErrResponseTooLarge
		}
		return nil
	})
	return keys, prev, err
}
