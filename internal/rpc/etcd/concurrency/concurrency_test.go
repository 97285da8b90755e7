package concurrency

import (
	"errors"
	"testing"

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
