package concurrency

import (
	"context"
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd/concurrency/v3electionpb"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd/concurrency/v3lockpb"
)

// Calls that wait have one bound for all callers, and who is refused takes no place.
func TestWaitingCallsAreBounded(t *testing.T) {
	s := New(Options{Status: func(err error) error { return err }})
	s.waiting.Store(maxWaiting)
	for range 3 {
		_, err := s.Lock(t.Context(), &v3lockpb.LockRequest{})
		_, err2 := s.Campaign(t.Context(), &v3electionpb.CampaignRequest{})
		err3 := s.Observe(&v3electionpb.LeaderRequest{}, nil)
		for _, err := range []error{err, err2, err3} {
			if !errors.Is(err, nexusraft.ErrOverloaded) {
				t.Errorf("got %v, want ErrOverloaded", err)
			}
		}
	}
	if n := s.waiting.Load(); n != maxWaiting {
		t.Errorf("%d calls wait", n)
	}
	s.waiting.Add(-1)
	if leave, err := s.enter(); err != nil {
		t.Errorf("one less: got %v", err)
	} else {
		leave()
	}
}

// turnover is the keys of an election whose first leader goes between two reads.
type turnover struct {
	KeyCalls
	t     *testing.T
	reads int
}

func (k *turnover) Range(_ context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	k.reads++
	leader := &mvccpb.KeyValue{Key: []byte("e/2"), CreateRevision: 6}
	switch {
	case req.RangeEnd != nil && !req.KeysOnly:
		k.t.Error("the values of all candidates are read")
	case req.RangeEnd != nil && k.reads == 1:
		leader = &mvccpb.KeyValue{Key: []byte("e/1"), CreateRevision: 5}
	case req.RangeEnd == nil && string(req.Key) == "e/1":
		return &etcdserverpb.RangeResponse{}, nil
	case req.RangeEnd == nil:
		leader.Value = []byte("v")
	}
	return &etcdserverpb.RangeResponse{Kvs: []*mvccpb.KeyValue{leader}}, nil
}

// The leader's value alone is read, and of who leads when it is.
func TestLeaderReadsOneValue(t *testing.T) {
	keys := &turnover{t: t}
	s := New(Options{Keys: keys})
	resp, err := s.Leader(t.Context(), &v3electionpb.LeaderRequest{Name: []byte("e")})
	if err != nil || string(resp.Kv.Key) != "e/2" || string(resp.Kv.Value) != "v" || keys.reads != 4 {
		t.Errorf("got %v, %v after %d reads", resp, err, keys.reads)
	}
}
