package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// prefix is what all keys begin with.
const prefix = "bench/"

// pause is how long a client waits after an error. It is part of no latency.
const pause = 20 * time.Millisecond

// errMissing: a key that had been written before the measurement was not found.
var errMissing = errors.New("key not found")

func key(i int) []byte { return fmt.Appendf(nil, "%s%010d", prefix, i) }

// fill writes the keys 0 to n-1, with all clients, until one is refused. No write is
// repeated.
func fill(ctx context.Context, c Config, conns connections, n int) error {
	var next atomic.Int64
	return parallel(ctx, min(c.Clients, n), func(ctx context.Context, client int) error {
		x := newClient(c, conns, client)
		for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
			if _, err := x.put(ctx, i); err != nil {
				return plain(err)
			}
		}
		return nil
	})
}

// parallel runs n of fn and returns one error if there are any; at the first the others'
// context ends.
func parallel(ctx context.Context, n int, fn func(ctx context.Context, client int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			if err := fn(ctx, i); err != nil {
				cancel(err)
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// client is one that asks and waits. It is for one goroutine.
type client struct {
	kv     etcdserverpb.KVClient
	config Config
	random *rand.Rand
	value  []byte
	puts   uint64
}

func newClient(c Config, conns connections, number int) *client {
	x := &client{kv: conns.of(number), config: c, random: rand.New(rand.NewPCG(1, uint64(number)))}
	x.value = make([]byte, c.ValueSize)
	for i := range x.value {
		x.value[i] = byte(x.random.Uint32())
	}
	return x
}

// do makes one request of the kind that is measured, to any of the keys. Written reports
// whether a put that failed may have happened all the same.
func (x *client) do(ctx context.Context) (written bool, err error) {
	i := x.random.IntN(x.config.KeySpace)
	if x.config.Op == Get {
		return false, x.get(ctx, i)
	}
	return x.put(ctx, i)
}

// put writes a value that this client has not written before, if it has room for a number.
func (x *client) put(ctx context.Context, i int) (written bool, err error) {
	x.puts++
	if len(x.value) >= 8 {
		binary.BigEndian.PutUint64(x.value, x.puts)
	}
	ctx, cancel := x.bounded(ctx)
	defer cancel()
	var to peer.Peer // the server that it was sent to, if it was
	_, err = x.kv.Put(ctx, &etcdserverpb.PutRequest{Key: key(i), Value: x.value}, grpc.Peer(&to))
	return to.Addr != nil && !nothingWritten(err), err
}

// nothingWritten reports whether the answer to a put says for certain that it did not and
// will not happen. Unavailable does not: it is also what a connection that breaks comes to.
func nothingWritten(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.AlreadyExists, codes.PermissionDenied, codes.Unauthenticated,
		codes.ResourceExhausted, codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented:
		return true
	}
	return false
}

func (x *client) get(ctx context.Context, i int) error {
	ctx, cancel := x.bounded(ctx)
	defer cancel()
	resp, err := x.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: key(i)})
	if err == nil && len(resp.Kvs) == 0 {
		err = errMissing
	}
	return err
}

func (x *client) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(inZone(ctx, x.config.Zone), requestTimeout)
}

// load is one measurement under way.
type load struct {
	config Config
	conns  connections
	record *recorder
}

func newLoad(c Config, conns connections) *load {
	return &load{config: c, conns: conns, record: newRecorder(c.Duration)}
}

// run lets the clients ask until their time is over or ctx ends, and waits for their
// last answers.
func (l *load) run(ctx context.Context, out *progress) *Result {
	ended := make(chan struct{})
	l.record.begin()
	go func() {
		defer close(ended)
		var all sync.WaitGroup
		for i := range l.config.Clients {
			all.Go(func() { l.loop(ctx, newClient(l.config, l.conns, i)) })
		}
		all.Wait()
	}()
	out.until(ended, l.record)
	return l.record.result(l.config, ctx.Err() != nil)
}

// loop is one client's.
func (l *load) loop(ctx context.Context, x *client) {
	for ctx.Err() == nil && l.record.passed() < l.config.Duration {
		began := time.Now()
		written, err := x.do(ctx)
		switch {
		case err == nil:
			l.record.success(time.Since(began))
		case ctx.Err() != nil:
			l.record.unfinished()
		default:
			l.record.failure(err, written)
			time.Sleep(pause)
		}
	}
}
