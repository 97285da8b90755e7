package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/kv/lessor"
)

// fakeLessor renews what a zone has, once it is let.
type fakeLessor struct {
	zone *fakeZone
	err  error         // of what is asked of the leader
	wait chan struct{} // renewals wait until it is closed

	mu    sync.Mutex
	begun []int64
}

func (l *fakeLessor) EncodeGrant(id, ttl int64) ([]byte, error) {
	return kv.EncodeGrant(max(id, 1), max(ttl, 2))
}

func (l *fakeLessor) lease(id int64) (found kv.Lease) {
	l.zone.mu.Lock()
	defer l.zone.mu.Unlock()
	found, _, _ = kv.LeaseOf(l.zone.state, id)
	return found
}

func (l *fakeLessor) TimeToLive(_ context.Context, _ nexusraft.ZoneID, id int64) (lessor.Left, error) {
	ttl := l.lease(id).TTL
	return lessor.Left{TTL: ttl, Seconds: max(0, ttl-1)}, l.err
}

func (l *fakeLessor) Begin(_ nexusraft.ZoneID, id int64) renewal {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun = append(l.begun, id)
	return fakeRenewal{l, id}
}

func (l *fakeLessor) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.begun)
}

type fakeRenewal struct {
	of *fakeLessor
	id int64
}

func (r fakeRenewal) Wait(ctx context.Context) (int64, error) {
	if r.of.wait != nil {
		select {
		case <-r.of.wait:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return r.of.lease(r.id).TTL, r.of.err
}

// leases are a zone's, behind the service.
type leases struct {
	etcdserverpb.LeaseClient
	keys   etcdserverpb.KVClient
	lessor *fakeLessor
}

func newLeases(t *testing.T) *leases {
	t.Helper()
	z := newZone()
	z.version = kv.VersionLeases
	l := &fakeLessor{zone: z}
	conn := serveMore(t, fakeZones{nexusraft.RootZone: z}, fakeNode{}, func(keys *KV, s *grpc.Server) {
		NewLeases(keys, l).Register(s)
	})
	return &leases{etcdserverpb.NewLeaseClient(conn), etcdserverpb.NewKVClient(conn), l}
}

func TestLeaseService(t *testing.T) {
	l := newLeases(t)
	check := func(what string, got, want any, err error) {
		t.Helper()
		if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", what, err, diff)
		}
	}
	fails := func(what string, err, want error) {
		t.Helper()
		if status.Code(err) != status.Code(want) || status.Convert(err).Message() != status.Convert(want).Message() {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
	}
	granted, err := l.LeaseGrant(t.Context(), &etcdserverpb.LeaseGrantRequest{ID: 7, TTL: 60})
	check("grant", granted, &etcdserverpb.LeaseGrantResponse{Header: header(1), ID: 7, TTL: 60}, err)
	_, err = l.LeaseGrant(t.Context(), &etcdserverpb.LeaseGrantRequest{ID: 7, TTL: 60})
	fails("grant again", err, rpctypes.ErrGRPCLeaseExist)
	_, err = l.LeaseGrant(t.Context(), &etcdserverpb.LeaseGrantRequest{ID: 8, TTL: kv.MaxLeaseTTL + 1})
	fails("grant for too long", err, rpctypes.ErrGRPCLeaseTTLTooLarge)
	short, err := l.LeaseGrant(t.Context(), &etcdserverpb.LeaseGrantRequest{ID: 3})
	check("grant for no time", short, &etcdserverpb.LeaseGrantResponse{Header: header(1), ID: 3, TTL: 2}, err)
	for _, key := range []string{"b", "a"} {
		if _, err := l.keys.Put(t.Context(), &etcdserverpb.PutRequest{Key: []byte(key), Lease: 7}); err != nil {
			t.Fatal(err)
		}
	}

	left, err := l.LeaseTimeToLive(t.Context(), &etcdserverpb.LeaseTimeToLiveRequest{ID: 7, Keys: true})
	check("what is left, with keys", left, &etcdserverpb.LeaseTimeToLiveResponse{
		Header: header(3), ID: 7, TTL: 59, GrantedTTL: 60, Keys: [][]byte{[]byte("a"), []byte("b")},
	}, err)
	left, err = l.LeaseTimeToLive(t.Context(), &etcdserverpb.LeaseTimeToLiveRequest{ID: 7})
	check("what is left", left, &etcdserverpb.LeaseTimeToLiveResponse{
		Header: header(3), ID: 7, TTL: 59, GrantedTTL: 60,
	}, err)
	left, err = l.LeaseTimeToLive(t.Context(), &etcdserverpb.LeaseTimeToLiveRequest{ID: 9, Keys: true})
	check("what is left of none", left, &etcdserverpb.LeaseTimeToLiveResponse{Header: header(3), ID: 9, TTL: -1}, err)
	all, err := l.LeaseLeases(t.Context(), &etcdserverpb.LeaseLeasesRequest{})
	check("all", all, &etcdserverpb.LeaseLeasesResponse{
		Header: header(3), Leases: []*etcdserverpb.LeaseStatus{{ID: 7}, {ID: 3}}, // as they were granted
	}, err)

	revoked, err := l.LeaseRevoke(t.Context(), &etcdserverpb.LeaseRevokeRequest{ID: 7})
	check("revoke", revoked, &etcdserverpb.LeaseRevokeResponse{Header: header(4)}, err)
	_, err = l.LeaseRevoke(t.Context(), &etcdserverpb.LeaseRevokeRequest{ID: 7})
	fails("revoke again", err, rpctypes.ErrGRPCLeaseNotFound)
	l.lessor.err = &nexusraft.NotLeaderError{}
	_, err = l.LeaseTimeToLive(t.Context(), &etcdserverpb.LeaseTimeToLiveRequest{ID: 3})
	fails("without a leader", err, rpctypes.ErrGRPCNoLeader)
}

// keepAlive opens a stream.
func (l *leases) keepAlive(t *testing.T, ids ...int64) etcdserverpb.Lease_LeaseKeepAliveClient {
	t.Helper()
	stream, err := l.LeaseKeepAlive(t.Context())
	for _, id := range ids {
		err = errors.Join(err, stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: id}))
	}
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// Many requests on one stream begin before the first one is answered, and are answered in their order, with the
// revision of before; a lease that is gone does not end the stream.
func TestKeepAlive(t *testing.T) {
	l := newLeases(t)
	var ids []int64
	for id := int64(1); id <= 100; id++ {
		ids = append(ids, id)
		if id%10 == 0 {
			continue // there is none
		}
		if _, err := l.LeaseGrant(t.Context(), &etcdserverpb.LeaseGrantRequest{ID: id, TTL: 60 + id}); err != nil {
			t.Fatal(err)
		}
	}
	l.lessor.wait = make(chan struct{})
	stream := l.keepAlive(t, ids...)
	for deadline := time.Now().Add(10 * time.Second); l.lessor.count() < len(ids); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d have begun, want all", l.lessor.count())
		}
	}
	if _, err := l.keys.Put(t.Context(), &etcdserverpb.PutRequest{Key: []byte("a")}); err != nil {
		t.Fatal(err)
	}
	close(l.lessor.wait)
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		want := &etcdserverpb.LeaseKeepAliveResponse{Header: header(1), ID: id, TTL: 60 + id}
		if id%10 == 0 {
			want.TTL = 0
		}
		got, err := stream.Recv()
		if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
			t.Fatalf("%v (-want +got):\n%s", err, diff)
		}
	}
	if got, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: got %v, %v", got, err)
	}
}

// A stream has so many requests under way, and no more is read of it.
func TestKeepAliveIsBounded(t *testing.T) {
	l := newLeases(t)
	l.lessor.wait = make(chan struct{})
	stream := l.keepAlive(t)
	for range 3 * maxKeepAlives {
		if err := stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for l.lessor.count() < maxKeepAlives {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond)
	if n := l.lessor.count(); n > maxKeepAlives+2 {
		t.Errorf("%d requests of a stream are under way, want %d at most", n, maxKeepAlives+2)
	}
	close(l.lessor.wait)
	for range 3 * maxKeepAlives {
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
}

// etcd 21671: where nobody leads, and where no quorum answers, the stream ends with Unavailable.
func TestKeepAliveFails21671(t *testing.T) {
	for err, want := range map[error]error{
		&nexusraft.NotLeaderError{}: rpctypes.ErrGRPCNoLeader, nexusraft.ErrNoQuorum: rpctypes.ErrGRPCTimeout,
	} {
		l := newLeases(t)
		l.lessor.err = err
		stream := l.keepAlive(t, 1)
		if _, got := stream.Recv(); status.Code(got) != codes.Unavailable ||
			status.Convert(got).Message() != status.Convert(want).Message() {
			t.Errorf("%v: got %v, want %v", err, got, want)
		}
	}
}

// Without a lessor, leases are refused, and listed.
func TestLeasesWithoutALessor(t *testing.T) {
	z := newZone()
	z.version = kv.VersionLeases
	conn := serveMore(t, fakeZones{nexusraft.RootZone: z}, fakeNode{}, func(keys *KV, s *grpc.Server) {
		NewLeases(keys, Config{}.leases()).Register(s)
	})
	client := etcdserverpb.NewLeaseClient(conn)
	_, granted := client.LeaseGrant(t.Context(), &etcdserverpb.LeaseGrantRequest{TTL: 5})
	_, left := client.LeaseTimeToLive(t.Context(), &etcdserverpb.LeaseTimeToLiveRequest{ID: 5})
	stream, err := client.LeaseKeepAlive(t.Context())
	if err == nil {
		if err = stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: 5}); err == nil {
			_, err = stream.Recv()
		}
	}
	for _, err := range []error{granted, left, err} {
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("got %v", err)
		}
	}
	if _, err := client.LeaseLeases(t.Context(), &etcdserverpb.LeaseLeasesRequest{}); err != nil {
		t.Error(fmt.Errorf("list: %w", err))
	}
}

// scripted answers proposals with these results.
type scripted struct {
	*fakeZone
	results [][]byte
}

func (z *scripted) ProposeOnce(context.Context, nexusraft.RequestID, []byte) (nexusraft.Result, error) {
	data := z.results[0]
	z.results = z.results[1:]
	return nexusraft.Result{Data: data, Index: applied}, nil
}

// A lease with very many keys that somebody else has removed in the end is revoked.
func TestRevokeThatAnotherEnds(t *testing.T) {
	more, err := proto.Marshal(&etcdserverpb.LeaseRevokeResponse{Header: header(4)})
	if err != nil {
		t.Fatal(err)
	}
	const keysLeft, notFound = 17, 6
	z := &scripted{newZone(), [][]byte{append([]byte{keysLeft}, more...), {notFound}, {notFound}}}
	l := etcdserverpb.NewLeaseClient(serveMore(t, fakeZones{nexusraft.RootZone: z}, fakeNode{},
		func(keys *KV, s *grpc.Server) { NewLeases(keys, nil).Register(s) }))
	resp, err := l.LeaseRevoke(t.Context(), &etcdserverpb.LeaseRevokeRequest{ID: 7})
	if err != nil || resp.Header.Revision != 4 {
		t.Errorf("got %v, %v", resp, err)
	}
	if _, err := l.LeaseRevoke(t.Context(), &etcdserverpb.LeaseRevokeRequest{ID: 7}); status.Code(err) != codes.NotFound {
		t.Errorf("again: got %v", err)
	}
}

// A revoke holds room for the deletes of many keys if there may be that many.
func TestRevokeHoldsItsEffects(t *testing.T) {
	l := newLeases(t)
	zones := fakeZones{nexusraft.RootZone: l.lessor.zone}
	s := NewLeases(NewKV(zones, func() Identity { return Identity{} }, Config{}), nil)
	if _, err := l.LeaseGrant(t.Context(), &etcdserverpb.LeaseGrantRequest{ID: 7, TTL: 60}); err != nil {
		t.Fatal(err)
	}
	for keys, want := range []int64{0, 0, budget.DeleteRangeBytes, budget.DeleteRangeBytes} {
		if got := s.reservationOfRevoke(t.Context(), 7); got != (reservation{effects: want}) {
			t.Errorf("%d keys: got %+v, want %d B of effects", keys, got, want)
		}
		put := &etcdserverpb.PutRequest{Key: fmt.Append(nil, keys), Lease: 7}
		if _, err := l.keys.Put(t.Context(), put); err != nil {
			t.Fatal(err)
		}
	}
	l.lessor.zone.fail(nexusraft.ErrOverloaded)
	if got := s.reservationOfRevoke(t.Context(), 7); got.effects != budget.DeleteRangeBytes {
		t.Errorf("not known: got %+v", got)
	}
}
