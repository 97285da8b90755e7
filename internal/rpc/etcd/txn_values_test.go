package etcd

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/kv"
)

// update is "if the key's newest version is of that revision put it, else get it", and then some.
func update(key string, mod int64, also ...*etcdserverpb.RequestOp) *etcdserverpb.TxnRequest {
	return &etcdserverpb.TxnRequest{
		Compare: []*etcdserverpb.Compare{{
			Target: etcdserverpb.Compare_MOD, Key: []byte(key),
			TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: mod},
		}},
		Success: []*etcdserverpb.RequestOp{putOp(&etcdserverpb.PutRequest{Key: []byte(key), Value: []byte("new")})},
		Failure: append([]*etcdserverpb.RequestOp{rangeOp(&etcdserverpb.RangeRequest{Key: []byte(key)})}, also...),
	}
}

// inProcess returns the service on a zone, without a server.
func inProcess(z Zone) *KV {
	identity := func() Identity { return Identity{Cluster: 0xC1, Node: 0xD1} }
	return NewKV(fakeZones{nexusraft.RootZone: z}, identity, Config{})
}

// A transaction whose values are read afterwards is answered as one that is applied as a whole.
func TestValuesThatAreReadAfterwards(t *testing.T) {
	get := func(req *etcdserverpb.RangeRequest) *etcdserverpb.RequestOp {
		req.Key = []byte("b")
		return rangeOp(req)
	}
	both := update("a", 9, get(new(etcdserverpb.RangeRequest)))
	both.Success = append(both.Failure, get(&etcdserverpb.RangeRequest{CountOnly: true}))
	both.Failure = append(both.Failure, putOp(&etcdserverpb.PutRequest{Key: []byte("c")}))
	for name, req := range map[string]*etcdserverpb.TxnRequest{
		"it holds":      update("a", 2),
		"it does not":   update("a", 9),
		"nothing there": update("absent", 9),
		"two keys":      update("a", 9, get(new(etcdserverpb.RangeRequest))),
		"keys and counts": update("a", 9, get(&etcdserverpb.RangeRequest{KeysOnly: true}),
			get(&etcdserverpb.RangeRequest{CountOnly: true})),
		"filtered": update("a", 9, get(&etcdserverpb.RangeRequest{MinModRevision: 4}),
			get(&etcdserverpb.RangeRequest{Limit: 1})),
		"old revision": update("a", 9, get(&etcdserverpb.RangeRequest{Revision: 3})),
		"with a range": update("a", 9, get(&etcdserverpb.RangeRequest{RangeEnd: []byte{0}})),
		"with a write": update("a", 9, putOp(&etcdserverpb.PutRequest{Key: []byte("b")})),
		"either reads": both,
	} {
		z := newZone()
		z.put(t, "a", strings.Repeat("long", 1<<13))
		z.put(t, "b", "short")
		s := inProcess(z)
		whole := newZone()
		for k, v := range z.state {
			whole.state[k] = v
		}
		want, _, err := inProcess(whole).applyTxn(handling(t.Context()), req)
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Txn(handling(t.Context()), req)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !proto.Equal(want, got) { // cmp looks at each byte of the long value by itself
			t.Errorf("%s: got %.1000v\nwant %.1000v", name, got, want)
		}
	}
}

// An update that its caller will be told the newest pair of, if it fails, takes nothing of the budgets: neither while
// it is applied nor, where the pair has become as large as it may be meanwhile, in the result. Hundreds run at once.
func TestUpdatesAtOnce(t *testing.T) {
	z := slowZone{newZone(), make(chan struct{}), make(chan struct{})}
	s := inProcess(z)
	z.put(t, "k", "small")
	z.put(t, "k", "small")
	effects := budget.NewEffectBytes(new(budget.Counters))
	answers := budget.NewAnswerBytes(0, new(budget.Counters))
	ctx, cancel := context.WithTimeout(handling(t.Context()), time.Minute)
	defer cancel()
	ctx = budget.WithEffects(ctx, effects, "p")
	const updates = 100
	var all sync.WaitGroup
	for range updates {
		all.Go(func() {
			answer := answers.NewAnswer("p")
			defer answer.End()
			resp, err := s.Txn(budget.WithAnswer(ctx, answer), update("k", 2))
			if err != nil || resp.Succeeded || len(resp.Responses[0].GetResponseRange().GetKvs()[0].Value) != 1<<20 {
				t.Errorf("got succeeded %t, %v; want the large pair", resp.GetSucceeded(), err)
			}
		})
	}
	for range updates {
		select {
		case <-z.begun:
		case <-ctx.Done():
			t.Fatal("some wait for others")
		}
	}
	if effects, answers := effects.Used(), answers.Used(); effects != 0 || answers != 0 {
		t.Errorf("they hold %d bytes for effects and %d for answers", effects, answers)
	}
	z.put(t, "k", strings.Repeat("x", 1<<20)) // after it was looked at what they make
	for range updates {
		z.may <- struct{}{}
	}
	all.Wait()
	if z.result > 1<<10 {
		t.Errorf("applying one has made %d bytes", z.result)
	}
	if used := answers.Used(); used != 0 {
		t.Errorf("%d bytes are held after all", used)
	}
}

// What the answer says is what the transaction has found, whatever becomes of the key until it is read; and if that is
// compacted by then, the transaction is run once more, as it has written nothing.
func TestValuesThatChangeMeanwhile(t *testing.T) {
	z := newZone()
	s := inProcess(z)
	z.put(t, "k", "2")
	z.put(t, "k", "3")
	z.beforeReadAt = func() { z.put(t, "k", "4") }
	before := z.proposals
	check := func(what string, revision int64, value string, proposals int) {
		t.Helper()
		resp, err := s.Txn(handling(t.Context()), update("k", 2))
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		got := resp.Responses[0].GetResponseRange().Kvs[0]
		if resp.Succeeded || resp.Header.Revision != revision || string(got.Value) != value || got.ModRevision != revision ||
			z.proposals != before+proposals {
			t.Errorf("%s: got %v after %d proposals; want %s of revision %d after %d", what, resp, z.proposals-before, value,
				revision, proposals)
		}
		before = z.proposals
	}
	check("overwritten", 3, "3", 2)
	z.beforeReadAt = func() {
		z.put(t, "k", "5")
		z.compact(t, 5)
		z.beforeReadAt = nil
	}
	check("compacted", 5, "5", 4)

	ctx := metadata.NewIncomingContext(handling(t.Context()), metadata.Pairs("nexus-session", "71/3"))
	z.beforeReadAt = func() { t.Error("a numbered one was read afterwards: asked again, that may be compacted") }
	if resp, err := s.Txn(ctx, update("k", 2)); err != nil || len(resp.Responses[0].GetResponseRange().Kvs[0].Value) != 1 {
		t.Errorf("numbered: got %v, %v", resp, err)
	}
}

// A request of the largest size is not refused for what is asked of its zone in its place.
func TestTheLargestUpdate(t *testing.T) {
	req := update("k", 2)
	put := req.Success[0].GetRequestPut()
	put.Value = make([]byte, kv.MaxRequestBytes)
	put.Value = put.Value[:2*kv.MaxRequestBytes-proto.Size(req)]
	if proto.Size(req) != kv.MaxRequestBytes || withoutValues(t.Context(), req) != req {
		t.Fatalf("the request has %d bytes", proto.Size(req))
	}
	if _, err := inProcess(newZone()).Txn(handling(t.Context()), req); err != nil {
		t.Error(err)
	}
}
