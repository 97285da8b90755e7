package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func (k KeyChange) text() string {
	text := fmt.Sprintf("%d put %s=%s", k.Pair.ModRevision, k.Pair.Key, k.Pair.Value)
	if k.Deleted {
		text = fmt.Sprintf("%d del %s", k.Pair.ModRevision, k.Pair.Key)
	}
	if k.Previous != nil {
		text += " was " + string(k.Previous.Value)
	}
	return text
}

// changesUntil takes changes until it has the one with the revision last.
func changesUntil(t *testing.T, c *Client, keys KeySet, o WatchOptions, last nexusraft.Revision) string {
	t.Helper()
	var got []string
	for batch, err := range c.Watch(within(t), keys, o) {
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		for _, change := range batch.Changes {
			got = append(got, change.text())
		}
		if batch.Through >= last {
			break
		}
	}
	return strings.Join(got, "; ")
}

// threePuts is a zone with the revisions 2 to 5.
func threePuts() *fakeZone {
	z := newFakeZone()
	z.put("a", "1")
	z.put("b", "2")
	z.put("a", "3")
	z.delete("a")
	return z
}

func TestWatch(t *testing.T) {
	z := threePuts()
	n := z.serves(t, nil)
	c := connect(t, Options{Endpoints: []string{n.address}})
	for _, tc := range []struct {
		keys KeySet
		o    WatchOptions
		last nexusraft.Revision
		want string
	}{
		{Prefix(nil), WatchOptions{From: 1}, 5, "2 put a=1; 3 put b=2; 4 put a=3; 5 del a"},
		{Prefix(nil), WatchOptions{From: 3, Previous: true}, 5, "3 put b=2; 4 put a=3 was 1; 5 del a was 3"},
		{Key([]byte("a")), WatchOptions{From: 2, NoDeletes: true}, 4, "2 put a=1; 4 put a=3"},
		{Prefix([]byte("a")), WatchOptions{From: 2, NoPuts: true}, 5, "5 del a"},
	} {
		if got := changesUntil(t, c, tc.keys, tc.o, tc.last); got != tc.want {
			t.Errorf("%+v: got %q, want %q", tc.o, got, tc.want)
		}
	}
}

// The first batch says where the watch stands; what happens from then on comes.
func TestWatchFromNowOn(t *testing.T) {
	z := threePuts()
	n := z.serves(t, nil)
	c := connect(t, Options{Endpoints: []string{n.address}})
	first := true
	for batch, err := range c.Watch(within(t), Prefix(nil), WatchOptions{}) {
		switch {
		case err != nil:
			t.Fatal(err)
		case first && (len(batch.Changes) != 0 || batch.Through != 5):
			t.Errorf("the first batch is %+v, want none through 5", batch)
		case first:
			z.put("new", "1")
		case len(batch.Changes) != 1 || batch.Changes[0].text() != "6 put new=1" || batch.Through != 6:
			t.Errorf("got %+v, want the new key through 6", batch)
		}
		if !first {
			break
		}
		first = false
	}
}

// Wherever a stream breaks, and however, the changes come once each and in order, through one endpoint or two.
func TestBrokenWatchesLeaveNoGap(t *testing.T) {
	for name, broken := range map[string]error{
		"cut":       cut(),
		"no leader": rpctypes.ErrGRPCNoLeader,
		"internal":  status.Error(codes.Internal, "stream terminated by RST_STREAM"),
	} {
		for at := int64(1); at <= 5; at++ {
			for endpoints := 1; endpoints <= 2; endpoints++ {
				if name == "internal" && at <= 3 {
					continue // before a stream stands it is final
				}
				z := threePuts()
				var answers atomic.Int64
				var o Options
				for range endpoints {
					n := z.serves(t, func(n *zoneNode) {
						n.before = func(string) error {
							if k := answers.Add(1); k == at || k == at+2 && name != "internal" {
								return broken
							}
							return nil
						}
					})
					o.Endpoints = append(o.Endpoints, n.address)
				}
				got := changesUntil(t, connect(t, o), Prefix(nil), WatchOptions{From: 2}, 5)
				if want := "2 put a=1; 3 put b=2; 4 put a=3; 5 del a"; got != want || answers.Load() < at {
					t.Errorf("%s before answer %d, %d endpoints: got %q, want %q", name, at, endpoints, got, want)
				}
			}
		}
	}
}

// watching is a node that answers each stream, counted from 0, as the test says.
func watching(
	t *testing.T, stream func(k int, req *etcdserverpb.WatchCreateRequest, s etcdserverpb.Watch_WatchServer) error,
) *zoneNode {
	t.Helper()
	var streams atomic.Int64
	return newFakeZone().serves(t, func(n *zoneNode) {
		n.watching = func(s etcdserverpb.Watch_WatchServer) error {
			req, err := s.Recv()
			if err != nil {
				return err
			}
			return stream(int(streams.Add(1)-1), req.GetCreateRequest(), s)
		}
	})
}

func answerWatch(revision int64, events ...*mvccpb.Event) *etcdserverpb.WatchResponse {
	return &etcdserverpb.WatchResponse{Header: &etcdserverpb.ResponseHeader{Revision: revision}, Events: events}
}

func created(revision int64) *etcdserverpb.WatchResponse {
	resp := answerWatch(revision)
	resp.Created = true
	return resp
}

// A stream may break between the parts of a revision: the next one begins with its first change again.
func TestWatchBrokenInsideARevision(t *testing.T) {
	var events []*mvccpb.Event
	for _, key := range []string{"a", "b", "c", "d", "e"} {
		events = append(events, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(key), ModRevision: 7}})
	}
	later := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("f"), ModRevision: 8}}
	part := func(events ...*mvccpb.Event) *etcdserverpb.WatchResponse {
		resp := answerWatch(8, events...)
		resp.Fragment = true
		return resp
	}
	var from []int64
	n := watching(t, func(k int, req *etcdserverpb.WatchCreateRequest, s etcdserverpb.Watch_WatchServer) error {
		from = append(from, req.StartRevision)
		for _, resp := range [][]*etcdserverpb.WatchResponse{
			{created(8), part(events[:2]...)},
			{created(8), part(events[:1]...), part(events[1:3]...)},
			{created(8), part(events[:4]...), answerWatch(8, events[4], later)},
		}[k] {
			if err := s.Send(resp); err != nil {
				return err
			}
		}
		if k < 2 {
			return cut()
		}
		<-s.Context().Done()
		return nil
	})
	var got []string
	c := connect(t, Options{Endpoints: []string{n.address}})
	for batch, err := range c.Watch(within(t), Prefix(nil), WatchOptions{From: 5}) {
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range batch.Changes {
			got = append(got, string(change.Pair.Key))
		}
		if whole := len(got) == 6; (batch.Through >= 7) != whole {
			t.Errorf("after %q the watch claims everything through %d", got, batch.Through)
		}
		if batch.Through == 8 {
			break
		}
	}
	if text := strings.Join(got, ""); text != "abcdef" || fmt.Sprint(from) != "[5 7 7]" {
		t.Errorf("got %s by streams from %v, want abcdef from 5, 7 and 7", text, from)
	}
}

// A progress answer moves the position, so that a compaction in a quiet time does not end the watch.
func TestWatchGoesOnFromItsProgress(t *testing.T) {
	n := watching(t, func(k int, req *etcdserverpb.WatchCreateRequest, s etcdserverpb.Watch_WatchServer) error {
		if md, _ := metadata.FromIncomingContext(s.Context()); !req.ProgressNotify || len(md.Get("hasleader")) == 0 {
			return status.Error(codes.InvalidArgument, "neither progress nor a leader is asked for")
		}
		if want := int64(2 + 9*min(k, 1)); req.StartRevision != want {
			return status.Errorf(codes.InvalidArgument, "stream %d begins at %d, want %d", k, req.StartRevision, want)
		}
		if err := s.Send(created(9)); err != nil {
			return err
		}
		if k == 0 {
			progress := answerWatch(10)
			progress.WatchId = -1
			if err := s.Send(progress); err != nil {
				return err
			}
			return cut()
		}
		return s.Send(answerWatch(11, &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte("a"), ModRevision: 11}}))
	})
	c := connect(t, Options{Endpoints: []string{n.address}})
	if got, want := changesUntil(t, c, Prefix(nil), WatchOptions{From: 2}, 11), "11 put a="; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A node that goes silent, with its connection up, is asked for a sign of life and then left.
func TestWatchLeavesASilentNode(t *testing.T) {
	var asked atomic.Bool
	silent := watching(t, func(_ int, _ *etcdserverpb.WatchCreateRequest, s etcdserverpb.Watch_WatchServer) error {
		if err := s.Send(created(5)); err != nil {
			return err
		}
		req, err := s.Recv()
		asked.Store(err == nil && req.GetProgressRequest() != nil)
		<-s.Context().Done()
		return nil
	})
	n := threePuts().serves(t, nil)
	c := connect(t, Options{Endpoints: []string{silent.address, n.address}, AttemptTimeout: 20 * time.Millisecond})
	if got, want := changesUntil(t, c, Prefix(nil), WatchOptions{From: 4}, 5), "4 put a=3; 5 del a"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if !asked.Load() {
		t.Error("the silent node was not asked for a sign of life")
	}
}

// answeringStream is a stream that answers as a test says.
type answeringStream struct {
	etcdserverpb.Watch_WatchClient
	ctx     context.Context
	answers chan *etcdserverpb.WatchResponse
	asked   atomic.Int64
}

func (s *answeringStream) Send(*etcdserverpb.WatchRequest) error { s.asked.Add(1); return nil }

func (s *answeringStream) Recv() (*etcdserverpb.WatchResponse, error) {
	select {
	case resp := <-s.answers:
		return resp, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}

// While the caller is at a batch no silence counts, and a node that gives a sign of life when it is asked is kept.
func TestSilenceOfAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const patience = time.Second
		s := &watchStream{patience: patience}
		s.ctx, s.cancel = context.WithCancelCause(t.Context())
		s.silence = time.AfterFunc(patience, func() { s.cancel(errSilent) })
		defer s.close()
		node := &answeringStream{ctx: s.ctx, answers: make(chan *etcdserverpb.WatchResponse, 1)}
		s.stream = node
		node.answers <- created(5)
		if _, err := s.receive(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // the caller is busy
		if s.ctx.Err() != nil || node.asked.Load() != 0 {
			t.Fatalf("a busy caller: %v, asked %d times", context.Cause(s.ctx), node.asked.Load())
		}
		time.AfterFunc(quietAttempts*patience+patience/2, func() { node.answers <- answerWatch(5) })
		if _, err := s.receive(); err != nil || node.asked.Load() != 1 {
			t.Fatalf("a quiet node: %v, asked %d times, want once", err, node.asked.Load())
		}
		begin := time.Now()
		_, err := s.receive()
		waited := time.Since(begin)
		if err == nil || context.Cause(s.ctx) != errSilent || waited != (quietAttempts+1)*patience {
			t.Errorf("a silent node: %v, %v after %v", err, context.Cause(s.ctx), waited)
		}
	})
}

// watchError returns what a watch ends with.
func watchError(t *testing.T, c *Client, o WatchOptions) error {
	t.Helper()
	for _, err := range c.Watch(within(t), Prefix([]byte("p")), o) {
		if err != nil {
			return err
		}
	}
	t.Fatal("the watch ended without an error")
	return nil
}

func TestWatchOfACompactedRevision(t *testing.T) {
	z := threePuts()
	z.compact()
	n := z.serves(t, nil)
	c := connect(t, Options{Endpoints: []string{n.address}})
	err := watchError(t, c, WatchOptions{From: 3})
	compacted, ok := errors.AsType[*WatchCompactedError](err)
	if !ok || compacted.Compacted != 5 || compacted.From != 3 || !errors.Is(err, ErrCompacted) ||
		!strings.Contains(err.Error(), `watch "p": client: `) ||
		!strings.Contains(err.Error(), "revision 3 is compacted: the oldest that can be watched is 5") {
		t.Errorf("got %v, want that 3 is compacted and 5 is the oldest", err)
	}
	// At the compaction revision itself it is good (pitfall kine 747).
	if got, want := changesUntil(t, c, Prefix(nil), WatchOptions{From: 5}, 5), "5 del a"; got != want {
		t.Errorf("from the compaction revision: got %q, want %q", got, want)
	}
}

func TestRefusedWatch(t *testing.T) {
	refusing := func(reason string) *zoneNode {
		return watching(t, func(_ int, _ *etcdserverpb.WatchCreateRequest, s etcdserverpb.Watch_WatchServer) error {
			return s.Send(&etcdserverpb.WatchResponse{Created: true, Canceled: true, WatchId: -1, CancelReason: reason})
		})
	}
	denied := refusing("etcdserver: permission denied")
	err := watchError(t, connect(t, Options{Endpoints: []string{denied.address}}), WatchOptions{})
	if err == nil || !strings.Contains(err.Error(), "permission denied") || status.Code(err) != codes.PermissionDenied {
		t.Errorf("denied: got %v (%v)", err, status.Code(err))
	}
	witness := start(t, nil) // it serves no watches
	err = watchError(t, connect(t, Options{Endpoints: []string{witness.address}}), WatchOptions{})
	if !strings.Contains(err.Error(), "it serves no watches, as a witness does: name a member") {
		t.Errorf("a witness: got %v", err)
	}
	n := threePuts().serves(t, nil)
	c := connect(t, Options{Endpoints: []string{witness.address, refusing("etcdserver: no leader").address, n.address}})
	if got, want := changesUntil(t, c, Prefix(nil), WatchOptions{From: 5}, 5), "5 del a"; got != want {
		t.Errorf("past nodes that can't: got %q, want %q", got, want)
	}
}

// Nothing of a watch is left when its caller goes, or when its context ends.
func TestWatchEndsWithItsContext(t *testing.T) {
	n := threePuts().serves(t, nil)
	c := connect(t, Options{Endpoints: []string{n.address}})
	ctx, cancel := context.WithCancel(within(t))
	defer cancel()
	var last error
	for _, err := range c.Watch(ctx, Prefix(nil), WatchOptions{}) {
		cancel()
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("got %v, want the context's error", last)
	}
}
