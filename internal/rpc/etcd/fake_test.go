package etcd

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/events"
	"github.com/nexi-lab/nexus-raft/internal/feed"
	"github.com/nexi-lab/nexus-raft/kv"
)

// state is a zone's state in a map.
type state map[string][]byte

func (s state) Get(key []byte) ([]byte, bool, error) {
	v, ok := s[string(key)]
	return v, ok, nil
}

func (s state) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		for _, k := range slices.Sorted(maps.Keys(s)) {
			in := k >= string(start) && (end == nil || k < string(end))
			if in && !yield(nexusraft.Pair{Key: []byte(k), Value: s[k]}, nil) {
				return
			}
		}
	}
}

func (s state) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		for _, k := range slices.Backward(slices.Sorted(maps.Keys(s))) {
			in := k >= string(start) && (end == nil || k < string(end))
			if in && !yield(nexusraft.Pair{Key: []byte(k), Value: s[k]}, nil) {
				return
			}
		}
	}
}

func (s state) Set(key, value []byte) error {
	s[string(key)] = slices.Clone(value)
	return nil
}

func (s state) Delete(key []byte) error {
	delete(s, string(key))
	return nil
}

func (s state) DeleteRange(start, end []byte) error {
	maps.DeleteFunc(s, func(k string, _ []byte) bool { return k >= string(start) && (end == nil || k < string(end)) })
	return nil
}

// applied is the index of everything that a fakeZone applies.
const applied nexusraft.Index = 9

// fakeZone is one replica that commits at once. Err, if set, is what every call comes to.
type fakeZone struct {
	mu           sync.Mutex
	state        state
	seen         func(nexusraft.Reader) nexusraft.Reader // what reads are given, if it is set
	err          error
	readErr      error // what a linearizable read comes to, if it is set
	beforeReadAt func()
	result       int    // bytes of the last one
	version      uint32 // of the state machine
	data         []byte // instead of what the state machine answers
	proposals    int
	request      nexusraft.RequestID // of the last proposal
	reads        int
	local        int
	lastTimeout  time.Duration
	leaderless   atomic.Bool
	bell         events.Notifier
	denied       error
}

// Publish implements nexusraft.Tx: nobody looks at events here.
func (state) Publish(string, string, []byte) error { return nil }

// Note implements nexusraft.Tx.
func (state) Note(any) {}

func newZone() *fakeZone { return &fakeZone{state: make(state), version: kv.VersionHistory} }

func (z *fakeZone) note(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	z.lastTimeout = time.Until(deadline)
	return z.err
}

func (z *fakeZone) ProposeOnce(
	ctx context.Context, id nexusraft.RequestID, command []byte,
) (nexusraft.Result, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.proposals++
	z.request = id
	if err := z.note(ctx); err != nil {
		return nexusraft.Result{}, err
	}
	data, err := kv.StateMachine{}.Apply(z.state, nexusraft.Command{Data: command, Version: z.version})
	z.bell.Notify()
	if z.data != nil {
		data = z.data
	}
	z.result = len(data)
	return nexusraft.Result{Data: data, Index: applied, Copies: 2}, err
}

// fail sets what every call comes to.
func (z *fakeZone) fail(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.err = err
}

// failReads sets what every linearizable read comes to.
func (z *fakeZone) failReads(err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.readErr = err
}

func (z *fakeZone) Read(ctx context.Context, fn func(nexusraft.Reader) error) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.reads++
	if err := z.note(ctx); err != nil {
		return err
	}
	if z.readErr != nil {
		return z.readErr
	}
	return fn(z.reader())
}

func (z *fakeZone) ReadAt(ctx context.Context, index nexusraft.Index, fn func(nexusraft.Reader) error) error {
	if index != applied {
		return fmt.Errorf("a read at index %d, where nothing was applied", index)
	}
	if z.beforeReadAt != nil {
		z.beforeReadAt()
	}
	return z.ReadLocal(ctx, fn)
}

func (z *fakeZone) ReadLocal(ctx context.Context, fn func(nexusraft.Reader) error) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.local++
	if err := z.note(ctx); err != nil {
		return err
	}
	if err := z.permits(ctx); err != nil {
		return err
	}
	return fn(z.reader())
}

// permits lets through what the node does for itself.
func (z *fakeZone) permits(ctx context.Context) error {
	if ctx == context.Background() {
		return nil
	}
	return z.denied
}

// Applied implements feed.Zone.
func (z *fakeZone) Applied() (<-chan struct{}, error) { return z.bell.Wait(), nil }

// Permits implements feed.Zone.
func (z *fakeZone) Permits(ctx context.Context) error {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.permits(ctx)
}

func (z *fakeZone) reader() nexusraft.Reader {
	if z.seen != nil {
		return z.seen(z.state)
	}
	return z.state
}

func (z *fakeZone) HasLeader() bool { return !z.leaderless.Load() }

func (z *fakeZone) Term() nexusraft.Term { return 7 }

type fakeZones map[nexusraft.ZoneID]Zone

func (f fakeZones) Zone(id nexusraft.ZoneID) (Zone, error) {
	if z, ok := f[id]; ok {
		return z, nil
	}
	return nil, nexusraft.ErrZoneNotFound
}

// fakeNode says of itself what it is told.
type fakeNode struct {
	status    nexusraft.NodeStatus
	room      error
	encrypted bool
}

func (n fakeNode) Status(context.Context) (nexusraft.NodeStatus, error) { return n.status, nil }

func (n fakeNode) Encrypted() bool { return n.encrypted }

func (n fakeNode) Room() error { return n.room }

// serve runs the services on a loopback socket and returns a connection to them.
func serve(t *testing.T, zones Zones) *grpc.ClientConn {
	t.Helper()
	return serveNode(t, zones, fakeNode{})
}

func serveNode(t *testing.T, zones Zones, node Node) *grpc.ClientConn {
	t.Helper()
	return serveConfig(t, zones, node, Config{})
}

// serveMore is serveNode with more services.
func serveMore(t *testing.T, zones Zones, node Node, more func(*KV, *grpc.Server)) *grpc.ClientConn {
	t.Helper()
	return serveAll(t, zones, node, Config{}, more)
}

// feedsOf are those of fake zones, in which one revision may have 2 MiB for a watch.
func feedsOf(zones Zones) *feed.Feeds {
	f := feed.New(func(id nexusraft.ZoneID) (feed.Zone, error) {
		z, err := zones.Zone(id)
		if err != nil {
			return nil, err
		}
		return z.(feed.Zone), nil
	})
	f.MaxRevisionBytes = 2 << 20
	return f
}

func serveConfig(t testing.TB, zones Zones, node Node, c Config) *grpc.ClientConn {
	t.Helper()
	return serveAll(t, zones, node, c, func(*KV, *grpc.Server) {})
}

func serveAll(
	t testing.TB, zones Zones, node Node, c Config, more func(*KV, *grpc.Server),
) *grpc.ClientConn {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(append([]grpc.ServerOption{grpc.MaxSendMsgSize(1 << 20)}, Options()...)...)
	r := heedful{s, zones}
	keys := NewKV(zones, func() Identity { return Identity{Cluster: 0xC1, Node: 0xD1} }, c)
	keys.Register(r)
	NewKeys(zones, keys).Register(r)
	NewWatches(keys, feedsOf(zones)).Register(r)
	NewOperator(keys, node).Register(r)
	more(keys, s)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		s.Stop()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return conn
}

func dialKV(t *testing.T, z *fakeZone) etcdserverpb.KVClient {
	t.Helper()
	return etcdserverpb.NewKVClient(serve(t, fakeZones{nexusraft.RootZone: z}))
}

// stream is a call that is handled without a server.
type stream struct{ grpc.ServerTransportStream }

func (stream) SetHeader(metadata.MD) error { return nil }

// handling returns the context of such a call.
func handling(ctx context.Context) context.Context {
	return grpc.NewContextWithServerTransportStream(ctx, stream{})
}
