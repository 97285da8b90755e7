package etcdtest

import (
	"bytes"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestDifferentialSizes compares what is said of requests that are nearly too large and a little too
// large. The bytes that either store adds to a request differ, so none is exactly at the limit; beyond
// half a MiB more an etcd's gRPC refuses by itself, where ours goes on to say that it is too large (1.1).
func TestDifferentialSizes(t *testing.T) {
	k := kindsToTest(t)
	p := newPair(t, k)
	for _, kib := range []int{1400, 1540, 1700} {
		value := bytes.Repeat([]byte("v"), kib<<10)
		steps := []step{
			{method: "Put", req: &etcdserverpb.PutRequest{Key: []byte("a"), Value: value}},
			{member: 1, method: "Put", req: &etcdserverpb.PutRequest{Key: []byte("b"), Value: value, PrevKv: true}},
			{method: "Range", req: &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}},
			{method: "DeleteRange", req: &etcdserverpb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}},
		}
		if k.txn {
			steps = append(steps, step{method: "Txn", req: &etcdserverpb.TxnRequest{
				Success: []*etcdserverpb.RequestOp{putOp("a", value[:len(value)/2]), putOp("b", value[len(value)/2:])},
			}})
		}
		t.Run(fmt.Sprintf("%d KiB", kib), func(t *testing.T) {
			d, err := p.compare(t.Context(), steps)
			if err != nil {
				t.Fatal(err)
			}
			if d != nil {
				t.Errorf("%s differs\n%s: %.200s\n%s: %.200s", steps[d.step].method, p.want.name, d.want, p.got.name, d.got)
			}
		})
	}
}

func putOp(key string, value []byte) *etcdserverpb.RequestOp {
	put := &etcdserverpb.PutRequest{Key: []byte(key), Value: value}
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: put}}
}
