package node_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// TestFailedUpdateAtAnyMember: an update that fails tells the newest pair, whichever member is asked; the follower
// reads the value from its own state once that has what the leader has applied.
func TestFailedUpdateAtAnyMember(t *testing.T) {
	c := newKVCluster(t)
	get := &etcdserverpb.RequestOp_RequestRange{RequestRange: &etcdserverpb.RangeRequest{Key: []byte("k")}}
	update := &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{
			Target: etcdserverpb.Compare_MOD, Key: []byte("k"), TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: 1},
		}},
		Success: []*etcdserverpb.RequestOp{{Request: &etcdserverpb.RequestOp_RequestPut{
			RequestPut: &etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte("never")},
		}}},
		Failure: []*etcdserverpb.RequestOp{{Request: get}},
	}
	leader := c.awaitSync()
	for i, m := range []*member{leader, c.other(leader)} {
		conn, err := grpc.NewClient("passthrough:///"+m.config.Advertise, grpc.WithNoProxy(),
			grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		zone := etcdserverpb.NewKVClient(conn)
		value := fmt.Sprintf("%030000d", i)
		eventually(t, "an update of what was put at "+m.config.Name, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			put, err := zone.Put(ctx, &etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte(value)})
			if err != nil {
				return err
			}
			resp, err := zone.Txn(ctx, update)
			if err != nil {
				return err
			}
			pair := resp.GetResponses()[0].GetResponseRange().GetKvs()[0]
			if resp.Succeeded || string(pair.GetValue()) != value || pair.GetModRevision() != put.GetHeader().GetRevision() {
				t.Errorf("%s: got succeeded %t and %d bytes of revision %d; want the %d of revision %d", m.config.Name,
					resp.Succeeded, len(pair.GetValue()), pair.GetModRevision(), len(value), put.GetHeader().GetRevision())
			}
			return nil
		})
	}
}
