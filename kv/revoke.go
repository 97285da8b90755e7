package kv

import (
	"bytes"
	"errors"
	"math"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

type revokeRequest struct{ id, generation int64 }

// EncodeRevoke returns the command that removes a lease and its keys, in ascending order and as one revision, or
// without keys as none. With a generation other than 0 it does nothing if the lease has another one, as after a
// checkpoint.
//
// A lease with more keys than one command may delete, MaxDeleteKeys, or more bytes than it may write, ends with the
// first command, which removes as many keys as it may: see Lease.Revoking. The same command again, with whatever
// generation, removes the next ones, and at last the lease; each is a revision.
func EncodeRevoke(id, generation int64) []byte {
	if generation < 0 {
		generation = math.MaxInt64 // which no lease has, either
	}
	return appendNumbers([]byte{kindRevoke}, max(id, 0), generation)
}

func decodeRevoke(b []byte) (r revokeRequest, ok bool) {
	rest, ok := decodeNumbers(b, &r.id, &r.generation)
	return r, ok && len(rest) == 0
}

// DecodeRevokeResult is DecodePutResult for a command that EncodeRevoke made. The refusals are ErrLeaseNotFound,
// ErrLeaseRenewed if the lease has another generation, and ErrNoLeases. If the lease has keys left it returns the
// response and ErrLeaseRevoking: propose it again.
func DecodeRevokeResult(b []byte) (*etcdserverpb.LeaseRevokeResponse, error) {
	resp := new(etcdserverpb.LeaseRevokeResponse)
	if len(b) > 0 && b[0] == outcomeMore {
		if err := unmarshalResult(b, resp); err != nil {
			return nil, err
		}
		return resp, ErrLeaseRevoking
	}
	if err := decodeResult(b, resp); err != nil {
		return nil, ofLeases(err)
	}
	return resp, nil
}

// revoking is the response of a revoke after which the lease has keys left.
type revoking struct {
	resp *etcdserverpb.LeaseRevokeResponse
}

// What one command of a revoke removes: so many keys, or fewer that write so much, which leaves room for what else a
// command writes. Changing it changes history.
const maxRevokedBytes = maxWrittenBytes - 1<<20

var maxRevokedKeys = MaxDeleteKeys // tests have a lower one

// revoke returns a LeaseRevokeResponse or revoking.
func (w *writer) revoke(req revokeRequest) (any, error) {
	l, ok, err := LeaseOf(w.tx, req.id)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, ErrLeaseNotFound
	case req.generation != 0 && req.generation != l.Generation && !l.Revoking:
		return nil, ErrLeaseRenewed
	}
	whole, err := w.deleteAttached(l.ID)
	if err != nil {
		return nil, err
	}
	resp := &etcdserverpb.LeaseRevokeResponse{Header: &etcdserverpb.ResponseHeader{Revision: w.revision()}}
	if whole {
		return resp, w.endLease(l)
	}
	if !l.Revoking {
		ending := l
		ending.Revoking = true
		_, err = w.addLease(ending, &l)
	}
	return revoking{resp}, err
}

// deleteAttached removes the keys of a lease, as many as one command may; whole says that none is left.
func (w *writer) deleteAttached(id int64) (whole bool, err error) {
	told := deletions{most: MaxDeleteEvents}
	var first, last []byte
	for from := attachedKey(id, nil); !whole; from = append(attachedKey(id, last), 0) {
		var keys [][]byte
		if keys, whole, err = attachedFrom(w.tx, from, id); err != nil {
			return false, err
		}
		for _, key := range keys {
			if w.deleted == maxRevokedKeys || w.written >= maxRevokedBytes {
				return false, told.publish(w.tx, EventDeleteLease, first, append(last, 0), w.next(), id)
			}
			if err := w.deleteKey(key, id); err != nil {
				return false, err
			}
			if told.add(key); first == nil {
				first = key
			}
			last = key
			w.deleted++
		}
	}
	return true, told.publish(w.tx, EventDeleteLease, first, append(last, 0), w.next(), id)
}

// attachedFrom returns the next keys of a lease, as many as are in memory at once; whole says that there are no more.
func attachedFrom(r nexusraft.Reader, from []byte, id int64) (keys [][]byte, whole bool, err error) {
	size := 0
	err = leaseKeys(r, from, id, func(key []byte) error {
		keys = append(keys, bytes.Clone(key))
		if size += len(key); len(keys) == gatherRows || size >= gatherBytes {
			return errGathered
		}
		return nil
	})
	if errors.Is(err, errGathered) {
		return keys, false, nil
	}
	return keys, true, err
}

// deleteKey deletes a key that hangs on a lease.
func (w *writer) deleteKey(key []byte, id int64) error {
	rec, ok, err := get(w.tx, key)
	if err != nil {
		return err
	}
	if !ok || rec.lease != id {
		return errCorrupt("key %q of lease %d, which it does not have", key, id)
	}
	rec.value = bytes.Clone(rec.value)
	return w.delete(keyed{key, rec})
}
