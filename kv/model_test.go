package kv

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"
)

// model is etcd's key space as slices in the order of the keys, one for each revision, written for being
// obviously right.
type model struct {
	rev       int64
	compacted int64
	kvs       []*mvccpb.KeyValue
	past      map[int64][]*mvccpb.KeyValue // what kvs was at each revision; nil: only the newest is kept
	changes   int                          // in the command that is running
	modelLeases
	events []*mvccpb.Event // of all changes since past began, in order
}

func newModel(history bool) *model {
	m := &model{rev: 1, compacted: -1, modelLeases: modelLeases{known: history, leases: make(map[int64]Lease)}}
	if history {
		m.past = map[int64][]*mvccpb.KeyValue{1: nil}
	}
	return m
}

// current returns the newest revision, as the command that is running sees it.
func (m *model) current() int64 {
	if m.changes > 0 {
		return m.rev + 1
	}
	return m.rev
}

// note notes a change as an event; the previous pair is the one before the command.
func (m *model) note(kind mvccpb.Event_EventType, kv *mvccpb.KeyValue) {
	if m.past == nil {
		return
	}
	e := &mvccpb.Event{Type: kind, Kv: proto.CloneOf(kv)}
	for _, prev := range m.past[m.rev] {
		if bytes.Equal(prev.Key, kv.Key) {
			e.PrevKv = prev
		}
	}
	m.events = append(m.events, e)
}

// done ends a command.
func (m *model) done() {
	m.rev, m.changes = m.current(), 0
	if m.past == nil {
		if m.rev > 1 {
			m.compacted = m.rev
		}
		return
	}
	m.past[m.rev] = nil
	for _, kv := range m.kvs {
		m.past[m.rev] = append(m.past[m.rev], proto.CloneOf(kv))
	}
}

// raise begins the history of a key space that has kept the newest state only.
func (m *model) raise() {
	m.past = make(map[int64][]*mvccpb.KeyValue)
	m.done() // notes the state as that of the newest revision
}

func (m *model) find(key []byte) int {
	return slices.IndexFunc(m.kvs, func(kv *mvccpb.KeyValue) bool { return bytes.Equal(kv.Key, key) })
}

func (m *model) checkPut(req *etcdserverpb.PutRequest) error {
	if req.Lease != 0 && !m.lease(req.Lease) {
		return ErrLeaseNotFound
	}
	if m.find(req.Key) < 0 && (req.IgnoreValue || req.IgnoreLease) {
		return ErrKeyNotFound
	}
	return nil
}

func (m *model) put(req *etcdserverpb.PutRequest) *etcdserverpb.PutResponse {
	m.changes++
	rev := m.rev + 1
	resp := &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: rev}}
	i := m.find(req.Key)
	if i < 0 {
		m.kvs = append(m.kvs, &mvccpb.KeyValue{
			Key: req.Key, Value: req.Value, CreateRevision: rev, ModRevision: rev,
			Version: 1, Lease: req.Lease,
		})
		m.note(mvccpb.PUT, m.kvs[len(m.kvs)-1])
		slices.SortFunc(m.kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
		return resp
	}
	if req.PrevKv {
		resp.PrevKv = proto.CloneOf(m.kvs[i])
	}
	m.kvs[i].ModRevision = rev
	m.kvs[i].Version++
	if !req.IgnoreLease {
		m.kvs[i].Lease = req.Lease
	}
	if !req.IgnoreValue {
		m.kvs[i].Value = req.Value
	}
	m.note(mvccpb.PUT, m.kvs[i])
	return resp
}

func inRange(k, key, end []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(k, key)
	case len(end) == 1 && end[0] == 0:
		return bytes.Compare(k, key) >= 0
	}
	return bytes.Compare(k, key) >= 0 && bytes.Compare(k, end) < 0
}

func (m *model) deleteRange(req *etcdserverpb.DeleteRangeRequest) *etcdserverpb.DeleteRangeResponse {
	resp := &etcdserverpb.DeleteRangeResponse{Header: &etcdserverpb.ResponseHeader{}}
	m.kvs = slices.DeleteFunc(m.kvs, func(kv *mvccpb.KeyValue) bool {
		hit := inRange(kv.Key, req.Key, req.RangeEnd)
		if hit {
			resp.Deleted++
			m.note(mvccpb.DELETE, &mvccpb.KeyValue{Key: kv.Key, ModRevision: m.rev + 1})
		}
		if hit && req.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, proto.CloneOf(kv))
		}
		return hit
	})
	m.changes += int(resp.Deleted)
	resp.Header.Revision = m.current()
	return resp
}

func (m *model) compact(rev int64) error {
	switch {
	case rev <= m.compacted:
		return ErrCompacted
	case rev > m.rev:
		return ErrFutureRevision
	}
	m.compacted = rev
	return nil
}

func (m *model) rangeOf(req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	kvs := m.kvs
	switch {
	case req.Revision > m.current():
		return nil, ErrFutureRevision
	case req.Revision > 0 && req.Revision < m.compacted:
		return nil, ErrCompacted
	case req.Revision > 0 && m.past != nil && req.Revision <= m.rev:
		kvs = m.past[req.Revision]
	}
	resp := &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: m.current()}}
	for _, kv := range kvs {
		if inRange(kv.Key, req.Key, req.RangeEnd) {
			resp.Kvs = append(resp.Kvs, proto.CloneOf(kv))
		}
	}
	resp.Count = int64(len(resp.Kvs))
	if req.CountOnly {
		resp.Kvs = nil
		return resp, nil
	}
	resp.Kvs = slices.DeleteFunc(resp.Kvs, func(kv *mvccpb.KeyValue) bool {
		return req.MinModRevision != 0 && kv.ModRevision < req.MinModRevision ||
			req.MaxModRevision != 0 && kv.ModRevision > req.MaxModRevision ||
			req.MinCreateRevision != 0 && kv.CreateRevision < req.MinCreateRevision ||
			req.MaxCreateRevision != 0 && kv.CreateRevision > req.MaxCreateRevision
	})
	slices.SortStableFunc(resp.Kvs, func(a, b *mvccpb.KeyValue) int {
		c := map[etcdserverpb.RangeRequest_SortTarget]int{
			etcdserverpb.RangeRequest_KEY:     bytes.Compare(a.Key, b.Key),
			etcdserverpb.RangeRequest_VERSION: cmp.Compare(a.Version, b.Version),
			etcdserverpb.RangeRequest_CREATE:  cmp.Compare(a.CreateRevision, b.CreateRevision),
			etcdserverpb.RangeRequest_MOD:     cmp.Compare(a.ModRevision, b.ModRevision),
			etcdserverpb.RangeRequest_VALUE:   bytes.Compare(a.Value, b.Value),
		}[req.SortTarget]
		if req.SortOrder == etcdserverpb.RangeRequest_DESCEND {
			return -c
		}
		return c
	})
	if req.Limit > 0 && int64(len(resp.Kvs)) > req.Limit {
		resp.Kvs, resp.More = resp.Kvs[:req.Limit], true
	}
	for _, kv := range resp.Kvs {
		if req.KeysOnly {
			kv.Value = nil
		}
		if req.KeysOnly && req.SortTarget != etcdserverpb.RangeRequest_VALUE {
			kv.Lease = 0 // as in etcd
		}
	}
	return resp, nil
}

// txn runs a transaction, by the path that its compares choose.
func (m *model) txn(req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	type level struct {
		req   *etcdserverpb.TxnRequest
		holds bool
	}
	var levels []level
	var choose func(*etcdserverpb.TxnRequest)
	ops := func(l level) []*etcdserverpb.RequestOp {
		if l.holds {
			return l.req.Success
		}
		return l.req.Failure
	}
	choose = func(req *etcdserverpb.TxnRequest) {
		l := level{req, !slices.ContainsFunc(req.Compare, func(c *etcdserverpb.Compare) bool { return !m.holds(c) })}
		levels = append(levels, l)
		for _, op := range ops(l) {
			if inner := op.GetRequestTxn(); inner != nil {
				choose(inner)
			}
		}
	}
	choose(req)
	left := levels
	var gone []*etcdserverpb.DeleteRangeRequest
	var check func() error
	check = func() error {
		l := left[0]
		left = left[1:]
		for _, op := range ops(l) {
			err := m.checkOp(op)
			if op.GetRequestTxn() != nil {
				err = check()
			}
			if del := op.GetRequestDeleteRange(); del != nil {
				gone = append(gone, del)
			}
			if put := op.GetRequestPut(); err == nil && put != nil && (put.IgnoreValue || put.IgnoreLease) &&
				slices.ContainsFunc(gone, func(del *etcdserverpb.DeleteRangeRequest) bool {
					return inRange(put.Key, del.Key, del.RangeEnd)
				}) {
				err = ErrKeyNotFound
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := check(); err != nil {
		return nil, err
	}
	var run func() *etcdserverpb.TxnResponse
	run = func() *etcdserverpb.TxnResponse {
		l := levels[0]
		levels = levels[1:]
		resp := &etcdserverpb.TxnResponse{Header: &etcdserverpb.ResponseHeader{}, Succeeded: l.holds}
		for _, op := range ops(l) {
			r := new(etcdserverpb.ResponseOp)
			switch op := op.Request.(type) {
			case *etcdserverpb.RequestOp_RequestRange:
				answer, err := m.rangeOf(op.RequestRange)
				if err != nil {
					panic(err)
				}
				r.Response = &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: answer}
			case *etcdserverpb.RequestOp_RequestPut:
				r.Response = &etcdserverpb.ResponseOp_ResponsePut{ResponsePut: m.put(op.RequestPut)}
			case *etcdserverpb.RequestOp_RequestDeleteRange:
				r.Response = &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: m.deleteRange(op.RequestDeleteRange)}
			case *etcdserverpb.RequestOp_RequestTxn:
				r.Response = &etcdserverpb.ResponseOp_ResponseTxn{ResponseTxn: run()}
			}
			resp.Responses = append(resp.Responses, r)
		}
		return resp
	}
	resp := run()
	resp.Header.Revision = m.current()
	return resp, nil
}

func (m *model) checkOp(op *etcdserverpb.RequestOp) error {
	if put := op.GetRequestPut(); put != nil {
		return m.checkPut(put)
	}
	if r := op.GetRequestRange(); r.GetRevision() != 0 {
		if r.Revision < m.compacted {
			return ErrCompacted
		}
		if r.Revision > m.rev {
			return ErrFutureRevision
		}
	}
	return nil
}

func (m *model) holds(c *etcdserverpb.Compare) bool {
	one := func(kv *mvccpb.KeyValue) bool {
		order := map[etcdserverpb.Compare_CompareTarget]int{
			etcdserverpb.Compare_VALUE:   bytes.Compare(kv.Value, c.GetValue()),
			etcdserverpb.Compare_CREATE:  cmp.Compare(kv.CreateRevision, c.GetCreateRevision()),
			etcdserverpb.Compare_MOD:     cmp.Compare(kv.ModRevision, c.GetModRevision()),
			etcdserverpb.Compare_VERSION: cmp.Compare(kv.Version, c.GetVersion()),
			etcdserverpb.Compare_LEASE:   cmp.Compare(kv.Lease, c.GetLease()),
		}[c.Target]
		return map[etcdserverpb.Compare_CompareResult]bool{
			etcdserverpb.Compare_EQUAL:     order == 0,
			etcdserverpb.Compare_NOT_EQUAL: order != 0,
			etcdserverpb.Compare_GREATER:   order > 0,
			etcdserverpb.Compare_LESS:      order < 0,
		}[c.Result]
	}
	found := false
	for _, kv := range m.kvs {
		if inRange(kv.Key, c.Key, c.RangeEnd) {
			found = true
			if !one(kv) {
				return false
			}
		}
	}
	return found || c.Target != etcdserverpb.Compare_VALUE && one(new(mvccpb.KeyValue))
}

// Keys are few and share prefixes, zero bytes and 0xff included, so that operations meet. Values are on both sides
// of what is inline.
var (
	someKey   = rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 'b', 0xff}), 1, 3)
	someEnd   = rapid.OneOf(rapid.Just([]byte(nil)), rapid.Just([]byte{0}), someKey)
	someValue = rapid.SampledFrom([]string{"", "x", "y", "xyz", "inline", "elsewhere"})
)

func drawValue(t *rapid.T) []byte {
	switch v := someValue.Draw(t, "value"); v {
	case "inline":
		return bytes.Repeat([]byte{'i'}, maxInline)
	case "elsewhere":
		return bytes.Repeat([]byte{'e'}, maxInline+1)
	default:
		return []byte(v)
	}
}

func drawPut(t *rapid.T) *etcdserverpb.PutRequest {
	req := &etcdserverpb.PutRequest{Key: someKey.Draw(t, "key"), PrevKv: rapid.Bool().Draw(t, "prev")}
	if req.IgnoreValue = rapid.IntRange(0, 5).Draw(t, "ignore") == 0; !req.IgnoreValue {
		req.Value = drawValue(t)
	}
	switch rapid.IntRange(0, 5).Draw(t, "leased") {
	case 3:
		req.IgnoreLease = true
	case 4, 5:
		req.Lease = someLease.Draw(t, "lease")
	}
	return req
}

func drawDelete(t *rapid.T) *etcdserverpb.DeleteRangeRequest {
	return &etcdserverpb.DeleteRangeRequest{
		Key:      someKey.Draw(t, "key"),
		RangeEnd: someEnd.Draw(t, "end"),
		PrevKv:   rapid.Bool().Draw(t, "prev"),
	}
}

func drawCompare(t *rapid.T, rev int64) *etcdserverpb.Compare {
	c := &etcdserverpb.Compare{
		Key:    someKey.Draw(t, "key"),
		Target: etcdserverpb.Compare_CompareTarget(rapid.Int32Range(0, 4).Draw(t, "target")),
		Result: etcdserverpb.Compare_CompareResult(rapid.Int32Range(0, 3).Draw(t, "result")),
	}
	if rapid.IntRange(0, 3).Draw(t, "wide") == 0 {
		c.RangeEnd = someEnd.Draw(t, "end")
	}
	n := rapid.SampledFrom([]int64{0, 1, 2, rev, rev - 1}).Draw(t, "number")
	switch c.Target {
	case etcdserverpb.Compare_VALUE:
		c.TargetUnion = &etcdserverpb.Compare_Value{Value: drawValue(t)}
	case etcdserverpb.Compare_CREATE:
		c.TargetUnion = &etcdserverpb.Compare_CreateRevision{CreateRevision: n}
	case etcdserverpb.Compare_MOD:
		c.TargetUnion = &etcdserverpb.Compare_ModRevision{ModRevision: n}
	case etcdserverpb.Compare_VERSION:
		c.TargetUnion = &etcdserverpb.Compare_Version{Version: n}
	case etcdserverpb.Compare_LEASE:
		c.TargetUnion = &etcdserverpb.Compare_Lease{Lease: n}
	}
	return c
}

func drawTxn(t *rapid.T, rev int64, depth int) *etcdserverpb.TxnRequest {
	req := new(etcdserverpb.TxnRequest)
	for range rapid.IntRange(0, 2).Draw(t, "compares") {
		req.Compare = append(req.Compare, drawCompare(t, rev))
	}
	branch := func() (ops []*etcdserverpb.RequestOp) {
		for range rapid.IntRange(0, 3).Draw(t, "ops") {
			switch kind := rapid.IntRange(0, 6).Draw(t, "kind"); {
			case kind < 2:
				ops = append(ops, putOp(drawPut(t)))
			case kind < 4:
				ops = append(ops, deleteOp(drawDelete(t)))
			case kind < 6 || depth == 0:
				ops = append(ops, rangeOp(drawRange(t, rev)))
			default:
				ops = append(ops, txnOp(drawTxn(t, rev, depth-1)))
			}
		}
		return ops
	}
	req.Success, req.Failure = branch(), branch()
	return req
}

func drawRange(t *rapid.T, rev int64) *etcdserverpb.RangeRequest {
	revision := rapid.OneOf(rapid.Just(int64(0)), rapid.Just(int64(0)), rapid.Int64Range(-1, rev+1))
	anyRevision := rapid.OneOf(rapid.SampledFrom([]int64{0, 0, 0, -1, rev, rev + 1}), rapid.Int64Range(1, max(1, rev)))
	req := &etcdserverpb.RangeRequest{
		Key:               someKey.Draw(t, "key"),
		RangeEnd:          someEnd.Draw(t, "end"),
		Limit:             rapid.Int64Range(-1, 6).Draw(t, "limit"),
		Revision:          anyRevision.Draw(t, "revision"),
		SortOrder:         etcdserverpb.RangeRequest_SortOrder(rapid.Int32Range(0, 2).Draw(t, "order")),
		SortTarget:        etcdserverpb.RangeRequest_SortTarget(rapid.Int32Range(0, 4).Draw(t, "target")),
		KeysOnly:          rapid.Bool().Draw(t, "keysOnly"),
		CountOnly:         rapid.IntRange(0, 4).Draw(t, "countOnly") == 0,
		MinModRevision:    revision.Draw(t, "minMod"),
		MaxModRevision:    revision.Draw(t, "maxMod"),
		MinCreateRevision: revision.Draw(t, "minCreate"),
		MaxCreateRevision: revision.Draw(t, "maxCreate"),
	}
	if req.SortOrder == etcdserverpb.RangeRequest_NONE && req.SortTarget != etcdserverpb.RangeRequest_KEY {
		req.Limit = 0 // etcd cuts before it sorts; TestUnorderedTargetIsCutFirst has that
	}
	return req
}

func same(t *rapid.T, what string, got, want proto.Message, gotErr, wantErr error) {
	t.Helper()
	if !errors.Is(gotErr, wantErr) {
		t.Fatalf("%s: got error %v, want %v", what, gotErr, wantErr)
	}
	if wantErr != nil {
		return
	}
	if gotErr != nil {
		t.Fatalf("%s: %v", what, gotErr)
	}
	if !proto.Equal(want, got) { // much faster than a diff of every answer
		t.Fatalf("%s (-want +got):\n%s", what, gocmp.Diff(want, got, protocmp.Transform()))
	}
}

func TestAgainstModel(t *testing.T) { testAgainstModel(t, newTx, true, false) }

// Zones whose nodes are not all of this release behave as before it.
func TestNewestAgainstModel(t *testing.T) { testAgainstModel(t, newNewestTx, false, false) }

// A zone whose nodes come to be of this release goes on with what it has, which begins its history.
func TestRaiseAgainstModel(t *testing.T) { testAgainstModel(t, newNewestTx, false, true) }

func testAgainstModel(t *testing.T, state func() *memTx, history, raise bool) {
	revokesFew(t, 3)
	rapid.Check(t, func(rt *rapid.T) {
		tx, m := state(), newModel(history)
		actions := map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				req := drawPut(rt)
				got, gotErr := DecodePutResult(apply(t, tx, rawPut(t, req)))
				var want *etcdserverpb.PutResponse
				wantErr := m.checkPut(req)
				if wantErr == nil {
					want = m.put(req)
				}
				m.done()
				same(rt, "put", got, want, gotErr, wantErr)
			},
			"delete": func(rt *rapid.T) {
				req := drawDelete(rt)
				got, gotErr := DecodeDeleteRangeResult(apply(t, tx, rawDelete(t, req)))
				want := m.deleteRange(req)
				m.done()
				same(rt, "delete", got, want, gotErr, nil)
			},
			"range": func(rt *rapid.T) {
				req := drawRange(rt, m.rev)
				got, gotErr := Range(tx, req)
				want, wantErr := m.rangeOf(req)
				same(rt, req.String(), got, want, gotErr, wantErr)
				got, gotErr = Page(tx, req)
				if want != nil && !req.CountOnly && req.SortTarget == etcdserverpb.RangeRequest_KEY {
					want.Count = int64(len(want.Kvs))
				}
				same(rt, "page of "+req.String(), got, want, gotErr, wantErr)
			},
			"": func(rt *rapid.T) {
				all := &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
				got, gotErr := Range(tx, all)
				want, wantErr := m.rangeOf(all)
				same(rt, "whole state", got, want, gotErr, wantErr)
				mirrored(rt, tx, m)
				if err := Check(tx); err != nil {
					rt.Fatal(err)
				}
			},
		}
		if history || raise {
			addHistoryActions(t, tx, m, actions)
		}
		addLeaseActions(t, tx, m, actions)
		if raise {
			raiseBetween(rt, tx, m, actions)
		}
		rt.Repeat(actions)
	})
}

// raiseBetween adds the raise of the zone's version to the actions, before which those of a history do nothing.
func raiseBetween(rt *rapid.T, tx *memTx, m *model, actions map[string]func(*rapid.T)) {
	for range rapid.IntRange(0, 20).Draw(rt, "puts before") { // so that there is something to move
		actions["put"](rt)
	}
	for _, name := range [...]string{"txn", "compact", "sweep", "history", "both ways", "changes"} {
		after := actions[name]
		actions[name] = func(rt *rapid.T) {
			if tx.version >= VersionHistory {
				after(rt)
			}
		}
	}
	actions["raise"] = func(rt *rapid.T) {
		to := rapid.Uint32Range(tx.version, VersionLeases).Draw(rt, "version")
		if tx.version < VersionHistory && to >= VersionHistory {
			m.raise()
		}
		tx.version, m.known = to, to >= VersionLeases
	}
}

func addHistoryActions(t *testing.T, tx *memTx, m *model, actions map[string]func(*rapid.T)) {
	actions["txn"] = func(rt *rapid.T) { txnAgainstModel(t, rt, tx, m) }
	actions["compact"] = func(rt *rapid.T) {
		rev := rapid.Int64Range(-1, m.rev+1).Draw(rt, "revision")
		_, err := DecodeCompactResult(apply(t, tx, rawCompact(t, rev)))
		same(rt, "compact", nil, nil, err, m.compact(rev))
	}
	actions["sweep"] = func(rt *rapid.T) {
		n := rapid.IntRange(1, 10).Draw(rt, "changes")
		if _, err := DecodeCompactResult(apply(t, tx, EncodeSweep(n))); err != nil {
			rt.Fatal(err)
		}
	}
	actions["history"] = func(rt *rapid.T) { historyAgainstModel(rt, tx, m) }
	actions["both ways"] = func(rt *rapid.T) { bothWays(rt, tx, m) }
	actions["changes"] = func(rt *rapid.T) { changesAgainstModel(rt, tx, m) }
}

func txnAgainstModel(t *testing.T, rt *rapid.T, tx *memTx, m *model) {
	req := drawTxn(rt, m.rev, 2)
	if errors.Is(CheckTxn(req, MaxTxnOps), ErrDuplicateKey) {
		return // TestDuplicateKeys has these
	}
	if err := CheckTxnCost(tx, req); err != nil {
		rt.Fatal(err)
	}
	want, wantErr := m.txn(req)
	m.done()
	if ReadsOnly(req) {
		got, gotErr := Txn(tx, req, MaxRangeBytes)
		same(rt, req.String(), got, want, gotErr, wantErr)
	}
	got, gotErr := DecodeTxnResult(apply(t, tx, rawTxn(t, req)))
	same(rt, req.String(), got, want, gotErr, wantErr)
}

// historyAgainstModel compares what is kept of a key with what it was at each revision.
func historyAgainstModel(rt *rapid.T, tx *memTx, m *model) {
	key := someKey.Draw(rt, "key")
	var want []Version
	var was *mvccpb.KeyValue
	for rev := max(m.compacted, 1); rev <= m.rev; rev++ {
		var is *mvccpb.KeyValue
		if i := slices.IndexFunc(m.past[rev], func(kv *mvccpb.KeyValue) bool { return bytes.Equal(kv.Key, key) }); i >= 0 {
			is = m.past[rev][i]
		}
		switch {
		case is != nil && (was == nil || is.ModRevision != was.ModRevision):
			want = append(want, Version{is.ModRevision, is.CreateRevision, is.Version, is.Lease, len(is.Value)})
		case is == nil && was != nil:
			want = append(want, Version{Revision: rev})
		}
		was = is
	}
	var got []Version
	page := rapid.IntRange(1, 5).Draw(rt, "page")
	var err error
	for more := true; more && err == nil; {
		after, n := int64(0), 0
		if len(got) > 0 {
			after = got[len(got)-1].Revision
		}
		err = History(tx, key, after, func(v Version) error {
			got = append(got, v)
			if n++; n == page {
				return errGathered
			}
			return nil
		})
		if more = errors.Is(err, errGathered); more {
			err = nil
		}
	}
	if d := gocmp.Diff(want, got); d != "" || err != nil {
		rt.Fatalf("history of %q, %v (-want +got):\n%s", key, err, d)
	}
}

// bothWays reads a range of an old revision in the two ways in which that can be done.
func bothWays(rt *rapid.T, tx *memTx, m *model) {
	rev := rapid.Int64Range(max(m.compacted, 1), m.rev).Draw(rt, "revision")
	from, to := bounds(someKey.Draw(rt, "key"), rapid.OneOf(rapid.Just([]byte{0}), someKey).Draw(rt, "end"))
	descending := rapid.Bool().Draw(rt, "descending")
	if bytes.Compare(from, to) >= 0 || rev == m.rev {
		return
	}
	v := view{r: tx, at: rev, current: m.rev}
	list := func(scan func(visit) error) (got []string) {
		err := scan(func(key []byte, rec record) error {
			key = bytes.Clone(key)
			value, err := rec.load(tx, key)
			got = append(got, fmt.Sprintf("%q %d %d %d %d %.5s %d", key, rec.create, rec.mod, rec.version, rec.lease,
				value, len(value)))
			return err
		})
		if err != nil {
			rt.Fatal(err)
		}
		return got
	}
	undo, err := v.undo(from, to)
	if err != nil {
		rt.Fatal(err)
	}
	one := list(func(fn visit) error { return undo.scan(tx, from, to, descending, fn) })
	other := list(func(fn visit) error { return v.scanVersions(from, to, descending, fn) })
	if d := gocmp.Diff(one, other); d != "" {
		rt.Fatalf("revision %d of %d, descending %t, by its changes and by all versions:\n%s", rev, m.rev, descending, d)
	}
}

// The same commands give the same bytes on a tree that was used before, on one that is
// moved to a fresh tree half-way, as a snapshot does, and on one where commands are run
// that are refused.
func TestSameCommandsSameState(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		plain, moved := newTx(), newTx()
		version := rapid.Uint32Range(0, VersionLeases).Draw(rt, "version")
		plain.version, moved.version = version, version
		moved.m["kgarbage"] = "\x02\x02\x01\x00v"
		if err := moved.Delete([]byte("kgarbage")); err != nil {
			rt.Fatal(err)
		}
		var commands [][]byte
		for range rapid.IntRange(1, 40).Draw(rt, "commands") {
			switch rapid.IntRange(0, 10).Draw(rt, "kind") {
			case 8:
				command, err := EncodeGrant(someLease.Draw(rt, "lease"), 60)
				if err != nil {
					rt.Fatal(err)
				}
				commands = append(commands, command)
				continue
			case 9:
				commands = append(commands, EncodeRevoke(someLease.Draw(rt, "lease"), 0))
				continue
			case 10:
				left := Remaining{someLease.Draw(rt, "lease"), rapid.Int64Range(1, 4).Draw(rt, "generation"), 7}
				commands = append(commands, EncodeCheckpoint([]Remaining{left}))
				continue
			case 0:
				commands = append(commands, rawTxn(t, drawTxn(rt, int64(len(commands)), 1)))
				continue
			case 1:
				commands = append(commands, rawCompact(t, rapid.Int64Range(0, int64(len(commands))).Draw(rt, "revision")))
				continue
			case 2, 3:
				commands = append(commands, rawDelete(t, &etcdserverpb.DeleteRangeRequest{
					Key:      someKey.Draw(rt, "key"),
					RangeEnd: someEnd.Draw(rt, "end"), PrevKv: true,
				}))
				continue
			}
			commands = append(commands, rawPut(t, &etcdserverpb.PutRequest{
				Key:   someKey.Draw(rt, "key"),
				Value: drawValue(rt), PrevKv: true, Lease: rapid.Int64Range(0, 2).Draw(rt, "lease"),
			}))
		}
		move := rapid.IntRange(0, len(commands)-1).Draw(rt, "move")
		for i, command := range commands {
			if i == move {
				fresh := newTx()
				for p, err := range moved.ScanReverse(nil, nil) {
					if err != nil {
						rt.Fatal(err)
					}
					fresh.m[string(p.Key)] = string(p.Value)
				}
				fresh.version = moved.version
				moved = fresh
			}
			apply(t, moved, rawPut(t, &etcdserverpb.PutRequest{Key: []byte("refused"), Lease: 9}))
			if got, want := apply(t, moved, command), apply(t, plain, command); !bytes.Equal(got, want) {
				rt.Fatalf("command %d: result %x on one tree, %x on the other", i, got, want)
			}
		}
		if got, want := dump(moved), dump(plain); got != want {
			rt.Fatalf("states differ:\n%s\n%s", got, want)
		}
	})
}
