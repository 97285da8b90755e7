//go:build !race

// The race detector needs more memory than these programs may have, and takes its time.

package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/client"
)

// newLimitedPlainTrio is a cluster without TLS, each of whose programs may have little memory and
// few descriptors.
func newLimitedPlainTrio(t *testing.T) *trio {
	t.Helper()
	c := &trio{dir: t.TempDir(), a1: freeAddress(t), a2: freeAddress(t), aw: freeAddress(t)}
	if status, _, stderr := command(t, "init", "--data-dir", c.data("n1"), "--name", "n1", "--listen",
		c.a1); status != exitOK {
		t.Fatalf("init: status %d, %s", status, stderr)
	}
	c.n1 = limited(t, memberMiB, descriptors, "serve", "--data-dir", c.data("n1"), "--listen", c.a1)
	c.n2 = limited(t, memberMiB, descriptors, "serve", "--data-dir", c.data("n2"), "--name", "n2", "--listen", c.a2,
		"--join", c.a1)
	c.w1 = limited(t, witnessMiB, descriptors, "witness", "--data-dir", c.data("w1"), "--name", "w1", "--listen", c.aw,
		"--join", c.a1)
	c.awaitSync(t)
	heedLimits(t, c)
	return c
}

// insider is a client that may call, and how it connects: without TLS, or with a certificate or a
// token.
type insider struct {
	addr string
	from string // an address of the loopback network
	tls  *tls.Config
	show string // an access token
}

// dial connects anew, as one more client. With stalled it reads nothing once that is set.
func (i insider) dial(t *testing.T, stalled *atomic.Bool) *grpc.ClientConn {
	t.Helper()
	secure := insecure.NewCredentials()
	if i.tls != nil {
		secure = credentials.NewTLS(i.tls)
	}
	conn, err := grpc.NewClient("passthrough:///"+i.addr, grpc.WithTransportCredentials(secure),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(1<<20),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(i.from)}}).DialContext(ctx, "tcp", addr)
			if err != nil || stalled == nil {
				return conn, err
			}
			return deafConn{conn, stalled, new(sync.Once), make(chan struct{})}, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// context is one for a call, which shows the token, if there is any.
func (i insider) context(ctx context.Context) context.Context {
	if i.show == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+i.show)
}

// deafConn reads nothing more once it is stalled.
type deafConn struct {
	net.Conn

	stalled *atomic.Bool
	once    *sync.Once
	closed  chan struct{}
}

// Read implements net.Conn.
func (c deafConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.stalled.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

// Close implements net.Conn.
func (c deafConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// Pairs with values that are as large as they may be, 30 MB in all, and many small ones.
const (
	largePairs = 20
	largeBytes = 1500 << 10
)

// smallPairs is how many make a count costly; a tenth of them do where not all attacks are played.
func smallPairs() int {
	if allAttacks {
		return 10_000
	}
	return 1000
}

func largeKey(i int) []byte { return fmt.Appendf(nil, "large/%02d", i%largePairs) }

var (
	allLarge = &etcdserverpb.RangeRequest{Key: []byte("large/"), RangeEnd: []byte("large0")}
	allSmall = &etcdserverpb.DeleteRangeRequest{Key: []byte("small/"), RangeEnd: []byte("small0"), PrevKv: true}
)

func fill(t *testing.T, by insider) {
	t.Helper()
	c := etcdserverpb.NewKVClient(by.dial(t, nil))
	put := func(key []byte, bytes int) {
		request := &etcdserverpb.PutRequest{Key: key, Value: make([]byte, bytes)}
		for deadline := time.Now().Add(time.Minute); ; {
			_, err := c.Put(by.context(t.Context()), request)
			switch code := status.Code(err); {
			case err == nil:
				return
			case code != codes.Unavailable && code != codes.Unknown || time.Now().After(deadline):
				t.Error(err)
				return
			}
			time.Sleep(10 * time.Millisecond) // another leader is elected
		}
	}
	for i := range largePairs {
		put(largeKey(i), largeBytes)
	}
	each(smallPairs(), func(i int) { put(fmt.Appendf(nil, "small/%05d", i), 10) })
}

// tally is how calls ended.
type tally struct {
	mu      sync.Mutex // guards what follows
	ended   map[codes.Code]int
	noRetry int // refused for too much at once, without a word how long to wait
}

func (y *tally) add(err error) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.ended == nil {
		y.ended = make(map[codes.Code]int)
	}
	s := status.Convert(err)
	y.ended[s.Code()]++
	waits := slices.ContainsFunc(s.Details(), func(d any) bool { _, ok := d.(*errdetails.RetryInfo); return ok })
	if s.Code() == codes.ResourceExhausted && !waits {
		y.noRetry++
	}
}

// want fails the test if calls ended in any other way.
func (y *tally) want(t *testing.T, ways ...codes.Code) {
	t.Helper()
	y.mu.Lock()
	defer y.mu.Unlock()
	t.Logf("ended: %v", y.ended)
	for c := range maps.Keys(y.ended) {
		if !slices.Contains(ways, c) {
			t.Errorf("%d calls ended with %v, want %v only", y.ended[c], c, ways)
		}
	}
	if y.noRetry > 0 {
		t.Errorf("%d calls were told that there is too much, and not how long to wait", y.noRetry)
	}
}

// calls makes so many calls, some at a time, from four connections, and gives each up after a
// while.
func (i insider) calls(
	t *testing.T, atATime, count int, limit time.Duration, call func(context.Context, etcdserverpb.KVClient, int) error,
) *tally {
	t.Helper()
	var y tally
	var next atomic.Int64
	var all sync.WaitGroup
	var clients []etcdserverpb.KVClient
	for range 4 {
		clients = append(clients, etcdserverpb.NewKVClient(i.dial(t, nil)))
	}
	for range atATime {
		all.Go(func() {
			for n := int(next.Add(1) - 1); n < count; n = int(next.Add(1) - 1) {
				ctx, cancel := context.WithTimeout(i.context(t.Context()), limit)
				y.add(call(ctx, clients[n%len(clients)], n))
				cancel()
			}
		})
	}
	all.Wait()
	return &y
}

// An insider's attack is what one that may call does to a member, for a second or two.
type insiderAttack struct {
	name string
	do   func(t *testing.T, by insider)
}

// patient is how long a caller waits that wants to see what it is told.
const patient = time.Minute

var readersAttacks = []insiderAttack{
	{"twenty reads of 30 MB at once", func(t *testing.T, by insider) {
		y := by.calls(t, 20, 20, patient, func(ctx context.Context, c etcdserverpb.KVClient, _ int) error {
			_, err := c.Range(ctx, allLarge)
			return err
		})
		y.want(t, codes.OK, codes.ResourceExhausted)
		if y.ended[codes.OK] == 0 {
			t.Error("nobody was answered")
		}
	}},
	{"counts of all keys, hundreds at a time", func(t *testing.T, by insider) {
		y := by.calls(t, 300, 600, patient, func(ctx context.Context, c etcdserverpb.KVClient, _ int) error {
			_, err := c.Range(ctx, &etcdserverpb.RangeRequest{
				Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true,
				Serializable: true,
			})
			return err
		})
		y.want(t, codes.OK, codes.ResourceExhausted)
	}},
	{"readers that take nothing", func(t *testing.T, by insider) {
		var stalled atomic.Bool
		var all sync.WaitGroup
		var clients []etcdserverpb.KVClient
		for range 20 {
			c := etcdserverpb.NewKVClient(by.dial(t, &stalled))
			if _, err := c.Range(by.context(t.Context()), &etcdserverpb.RangeRequest{Key: []byte("k")}); err != nil {
				t.Error(err)
			}
			clients = append(clients, c)
		}
		stalled.Store(true)
		// some are refused meanwhile, which takes 5 s
		ctx, cancel := context.WithTimeout(by.context(t.Context()), 7*time.Second)
		defer cancel()
		for _, c := range clients {
			all.Go(func() { _, _ = c.Range(ctx, allLarge) })
		}
		all.Wait()
	}},
	{"subscriptions", func(t *testing.T, by insider) {
		var y tally
		ctx, cancel := context.WithTimeout(by.context(t.Context()), 2*time.Second)
		defer cancel()
		c := pb.NewEventStreamClient(by.dial(t, nil))
		each(1500, func(int) {
			stream, err := c.Subscribe(ctx, &pb.SubscribeRequest{Zone: 1})
			if err == nil {
				_, err = stream.Recv()
			}
			if ctx.Err() == nil {
				y.add(err)
			}
		})
		y.want(t, codes.OK, codes.ResourceExhausted)
	}},
	{"unfinished requests", func(t *testing.T, by insider) { // of 7 MiB each
		each(8, func(int) {
			a := attackWith(t, by.addr, by.from, by.tls)
			for n := 0; a != nil && n < 100; n++ {
				if stream, ok := a.open("/etcdserverpb.KV/Put"); !ok || !a.begin(stream, 7<<20, 48<<10) {
					return
				}
			}
		})
	}},
}

var writersAttacks = []insiderAttack{
	{"previous values of many writers", func(t *testing.T, by insider) {
		writers := 40 // 300 MiB, were they not bounded
		if allAttacks {
			writers = 100
		}
		y := by.calls(t, writers, writers, patient, func(ctx context.Context, c etcdserverpb.KVClient, i int) error {
			_, err := c.Put(ctx, &etcdserverpb.PutRequest{Key: largeKey(i), IgnoreValue: true, PrevKv: true})
			return err
		})
		y.want(t, codes.OK, codes.ResourceExhausted)
	}},
	{"previous values that nobody waits for", func(t *testing.T, by insider) {
		by.calls(t, 100, 4000, 20*time.Millisecond, func(ctx context.Context, c etcdserverpb.KVClient, i int) error {
			_, err := c.Put(ctx, &etcdserverpb.PutRequest{Key: largeKey(i), IgnoreValue: true, PrevKv: true})
			return err
		})
	}},
	{"the same values again, by a thousand writers", func(t *testing.T, by insider) {
		y := by.calls(t, 1000, 1000, patient, func(ctx context.Context, c etcdserverpb.KVClient, i int) error {
			_, err := c.Put(ctx, &etcdserverpb.PutRequest{Key: largeKey(i), IgnoreValue: true})
			return err
		})
		y.want(t, codes.OK, codes.ResourceExhausted)
	}},
	{"large events that nobody reads", func(t *testing.T, by insider) {
		writer := pb.NewEventStreamClient(by.dial(t, nil))
		first := uint64(0)
		for range 8 {
			resp, err := writer.Publish(by.context(t.Context()), &pb.PublishRequest{
				Zone: 1, Topic: "app/large", Type: "said",
				Payload: make([]byte, 1<<20),
			})
			if err != nil {
				t.Fatal(err)
			}
			first = cmp.Or(first, resp.GetSequence())
		}
		var stalled atomic.Bool
		var all sync.WaitGroup
		ctx, cancel := context.WithTimeout(by.context(t.Context()), 2*time.Second)
		defer cancel()
		for range 8 {
			c := pb.NewEventStreamClient(by.dial(t, &stalled))
			for range 60 {
				all.Go(func() {
					if stream, err := c.Subscribe(ctx, &pb.SubscribeRequest{Zone: 1, FromSequence: first}); err == nil {
						_, _ = stream.Recv()
						stalled.Store(true)
						<-ctx.Done()
					}
				})
			}
		}
		all.Wait()
	}},
	{"deletes of large ranges", func(t *testing.T, by insider) {
		y := by.calls(t, 100, 100, patient, func(ctx context.Context, c etcdserverpb.KVClient, i int) error {
			if i%2 == 0 {
				_, err := c.DeleteRange(ctx, allSmall)
				return err
			}
			_, err := c.DeleteRange(ctx, &etcdserverpb.DeleteRangeRequest{
				Key: allLarge.Key, RangeEnd: allLarge.RangeEnd,
				PrevKv: true,
			})
			if status.Code(err) == codes.InvalidArgument { // more than an answer may have
				return nil
			}
			return err
		})
		y.want(t, codes.OK, codes.ResourceExhausted)
	}},
}

// underAttack attacks a member again and again. It lives and serves others meanwhile, and gives
// back the memory afterwards.
func underAttack(t *testing.T, c *trio, honest *client.Client, by insider, attacks ...insiderAttack) {
	t.Helper()
	quiet := slowestOf(t, honest, 100, nil)
	before := map[*process]int{c.n1: memory(t, c.n1), c.n2: memory(t, c.n2)}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				a.do(t, by)
			}()
			defer func() { <-done }()
			if _, _, err := honest.Get(t.Context(), largeKey(0)); err != nil {
				t.Errorf("a large read of somebody else: %v", err)
			}
			compare(t, quiet, slowestOf(t, honest, 100, done))
			t.Logf("memory of the members %d and %d KiB", memory(t, c.n1), memory(t, c.n2))
		})
	}
	// Work goes on: a program that has nothing to do collects its garbage after two minutes. The store
	// may have as much as its cache.
	reads := etcdserverpb.NewKVClient(by.dial(t, nil))
	eventually(t, "the members have given back the memory", func() bool {
		for i := range largePairs {
			if _, err := reads.Range(by.context(t.Context()), &etcdserverpb.RangeRequest{Key: largeKey(i)}); err != nil {
				t.Fatal(err)
			}
		}
		return memory(t, c.n1) < before[c.n1]+256<<10 && memory(t, c.n2) < before[c.n2]+256<<10
	})
}

// Members live through what callers do that may read and write, with little memory and without TLS:
// what is asked of them with a few bytes, and costs as much as what is there.
func TestWritersUnderLimits(t *testing.T) {
	t.Parallel()
	c := newLimitedPlainTrio(t)
	honest, err := client.New(client.Options{Endpoints: []string{c.a1, c.a2}})
	if err != nil {
		t.Fatal(err)
	}
	defer honest.Close()
	by := insider{addr: c.a1, from: "127.0.9.1"}
	fill(t, by)
	attacks := played(writersAttacks)
	if allAttacks { // otherwise TestReadersUnderLimits plays some of them, with TLS
		attacks = slices.Concat(readersAttacks, writersAttacks)
	}
	underAttack(t, c, honest, by, attacks...)
	c.awaitSync(t)
	c.n2.kill(t) // what is in its log gets through
	c.n2 = limited(t, memberMiB, descriptors, "serve", "--data-dir", c.data("n2"), "--listen", c.a2)
	c.awaitSync(t)
	s, err := honest.Status(t.Context(), c.a1)
	if err != nil || allAttacks && (s.Refused["effect_bytes_of_principal"] == 0 ||
		s.Refused["answer_bytes_of_principal"] == 0) {
		t.Errorf("status says that %v was refused, %v; want answers and effects of one principal", s.Refused, err)
	}
}

// readingCaller is one that may read, and what it does.
type readingCaller struct {
	name    string
	by      insider
	attacks []insiderAttack
}

// Members live through what callers do that may only read, by a token and by a certificate.
func TestReadersUnderLimits(t *testing.T) {
	t.Parallel()
	c := newLimitedTrio(t)
	proof, err := os.ReadFile(c.admin)
	if err != nil {
		t.Fatal(err)
	}
	honest, err := client.New(client.Options{Endpoints: []string{c.a1, c.a2}, Credentials: proof})
	if err != nil {
		t.Fatal(err)
	}
	defer honest.Close()
	pair, err := tls.X509KeyPair(proof, proof)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, insider{addr: c.a1, from: "127.0.9.2", tls: &tls.Config{
		InsecureSkipVerify: true,
		Certificates:       []tls.Certificate{pair},
	}})

	c.by(t, c.admin, "access", "grant", "reader", "--role", "read")
	c.by(t, c.admin, "access", "cert", "reader", "--out", c.file("reader.pem"))
	if pair, err = tls.LoadX509KeyPair(c.file("reader.pem"), c.file("reader.pem")); err != nil {
		t.Fatal(err)
	}
	token := c.by(t, c.admin, "access", "token", "reader")
	token = token[strings.Index(token, "nra1-"):]
	token = strings.Fields(token)[0]
	callers := []readingCaller{
		{"certificate", insider{addr: c.a1, from: "127.0.9.3", tls: &tls.Config{
			InsecureSkipVerify: true,
			Certificates:       []tls.Certificate{pair},
		}}, readersAttacks},
		{
			"token",
			insider{addr: c.a1, from: "127.0.9.4", tls: &tls.Config{InsecureSkipVerify: true}, show: token},
			readersAttacks[:2],
		},
	}
	if !allAttacks { // the one that shows more
		callers = []readingCaller{{"token", callers[1].by, readersAttacks[:1]}}
	}
	for _, tc := range callers {
		t.Run(tc.name, func(t *testing.T) { underAttack(t, &c.trio, honest, tc.by, tc.attacks...) })
	}
	c.awaitSync(t)
}
