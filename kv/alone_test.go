package kv

import (
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// TestAlone: what may make far more than its bytes shares no entry of the log.
func TestAlone(t *testing.T) {
	put := func(req *etcdserverpb.PutRequest) []byte {
		b, err := EncodePut(req)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	remove := func(req *etcdserverpb.DeleteRangeRequest) []byte {
		b, err := EncodeDeleteRange(req)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	key, value := []byte("key"), []byte{0x20, 1, 0x28, 1}
	for name, tc := range map[string]struct {
		command []byte
		want    bool
	}{
		"a put":                         {put(&etcdserverpb.PutRequest{Key: key, Value: value}), false},
		"a put that keeps the lease":    {put(&etcdserverpb.PutRequest{Key: key, IgnoreLease: true}), false},
		"a put that asks for the value": {put(&etcdserverpb.PutRequest{Key: key, Value: value, PrevKv: true}), true},
		"a put that keeps the value":    {put(&etcdserverpb.PutRequest{Key: key, IgnoreValue: true}), true},
		"a delete":                      {remove(&etcdserverpb.DeleteRangeRequest{Key: key}), false},
		"a delete that asks for it":     {remove(&etcdserverpb.DeleteRangeRequest{Key: key, PrevKv: true}), true},
		"a delete of a range":           {remove(&etcdserverpb.DeleteRangeRequest{Key: key, RangeEnd: []byte{0}}), true},
		"nothing":                       {nil, true},
		"another kind":                  {[]byte{kindDeleteRange + 1, 0x0a, 1, 'k'}, true},
		"a grant":                       {[]byte{kindGrant, 1, 1}, false},
		"a revoke":                      {EncodeRevoke(1, 0), true},
		"a checkpoint":                  {EncodeCheckpoint([]Remaining{{1, 1, 1}}), true},
		"no field":                      {[]byte{kindPut, 0xff}, true},
		"a field cut off":               {[]byte{kindPut, 0x0a, 9}, true},
	} {
		if got := (StateMachine{}).Alone(tc.command); got != tc.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}
