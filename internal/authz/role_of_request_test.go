package authz

import (
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authz/policy"
)

// A transaction asks for what it may do, nested or not: it needs the role read only if it can't change anything.
func TestRoleForATransaction(t *testing.T) {
	get := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{
		RequestRange: &etcdserverpb.RangeRequest{Key: []byte("k")},
	}}
	put := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{
		RequestPut: &etcdserverpb.PutRequest{Key: []byte("k")},
	}}
	del := &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: []byte("k")},
	}}
	nest := func(ops ...*etcdserverpb.RequestOp) *etcdserverpb.RequestOp {
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{
			RequestTxn: &etcdserverpb.TxnRequest{Failure: ops},
		}}
	}
	type ops = []*etcdserverpb.RequestOp
	const read, write = nexusraft.AccessRead, nexusraft.AccessWrite
	p := policy.OfEtcd()["/etcdserverpb.KV/Txn"]
	for name, tc := range map[string]struct {
		success, failure ops
		want             nexusraft.AccessRole
	}{
		"nothing":           {nil, nil, read},
		"gets":              {ops{get, get}, ops{get}, read},
		"put":               {ops{get, put}, nil, write},
		"put if it fails":   {ops{get}, ops{put}, write},
		"delete":            {nil, ops{get, del}, write},
		"nested put":        {ops{get, nest(get, put)}, nil, write},
		"nested twice":      {nil, ops{nest(nest(del))}, write},
		"nested get":        {ops{nest(get)}, nil, write}, // it takes a command
		"empty operation":   {ops{{}}, nil, write},
		"missing operation": {ops{nil}, nil, write},
	} {
		req := &etcdserverpb.TxnRequest{Success: tc.success, Failure: tc.failure}
		if got := roleFor(p, req); got != tc.want {
			t.Errorf("%s: got %s, want %s", name, got, tc.want)
		}
		if got := roleFor(nexusraft.Permission{Role: nexusraft.AccessAdmin}, req); got != nexusraft.AccessAdmin {
			t.Errorf("%s, of a method that makes no difference: got %s", name, got)
		}
	}
	if got := roleFor(p, &etcdserverpb.PutRequest{}); got != write {
		t.Errorf("a request that is no transaction: got %s, want %s", got, write)
	}
}
