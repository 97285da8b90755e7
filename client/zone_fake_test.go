package client

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// fakeZone is a zone that several nodes serve: as much of it as watches, leases, locks and elections need. A lease
// ends when a test says so.
type fakeZone struct {
	mu        sync.Mutex // guards what follows
	pairs     map[string]*mvccpb.KeyValue
	events    []*mvccpb.Event // of all revisions from 2 on
	revision  int64
	compacted int64
	leases    map[int64]int64 // TTLs
	bell      chan struct{}   // closed when something changes
}

func newFakeZone() *fakeZone {
	return &fakeZone{
		pairs: make(map[string]*mvccpb.KeyValue), leases: make(map[int64]int64), revision: 1, bell: make(chan struct{}),
	}
}

func (z *fakeZone) header() *etcdserverpb.ResponseHeader {
	return &etcdserverpb.ResponseHeader{Revision: z.revision}
}

func (z *fakeZone) ring() {
	close(z.bell)
	z.bell = make(chan struct{})
}

func (z *fakeZone) set(req *etcdserverpb.PutRequest) {
	z.revision++
	kv := &mvccpb.KeyValue{
		Key: req.Key, Value: req.Value, CreateRevision: z.revision, ModRevision: z.revision, Version: 1, Lease: req.Lease,
	}
	old := z.pairs[string(req.Key)]
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
	}
	z.pairs[string(req.Key)] = kv
	z.events = append(z.events, &mvccpb.Event{Type: mvccpb.Event_PUT, Kv: kv, PrevKv: old})
	z.ring()
}

// remove deletes the keys that a function names, as one revision.
func (z *fakeZone) remove(which func(*mvccpb.KeyValue) bool) (deleted int64) {
	for _, kv := range z.sorted(func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) }) {
		if which(kv) {
			deleted++
			delete(z.pairs, string(kv.Key))
			gone := &mvccpb.KeyValue{Key: kv.Key, ModRevision: z.revision + 1}
			z.events = append(z.events, &mvccpb.Event{Type: mvccpb.Event_DELETE, Kv: gone, PrevKv: kv})
		}
	}
	if deleted > 0 {
		z.revision++
		z.ring()
	}
	return deleted
}

func (z *fakeZone) sorted(by func(a, b *mvccpb.KeyValue) int) (kvs []*mvccpb.KeyValue) {
	for _, kv := range z.pairs {
		kvs = append(kvs, kv)
	}
	slices.SortFunc(kvs, by)
	return kvs
}

// put, delete, compact and expire do what a test wants.
func (z *fakeZone) put(key, value string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.set(&etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)})
}

func (z *fakeZone) delete(key string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.remove(func(kv *mvccpb.KeyValue) bool { return string(kv.Key) == key })
}

func (z *fakeZone) compact() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.compacted = z.revision
}

func (z *fakeZone) expire(id LeaseID) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	_, there := z.leases[int64(id)]
	delete(z.leases, int64(id))
	z.remove(func(kv *mvccpb.KeyValue) bool { return kv.Lease == int64(id) })
	z.ring()
	return there
}

func (z *fakeZone) expireAll() int {
	z.mu.Lock()
	ids := slices.Collect(maps.Keys(z.leases))
	z.mu.Unlock()
	for _, id := range ids {
		z.expire(LeaseID(id))
	}
	return len(ids)
}

func inRange(key, start, end []byte) bool {
	if len(end) == 0 {
		return bytes.Equal(key, start)
	}
	return bytes.Compare(key, start) >= 0 && (bytes.Equal(end, []byte{0}) || bytes.Compare(key, end) < 0)
}

// zoneNode is one node that serves a fakeZone.
type zoneNode struct {
	etcdserverpb.UnimplementedKVServer
	etcdserverpb.UnimplementedWatchServer
	etcdserverpb.UnimplementedLeaseServer

	*fakeZone
	address string
	server  *grpc.Server

	// before, if set, is called with the name of each call and may fail it; after, likewise once it is done.
	before, after func(call string) error
	watching      func(etcdserverpb.Watch_WatchServer) error // instead of the zone's watches
}

// serves starts a node of the zone; setup is called before anything can arrive.
func (z *fakeZone) serves(t *testing.T, setup func(*zoneNode)) *zoneNode {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &zoneNode{fakeZone: z, address: l.Addr().String(), server: grpc.NewServer()}
	if setup != nil {
		setup(n)
	}
	etcdserverpb.RegisterKVServer(n.server, n)
	etcdserverpb.RegisterWatchServer(n.server, n)
	etcdserverpb.RegisterLeaseServer(n.server, n)
	serve(t, n.server, l)
	return n
}

// call runs one call with the zone locked.
func call[R any](n *zoneNode, name string, do func() (*R, error)) (*R, error) {
	if n.before != nil {
		if err := n.before(name); err != nil {
			return nil, err
		}
	}
	n.mu.Lock()
	r, err := do()
	n.mu.Unlock()
	if err == nil && n.after != nil {
		err = n.after(name)
	}
	return r, err
}

func (n *zoneNode) Range(_ context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	return call(n, "range", func() (*etcdserverpb.RangeResponse, error) { return n.rangeOf(req), nil })
}

func (z *fakeZone) rangeOf(req *etcdserverpb.RangeRequest) *etcdserverpb.RangeResponse {
	resp := &etcdserverpb.RangeResponse{Header: z.header()}
	sign := 1
	if req.SortOrder == etcdserverpb.RangeRequest_DESCEND {
		sign = -1
	}
	by := func(a, b *mvccpb.KeyValue) int { return sign * cmp.Compare(a.CreateRevision, b.CreateRevision) }
	for _, kv := range z.sorted(by) {
		if inRange(kv.Key, req.Key, req.RangeEnd) &&
			(req.MaxCreateRevision == 0 || kv.CreateRevision <= req.MaxCreateRevision) {
			resp.Kvs = append(resp.Kvs, kv)
		}
	}
	if req.Limit > 0 && int64(len(resp.Kvs)) > req.Limit {
		resp.Kvs, resp.More = resp.Kvs[:req.Limit], true
	}
	return resp
}

func (n *zoneNode) Put(_ context.Context, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	return call(n, "put", func() (*etcdserverpb.PutResponse, error) {
		if _, ok := n.leases[req.Lease]; req.Lease != 0 && !ok {
			return nil, rpctypes.ErrGRPCLeaseNotFound
		}
		n.set(req)
		return &etcdserverpb.PutResponse{Header: n.header()}, nil
	})
}

func (n *zoneNode) Txn(_ context.Context, req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	return call(n, "txn", func() (*etcdserverpb.TxnResponse, error) {
		ran, resp := req.Success, &etcdserverpb.TxnResponse{Succeeded: true}
		for _, c := range req.Compare {
			kv := n.pairs[string(c.Key)]
			holds := kv.GetVersion() == c.GetVersion()
			if c.Target == etcdserverpb.Compare_CREATE {
				holds = kv.GetCreateRevision() == c.GetCreateRevision()
			}
			if !holds {
				ran, resp.Succeeded = req.Failure, false
			}
		}
		for _, o := range ran {
			if put := o.GetRequestPut(); put != nil {
				if _, ok := n.leases[put.Lease]; put.Lease != 0 && !ok {
					return nil, rpctypes.ErrGRPCLeaseNotFound
				}
				n.set(put)
				resp.Responses = append(resp.Responses, answerPut(&etcdserverpb.PutResponse{}))
			} else {
				resp.Responses = append(resp.Responses, answerRange(n.rangeOf(o.GetRequestRange())))
			}
		}
		resp.Header = n.header()
		return resp, nil
	})
}

func (n *zoneNode) LeaseGrant(
	_ context.Context, req *etcdserverpb.LeaseGrantRequest,
) (*etcdserverpb.LeaseGrantResponse, error) {
	return call(n, "grant", func() (*etcdserverpb.LeaseGrantResponse, error) {
		if _, ok := n.leases[req.ID]; ok {
			return nil, rpctypes.ErrGRPCLeaseExist
		}
		n.leases[req.ID] = req.TTL
		return &etcdserverpb.LeaseGrantResponse{ID: req.ID, TTL: req.TTL}, nil
	})
}

func (n *zoneNode) LeaseRevoke(
	_ context.Context, req *etcdserverpb.LeaseRevokeRequest,
) (*etcdserverpb.LeaseRevokeResponse, error) {
	if n.before != nil {
		if err := n.before("revoke"); err != nil {
			return nil, err
		}
	}
	if !n.expire(LeaseID(req.ID)) {
		return nil, rpctypes.ErrGRPCLeaseNotFound
	}
	if n.after != nil {
		if err := n.after("revoke"); err != nil {
			return nil, err
		}
	}
	return &etcdserverpb.LeaseRevokeResponse{}, nil
}

func (n *zoneNode) LeaseKeepAlive(s etcdserverpb.Lease_LeaseKeepAliveServer) error {
	for {
		req, err := s.Recv()
		if err != nil {
			return nil
		}
		resp, err := call(n, "renew", func() (*etcdserverpb.LeaseKeepAliveResponse, error) {
			return &etcdserverpb.LeaseKeepAliveResponse{ID: req.ID, TTL: n.leases[req.ID]}, nil
		})
		if err != nil {
			return err
		}
		if err := s.Send(resp); err != nil {
			return err
		}
	}
}

func (n *zoneNode) LeaseTimeToLive(
	_ context.Context, req *etcdserverpb.LeaseTimeToLiveRequest,
) (*etcdserverpb.LeaseTimeToLiveResponse, error) {
	return call(n, "ttl", func() (*etcdserverpb.LeaseTimeToLiveResponse, error) {
		ttl, ok := n.leases[req.ID]
		if !ok {
			return &etcdserverpb.LeaseTimeToLiveResponse{ID: req.ID, TTL: -1}, nil
		}
		resp := &etcdserverpb.LeaseTimeToLiveResponse{ID: req.ID, TTL: ttl - 1, GrantedTTL: ttl}
		for _, kv := range n.sorted(func(a, b *mvccpb.KeyValue) int { return bytes.Compare(a.Key, b.Key) }) {
			if req.Keys && kv.Lease == req.ID {
				resp.Keys = append(resp.Keys, kv.Key)
			}
		}
		return resp, nil
	})
}

func (n *zoneNode) LeaseLeases(
	context.Context, *etcdserverpb.LeaseLeasesRequest,
) (*etcdserverpb.LeaseLeasesResponse, error) {
	return call(n, "leases", func() (*etcdserverpb.LeaseLeasesResponse, error) {
		resp := &etcdserverpb.LeaseLeasesResponse{}
		for id := range n.leases {
			resp.Leases = append(resp.Leases, &etcdserverpb.LeaseStatus{ID: id})
		}
		return resp, nil
	})
}

// Watch serves one watch, one answer for each revision; breaks, if before fails "watch" or an answer.
func (n *zoneNode) Watch(s etcdserverpb.Watch_WatchServer) error {
	if n.watching != nil {
		return n.watching(s)
	}
	req, err := s.Recv()
	if err != nil {
		return err
	}
	create := req.GetCreateRequest()
	n.mu.Lock()
	next := create.StartRevision
	if next == 0 {
		next = n.revision + 1
	}
	created := &etcdserverpb.WatchResponse{Header: n.header(), Created: true}
	compacted := n.compacted
	n.mu.Unlock()
	if err := n.answers(s, created); err != nil {
		return err
	}
	if next < compacted {
		return n.answers(s, &etcdserverpb.WatchResponse{Canceled: true, CompactRevision: compacted})
	}
	for {
		n.mu.Lock()
		bell := n.bell
		resp := &etcdserverpb.WatchResponse{Header: n.header()}
		for _, e := range n.events {
			mod := e.Kv.ModRevision
			wanted := mod >= next && inRange(e.Kv.Key, create.Key, create.RangeEnd) &&
				!slices.Contains(create.Filters, etcdserverpb.WatchCreateRequest_FilterType(e.Type))
			if wanted && (len(resp.Events) == 0 || resp.Events[0].Kv.ModRevision == mod) {
				if !create.PrevKv {
					e = &mvccpb.Event{Type: e.Type, Kv: e.Kv}
				}
				resp.Events = append(resp.Events, e)
			}
		}
		newest := n.revision
		n.mu.Unlock()
		if len(resp.Events) > 0 {
			next = resp.Events[0].Kv.ModRevision + 1
			if err := n.answers(s, resp); err != nil {
				return err
			}
			continue
		}
		next = max(next, newest+1)
		select {
		case <-bell:
		case <-s.Context().Done():
			return nil
		}
	}
}

func (n *zoneNode) answers(s etcdserverpb.Watch_WatchServer, resp *etcdserverpb.WatchResponse) error {
	if n.before != nil {
		if err := n.before("watch"); err != nil {
			return err
		}
	}
	return s.Send(resp)
}

// cut is how a stream or a call ends whose node stops.
func cut() error { return status.Error(codes.Unavailable, "cut") }
