package etcd

import (
	"context"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/kv"
)

// A large answer holds its bytes from before it is read; a caller without room is told to wait.
func TestLargeAnswersReserve(t *testing.T) {
	z := newZone()
	s := NewKV(fakeZones{nexusraft.RootZone: z}, func() Identity { return Identity{} }, Config{})
	for i := range 5 {
		req := &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: make([]byte, 1<<20)}
		if _, err := dialKV(t, z).Put(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	counters := new(budget.Counters)
	all := &etcdserverpb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}
	for _, tc := range []struct {
		name        string
		req         *etcdserverpb.RangeRequest
		share       int64
		code        codes.Code
		least, most int64
	}{
		{"small", &etcdserverpb.RangeRequest{Key: []byte("x")}, 0, codes.OK, 0, 0},
		{"one", &etcdserverpb.RangeRequest{Key: []byte("k1")}, 8 << 20, codes.OK, 2 << 20, 3 << 20},
		{"five", all, 128 << 20, codes.OK, 10 << 20, 11 << 20},
		{"five, alone over the share", all, 1 << 20, codes.OK, 10 << 20, 11 << 20},
		{"counted", &etcdserverpb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l"), CountOnly: true}, 0, codes.OK, 0, 0},
	} {
		a := budget.NewBytes(256<<20, tc.share, time.Millisecond, counters).NewAnswer("p")
		_, err := s.Range(budget.WithAnswer(t.Context(), a), tc.req)
		if status.Code(err) != tc.code || a.Held() < tc.least || a.Held() > tc.most {
			t.Errorf("%s: got %v, holding %d; want %v and %d to %d", tc.name, err, a.Held(), tc.code, tc.least, tc.most)
		}
	}
	full := budget.NewBytes(256<<20, 32<<20, time.Millisecond, counters)
	if err := full.Take(t.Context(), "p", 32<<20); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := s.Range(budget.WithAnswer(ctx, full.NewAnswer("p")), all)
	if status.Code(err) != codes.ResourceExhausted || counters.Count(budget.AnswerBytesOfPrincipal) != 1 {
		t.Errorf("no place: got %v, refusals: %v", err, counters.Snapshot())
	}
}

// slowZone applies a write once it may, whether its caller waits or not, and tells as it begins.
type slowZone struct {
	*fakeZone
	begun chan struct{}
	may   chan struct{}
}

func (z slowZone) ProposeOnce(ctx context.Context, id nexusraft.RequestID, command []byte) (nexusraft.Result, error) {
	z.begun <- struct{}{}
	select {
	case <-z.may:
		return z.fakeZone.ProposeOnce(ctx, id, command)
	case <-ctx.Done():
		return nexusraft.Result{}, nexusraft.ErrUncertain
	}
}

// A write that makes much of little holds that, and room for what it answers, until it is applied,
// though its caller has gone (I15).
func TestWritesHoldTheirEffects(t *testing.T) {
	z := slowZone{newZone(), make(chan struct{}), make(chan struct{})}
	s := NewKV(fakeZones{nexusraft.RootZone: z}, func() Identity { return Identity{} }, Config{})
	effects := budget.NewEffectBytes(new(budget.Counters))
	answers := budget.NewAnswerBytes(0, new(budget.Counters))
	key, value := []byte("k"), make([]byte, 1<<20)
	put := func(req *etcdserverpb.PutRequest) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := s.Put(ctx, req)
			return err
		}
	}
	remove := func(req *etcdserverpb.DeleteRangeRequest) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := s.DeleteRange(ctx, req)
			return err
		}
	}
	for _, tc := range []struct {
		name            string
		do              func(context.Context) error
		effects, answer int64
	}{
		{"put", put(&etcdserverpb.PutRequest{Key: key, Value: value}), 0, 0},
		{
			"previous value", put(&etcdserverpb.PutRequest{Key: key, PrevKv: true}),
			kv.MaxRequestBytes, 2 * kv.MaxRequestBytes,
		},
		{"same value", put(&etcdserverpb.PutRequest{Key: key, IgnoreValue: true}), budget.SameValueBytes, 0},
		{
			"both", put(&etcdserverpb.PutRequest{Key: key, IgnoreValue: true, PrevKv: true}),
			budget.SameValueBytes, 2 * kv.MaxRequestBytes,
		},
		{"delete", remove(&etcdserverpb.DeleteRangeRequest{Key: key}), 0, 0},
		{
			"delete with previous value", remove(&etcdserverpb.DeleteRangeRequest{Key: key, PrevKv: true}),
			kv.MaxPrevKVBytes, 2 * kv.MaxPrevKVBytes,
		},
		{
			"delete range", remove(&etcdserverpb.DeleteRangeRequest{Key: key, RangeEnd: []byte{0}}),
			budget.DeleteRangeBytes, 0,
		},
	} {
		answer := answers.NewAnswer("p")
		ctx := budget.WithAnswer(budget.WithEffects(t.Context(), effects, "p"), answer)
		ctx, cancel := context.WithCancel(ctx)
		ended := make(chan error)
		go func() { ended <- tc.do(ctx) }()
		<-z.begun
		cancel()
		if tc.effects == 0 && tc.answer == 0 { // it may give up
			if err := <-ended; err == nil {
				t.Errorf("%s: it was applied, though its caller has gone and it holds nothing", tc.name)
			}
			continue
		}
		if used, held := effects.Used(), answer.Held(); used != tc.effects || held != tc.answer {
			t.Errorf("%s: holds %d bytes for effects and %d for the answer, want %d and %d", tc.name, used, held,
				tc.effects, tc.answer)
		}
		z.may <- struct{}{}
		<-ended
		if used := effects.Used(); used != 0 {
			t.Errorf("%s: %d bytes are held once it is applied", tc.name, used)
		}
		answer.End()
	}
}
