package kv

import (
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

func rawTxn(t testing.TB, req *etcdserverpb.TxnRequest) []byte {
	t.Helper()
	b, err := encodeCommand(kindTxn, req)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func rawCompact(t testing.TB, rev int64) []byte {
	t.Helper()
	b, err := EncodeCompact(&etcdserverpb.CompactionRequest{Revision: rev})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func opPut(key, value string) *etcdserverpb.RequestOp {
	return putOp(&etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)})
}

func opDelete(key, end string, prev bool) *etcdserverpb.RequestOp {
	return deleteOp(&etcdserverpb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end), PrevKv: prev})
}

func opRange(key, end string, rev int64) *etcdserverpb.RequestOp {
	return rangeOp(&etcdserverpb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end), Revision: rev})
}

func putOp(r *etcdserverpb.PutRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: r}}
}

func deleteOp(r *etcdserverpb.DeleteRangeRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

func rangeOp(r *etcdserverpb.RangeRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: r}}
}

func txnOp(r *etcdserverpb.TxnRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: r}}
}
