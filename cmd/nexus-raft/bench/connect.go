package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// dialTimeout bounds the first request to each endpoint, the connecting included.
const dialTimeout = 5 * time.Second

// reconnect is how often a lost connection is tried: often, since a run is short.
var reconnect = backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second}

// connections are those to the endpoints that answer.
type connections []connection

type connection struct {
	conn *grpc.ClientConn
	kv   etcdserverpb.KVClient
}

func (c connections) close() {
	for _, x := range c {
		x.conn.Close()
	}
}

// of returns the service that a client asks.
func (c connections) of(client int) etcdserverpb.KVClient { return c[client%len(c)].kv }

// dial connects to all endpoints and asks each. It returns what is wrong with those that
// don't answer; an error if none does, or if one refuses.
func dial(ctx context.Context, c Config) (found connections, absent []error, err error) {
	answers := make([]answer, len(c.Endpoints))
	var all sync.WaitGroup
	for i, endpoint := range c.Endpoints {
		all.Go(func() { answers[i] = ask(ctx, c, endpoint) })
	}
	all.Wait()
	var refused []error
	for _, a := range answers {
		switch {
		case a.err == nil:
			found = append(found, a.connection)
		case answered(a.err):
			refused = append(refused, a.err)
		default:
			absent = append(absent, a.err)
		}
	}
	switch {
	case ctx.Err() != nil:
		err = errors.New("interrupted before anything was measured")
	case len(refused) > 0:
		err = fmt.Errorf("the first request was refused by %w", refused[0])
	case len(found) == 0:
		err = errors.New("no endpoint answers: " + strings.Join(texts(absent), "; "))
	}
	if err != nil {
		found.close()
		return nil, nil, err
	}
	return found, absent, nil
}

type answer struct {
	connection
	err error // names the endpoint
}

// ask connects to an endpoint and reads a key that need not exist.
func ask(ctx context.Context, c Config, endpoint string) answer {
	options := []grpc.DialOption{
		grpc.WithNoProxy(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: dialTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
	}
	conn, err := grpc.NewClient("passthrough:///"+url.PathEscape(endpoint), append(options, c.Security...)...)
	if err != nil {
		return answer{err: fmt.Errorf("%s: %w", endpoint, err)}
	}
	a := answer{connection: connection{conn, etcdserverpb.NewKVClient(conn)}}
	ctx, cancel := context.WithTimeout(inZone(ctx, c.Zone), dialTimeout)
	defer cancel()
	if _, err := a.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: key(0), KeysOnly: true}); err != nil {
		conn.Close()
		return answer{err: fmt.Errorf("%s: %w", endpoint, plain(err))}
	}
	return a
}

// rpcError is a gRPC error in fewer words.
type rpcError struct{ error }

func (e rpcError) Error() string {
	st := status.Convert(e.error)
	return fmt.Sprintf("%v: %s", st.Code(), st.Message())
}

func (e rpcError) Unwrap() error { return e.error }

// plain returns err in fewer words if it is gRPC's.
func plain(err error) error {
	if _, ok := status.FromError(err); ok {
		return rpcError{err}
	}
	return err
}

// answered reports whether an error is a service's considered answer, rather than a lack
// of one.
func answered(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return false
	}
	return true
}

// inZone names the zone in the metadata of requests; etcd ignores it.
func inZone(ctx context.Context, zone string) context.Context {
	if zone == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "nexus-zone", zone)
}
