package kv

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"
)

// model is etcd's key space as a slice in the order of the keys, written for being
// obviously right.
type model struct {
	rev int64
	kvs []*mvccpb.KeyValue
}

func (m *model) find(key []byte) int {
	return slices.IndexFunc(m.kvs, func(kv *mvccpb.KeyValue) bool { return bytes.Equal(kv.Key, key) })
}

func (m *model) put(req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	i := m.find(req.Key)
	if i < 0 && (req.IgnoreValue || req.IgnoreLease) {
		return nil, ErrKeyNotFound
	}
	m.rev++
	resp := &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: m.rev}}
	if i < 0 {
		m.kvs = append(m.kvs, &mvccpb.KeyValue{
			Key: req.Key, Value: req.Value, CreateRevision: m.rev, ModRevision: m.rev,
			Version: 1,
		})
		slices.SortFunc(m.kvs, func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
		return resp, nil
	}
	if req.PrevKv {
		resp.PrevKv = proto.CloneOf(m.kvs[i])
	}
	m.kvs[i].ModRevision = m.rev
	m.kvs[i].Version++
	if !req.IgnoreValue {
		m.kvs[i].Value = req.Value
	}
	return resp, nil
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
		}
		if hit && req.PrevKv {
			resp.PrevKvs = append(resp.PrevKvs, proto.CloneOf(kv))
		}
		return hit
	})
	if resp.Deleted > 0 {
		m.rev++
	}
	resp.Header.Revision = m.rev
	return resp
}

func (m *model) rangeOf(req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	if req.Revision > m.rev {
		return nil, ErrFutureRevision
	}
	if req.Revision > 0 && req.Revision < m.rev {
		return nil, ErrCompacted
	}
	resp := &etcdserverpb.RangeResponse{Header: &etcdserverpb.ResponseHeader{Revision: m.rev}}
	for _, kv := range m.kvs {
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
	}
	return resp, nil
}

// Keys are few and share prefixes, zero bytes and 0xff included, so that operations meet.
var (
	someKey   = rapid.SliceOfN(rapid.SampledFrom([]byte{0, 'a', 'b', 0xff}), 1, 3)
	someEnd   = rapid.OneOf(rapid.Just([]byte(nil)), rapid.Just([]byte{0}), someKey)
	someValue = rapid.SliceOfN(rapid.SampledFrom([]byte("xyz")), 0, 3)
)

func drawRange(t *rapid.T, rev int64) *etcdserverpb.RangeRequest {
	revision := rapid.OneOf(rapid.Just(int64(0)), rapid.Just(int64(0)), rapid.Int64Range(-1, rev+1))
	req := &etcdserverpb.RangeRequest{
		Key:               someKey.Draw(t, "key"),
		RangeEnd:          someEnd.Draw(t, "end"),
		Limit:             rapid.Int64Range(-1, 6).Draw(t, "limit"),
		Revision:          rapid.SampledFrom([]int64{0, 0, 0, -1, rev, rev - 1, rev + 1}).Draw(t, "revision"),
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

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		tx, m := newTx(), &model{rev: 1}
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				req := &etcdserverpb.PutRequest{Key: someKey.Draw(rt, "key"), PrevKv: rapid.Bool().Draw(rt, "prev")}
				if req.IgnoreValue = rapid.IntRange(0, 5).Draw(rt, "ignore") == 0; !req.IgnoreValue {
					req.Value = someValue.Draw(rt, "value")
				}
				got, gotErr := DecodePutResult(apply(t, tx, rawPut(t, req)))
				want, wantErr := m.put(req)
				same(rt, "put", got, want, gotErr, wantErr)
			},
			"delete": func(rt *rapid.T) {
				req := &etcdserverpb.DeleteRangeRequest{
					Key:      someKey.Draw(rt, "key"),
					RangeEnd: someEnd.Draw(rt, "end"),
					PrevKv:   rapid.Bool().Draw(rt, "prev"),
				}
				got, gotErr := DecodeDeleteRangeResult(apply(t, tx, rawDelete(t, req)))
				same(rt, "delete", got, m.deleteRange(req), gotErr, nil)
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
				mirrored(rt, tx.events, m)
			},
		})
	})
}

// The same commands give the same bytes on a tree that was used before, on one that is
// moved to a fresh tree half-way, as a snapshot does, and on one where commands are run
// that are refused.
func TestSameCommandsSameState(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		plain, moved := newTx(), newTx()
		moved.m["kgarbage"] = "\x02\x02\x01\x00v"
		if err := moved.Delete([]byte("kgarbage")); err != nil {
			rt.Fatal(err)
		}
		var commands [][]byte
		for range rapid.IntRange(1, 40).Draw(rt, "commands") {
			if rapid.IntRange(0, 3).Draw(rt, "kind") == 0 {
				commands = append(commands, rawDelete(t, &etcdserverpb.DeleteRangeRequest{
					Key:      someKey.Draw(rt, "key"),
					RangeEnd: someEnd.Draw(rt, "end"), PrevKv: true,
				}))
				continue
			}
			commands = append(commands, rawPut(t, &etcdserverpb.PutRequest{
				Key:   someKey.Draw(rt, "key"),
				Value: someValue.Draw(rt, "value"), PrevKv: true,
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
				moved = fresh
			}
			apply(t, moved, rawPut(t, &etcdserverpb.PutRequest{Key: []byte("refused"), Lease: 1}))
			if got, want := apply(t, moved, command), apply(t, plain, command); !bytes.Equal(got, want) {
				rt.Fatalf("command %d: result %x on one tree, %x on the other", i, got, want)
			}
		}
		if got, want := dump(moved), dump(plain); got != want {
			rt.Fatalf("states differ:\n%s\n%s", got, want)
		}
	})
}
