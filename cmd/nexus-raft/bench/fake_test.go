package bench

import (
	"context"
	"net"
	"sync"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// fakeKV is a key-value service in a map.
type fakeKV struct {
	etcdserverpb.UnimplementedKVServer

	// before, if set, is called with each request before it is run, by any number of
	// goroutines; a put that it returns an error for does not happen.
	before func(ctx context.Context, key string, put bool) error

	mu    sync.Mutex
	state map[string]string
	puts  int
	zones map[string]int // requests by the zone they named
}

func (f *fakeKV) note(ctx context.Context, key []byte, put bool) error {
	zone := ""
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("nexus-zone")) == 1 {
		zone = md.Get("nexus-zone")[0]
	}
	f.mu.Lock()
	f.zones[zone]++
	if put {
		f.puts++
	}
	f.mu.Unlock()
	if f.before == nil {
		return nil
	}
	return f.before(ctx, string(key), put)
}

func (f *fakeKV) Range(ctx context.Context, req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	if err := f.note(ctx, req.Key, false); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	resp := &etcdserverpb.RangeResponse{}
	if v, ok := f.state[string(req.Key)]; ok {
		resp.Kvs = []*mvccpb.KeyValue{{Key: req.Key, Value: []byte(v)}}
	}
	return resp, nil
}

func (f *fakeKV) Put(ctx context.Context, req *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if err := f.note(ctx, req.Key, true); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state[string(req.Key)] = string(req.Value)
	return &etcdserverpb.PutResponse{}, nil
}

// serve runs a fake on loopback.
func serve(
	t *testing.T, before func(ctx context.Context, key string, put bool) error,
) (endpoint string, f *fakeKV, stop func()) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f = &fakeKV{before: before, state: make(map[string]string), zones: make(map[string]int)}
	s := grpc.NewServer()
	etcdserverpb.RegisterKVServer(s, f)
	done := make(chan error, 1)
	go func() { done <- s.Serve(lis) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			s.Stop()
			if err := <-done; err != nil {
				t.Errorf("serve: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return lis.Addr().String(), f, stop
}

// nobody returns an endpoint at which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}
