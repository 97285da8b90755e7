package kv

import (
	"bytes"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// maxWrittenBytes bounds what one command writes, keys and values of all its rows: that is in
// memory until it is stored (I15). Changing it changes history.
const maxWrittenBytes = 64 << 20

// errWrittenTooLarge: nothing of the command is kept.
var errWrittenTooLarge = fmt.Errorf("kv: a command that writes over %d bytes, ask for less at once: %w",
	maxWrittenBytes, nexusraft.ErrTooLarge)

// writer is one command that changes a key space of layoutVersions: one revision, whose changes it numbers.
//
// What it refuses after it has written is an error of Apply, which drops the command's writes, and not a
// result, which keeps them.
type writer struct {
	tx   nexusraft.Tx
	meta meta // as the command has found it, but for what is counted and swept

	sub     uint32 // changes so far
	written int    // bytes of rows
	deleted int    // keys
	left    *int   // of a transaction: what it may still look at
	events  int    // keys that were told to be deleted, one by one
	leases  bool   // the zone's version has them
}

// revision returns the newest revision as a read inside the command sees it.
func (w *writer) revision() int64 {
	if w.sub > 0 {
		return w.next()
	}
	return w.meta.revision
}

// next returns the revision of the command's changes.
func (w *writer) next() int64 { return w.meta.revision + 1 }

// view returns the state as the command's changes have left it, at a revision of before or at its own, for 0.
func (w *writer) view(rev int64) (view, error) { return w.meta.view(w.tx, w.revision(), rev) }

// set stores a row that is not there yet.
func (w *writer) set(key, value []byte) error {
	w.meta.bytes += int64(len(key) + len(value))
	return w.write(key, value)
}

// remove removes a row that is there and is counted, and whose value has so many bytes.
func (w *writer) remove(key []byte, value int) error {
	w.meta.bytes -= int64(len(key) + value)
	return w.tx.Delete(key)
}

// write stores a row without counting it.
func (w *writer) write(key, value []byte) error {
	if w.written += len(key) + len(value); w.written > maxWrittenBytes {
		return errWrittenTooLarge
	}
	return w.tx.Set(key, value)
}

// A command that writes looks at so many more changes than it has made, up to sweepMost. Changing them changes history.
const (
	sweepMore = 2
	sweepMost = 512
)

// finish ends the command: what it has changed becomes a revision, and pays for as much of the sweep, and a
// little more, so that a sweep ends whatever is written meanwhile.
func (w *writer) finish() error {
	if err := w.sweep(min(int(w.sub)+sweepMore, sweepMost)); err != nil {
		return err
	}
	w.meta.revision = w.revision()
	return w.meta.store(w.tx)
}

// put is one put. It was checked: what it names by ignore_value or ignore_lease is there.
func (w *writer) put(req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	prev, existed, err := get(w.tx, req.Key)
	if err != nil {
		return nil, err
	}
	if existed {
		prev.value = bytes.Clone(prev.value) // it is read and written before the last use of it
	}
	rev := w.next()
	resp := &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: rev}}
	next := record{create: rev, mod: rev, version: 1, lease: req.Lease, sub: int64(w.sub)}
	value := req.Value
	if existed {
		next.create, next.version = prev.create, prev.version+1
		if req.IgnoreLease {
			next.lease = prev.lease
		}
		if req.PrevKv || req.IgnoreValue {
			had, err := prev.load(w.tx, req.Key)
			if err != nil {
				return nil, err
			}
			if req.IgnoreValue {
				value = had
			}
			if req.PrevKv {
				resp.PrevKv = prev.keyValue(req.Key, had)
			}
		}
	}
	if err := w.change(req.Key, prev, existed, false); err != nil {
		return nil, err
	}
	if err := w.newest(req.Key, next, value); err != nil {
		return nil, err
	}
	if err := w.attach(req.Key, prev.lease, next.lease); err != nil {
		return nil, err
	}
	return resp, publishPut(w.tx, req.Key, rev)
}

// newest stores a version as the newest one of its key, and its value.
func (w *writer) newest(key []byte, rec record, value []byte) error {
	rec.value, rec.length = value, len(value)
	if rec.elsewhere = len(value) > maxInline; rec.elsewhere {
		rec.value = nil
		if err := w.set(versionKey(prefixValue, key, rec.mod), value); err != nil {
			return err
		}
	}
	w.meta.keys++
	return w.set(stateKey(key), rec.encode())
}

// change records that a key changes in the command's revision, and moves the version that it has, if it
// existed, to those that are superseded. The row of k is counted no more, whatever becomes of it.
func (w *writer) change(key []byte, prev record, existed, deleted bool) error {
	c := change{deleted: deleted, key: key}
	if existed {
		var err error
		if prev, err = w.counted(key, prev); err != nil {
			return err
		}
		w.meta.keys--
		w.meta.bytes -= int64(1 + len(key) + prev.stored)
		prev.end = w.next()
		k, row := versionKey(prefixVersion, key, prev.mod), prev.encode()
		if err := w.set(k, row); err != nil {
			return err
		}
		c.prev, c.elsewhere, c.prevBytes = prev.mod, prev.elsewhere, int64(len(k)+len(row))
		if prev.elsewhere {
			c.prevBytes += int64(len(k) + prev.length)
		}
	}
	p := position{w.next(), w.sub}
	w.sub++
	return w.set(changeKey(p), c.encode())
}

// counted returns a row of k as one of this layout: a row of layoutNewest is counted as what it becomes, and a
// large value of it gets a row of its own. The row itself is not written.
func (w *writer) counted(key []byte, rec record) (record, error) {
	if !rec.newest {
		return rec, nil
	}
	rec.newest = false
	if rec.elsewhere = rec.length > maxInline; rec.elsewhere {
		if err := w.set(versionKey(prefixValue, key, rec.mod), rec.value); err != nil {
			return record{}, err
		}
		rec.value = nil
	}
	rec.stored = len(rec.encode())
	w.meta.keys++
	w.meta.bytes += int64(1 + len(key) + rec.stored)
	return rec, nil
}

// deleteRange is one delete. most bounds the previous pairs, in bytes.
func (w *writer) deleteRange(req *etcdserverpb.DeleteRangeRequest, most int) (
	resp *etcdserverpb.DeleteRangeResponse, err error,
) {
	resp = &etcdserverpb.DeleteRangeResponse{Header: new(etcdserverpb.ResponseHeader)}
	if req.PrevKv {
		if resp.PrevKvs, err = w.previous(req, most); err != nil {
			return nil, err
		}
	}
	told := deletions{most: MaxDeleteEvents - w.events}
	from, to := req.Key, req.RangeEnd
	for {
		pairs, whole, err := w.doomed(from, to)
		if err != nil {
			return nil, err
		}
		for _, p := range pairs {
			if err := w.delete(p); err != nil {
				return nil, err
			}
			told.add(p.key)
		}
		resp.Deleted += int64(len(pairs))
		w.deleted += len(pairs)
		switch {
		case w.deleted > MaxDeleteKeys:
			return nil, ErrTooManyKeys
		case whole:
			resp.Header.Revision = w.revision()
			w.events += len(told.keys)
			return resp, told.publish(w.tx, EventDeleteRange, req.Key, req.RangeEnd, w.next(), 0)
		}
		from = append(pairs[len(pairs)-1].key, 0)
	}
}

// doomed returns the first pairs of a range, as many as are in memory at once: an iteration does not survive
// a write to what it walks over.
func (w *writer) doomed(key, end []byte) (pairs []keyed, whole bool, err error) {
	if len(end) == 0 {
		rec, ok, err := get(w.tx, key)
		if ok {
			rec.value = bytes.Clone(rec.value)
			pairs = []keyed{{key, rec}}
		}
		return pairs, true, err
	}
	from, to := bounds(key, end)
	if bytes.Compare(from, to) >= 0 {
		return nil, true, nil
	}
	return gather(w.tx, from, to, false)
}

func (w *writer) delete(p keyed) error {
	if err := w.change(p.key, p.rec, true, true); err != nil {
		return err
	}
	if err := w.attach(p.key, p.rec.lease, 0); err != nil {
		return err
	}
	return w.tx.Delete(stateKey(p.key))
}

// previous returns the pairs of a range, before they are deleted.
func (w *writer) previous(req *etcdserverpb.DeleteRangeRequest, most int) ([]*mvccpb.KeyValue, error) {
	v, err := w.view(0)
	if err != nil {
		return nil, err
	}
	resp, err := v.answer(&etcdserverpb.RangeRequest{Key: req.Key, RangeEnd: req.RangeEnd}, false, most)
	if err != nil {
		return nil, err
	}
	size := 0
	for _, kv := range resp.Kvs {
		if size += proto.Size(kv); size > most {
			return nil, ErrResponseTooLarge
		}
	}
	return resp.Kvs, nil
}

// deletions are the keys that one delete or revoke has found, to be told one by one, or if they are many as a range.
type deletions struct {
	most int
	keys [][]byte
	many bool
}

func (d *deletions) add(key []byte) {
	if d.many = d.many || len(d.keys) >= d.most; d.many {
		d.keys = nil
		return
	}
	d.keys = append(d.keys, key)
}

// publish tells of them, if they are many by an event of that kind, of what is between key and end.
func (d *deletions) publish(tx nexusraft.Tx, kind string, key, end []byte, rev, lease int64) error {
	if d.many {
		return tx.Publish(EventTopic, kind, appendDelete(nil, key, rev, end, lease))
	}
	var b []byte
	for _, key := range d.keys {
		b = appendDelete(b[:0], key, rev, nil, 0)
		if err := tx.Publish(EventTopic, EventDelete, b); err != nil {
			return err
		}
	}
	return nil
}
