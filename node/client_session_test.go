package node_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/client"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/node"
)

// writer is a client that writes each thing once, and counts what was acknowledged.
type writer struct {
	t     *testing.T
	name  string
	c     *client.Client
	puts  atomic.Int64 // of its counter, a key whose version is how often it was put
	pairs atomic.Int64 // puts of keys that were deleted afterwards
}

// newWriter connects to the members' doors, so that its connections break when a member is cut off.
func newWriter(c *cluster, name string, members ...string) *writer {
	c.t.Helper()
	o := client.Options{ExactlyOnce: true, AttemptTimeout: time.Second}
	for _, m := range members {
		o.Endpoints = append(o.Endpoints, c.door(m).address)
	}
	opened, err := client.New(o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = opened.Close() })
	return &writer{t: c.t, name: name, c: opened}
}

// put puts the counter.
func (w *writer) put() {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	if _, err := w.c.Put(ctx, []byte(w.name), nil); err != nil {
		w.t.Error(err)
	}
	w.puts.Add(1)
}

// replace puts a key and deletes it: a put or a delete that happens late, or twice, is seen by the one that follows.
func (w *writer) replace() {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	key := []byte(w.name + "-pair")
	put, err := w.c.Put(ctx, key, nil)
	if err != nil {
		w.t.Error(err)
	}
	gone, err := w.c.Delete(ctx, key)
	if err != nil || gone.Deleted != 1 || gone.Revision <= put.Revision {
		w.t.Errorf("%s: put at revision %d, then deleted %d at %d: %v", key, put.Revision, gone.Deleted, gone.Revision, err)
	}
	w.pairs.Add(1)
}

// check compares what is there with what was acknowledged.
func (w *writer) check() {
	w.t.Helper()
	pair, _, err := w.c.Get(within(w.t), []byte(w.name))
	if err != nil || pair.Version != w.puts.Load() || pair.Version == 0 {
		w.t.Errorf("%s was put %d times, acknowledged %d: %v", w.name, pair.Version, w.puts.Load(), err)
	}
	if _, found, err := w.c.Get(within(w.t), []byte(w.name+"-pair")); err != nil || found || w.pairs.Load() == 0 {
		w.t.Errorf("%s-pair was deleted, and is there: %t, %v", w.name, found, err)
	}
	w.t.Logf("%s: %d puts, %d pairs", w.name, w.puts.Load(), w.pairs.Load())
}

// TestClientSessionsOverLeaderChanges: clients write through any member while leadership moves, members are cut off in
// the middle of calls, crash, and catch up by snapshot. Each write is acknowledged within its time, and happens once.
func TestClientSessionsOverLeaderChanges(t *testing.T) {
	c := newKVCluster(t)
	writers := []*writer{newWriter(c, "one", "n1", "n2"), newWriter(c, "two", "n2", "n1")}
	stop, stopped := make(chan struct{}), false
	var callers sync.WaitGroup
	end := func() {
		if !stopped {
			stopped = true
			close(stop)
			callers.Wait()
		}
	}
	defer end()
	for _, w := range writers {
		for range 4 { // beside one another, with numbers that end in any order
			callers.Go(func() { running(stop, w.put) })
		}
		callers.Go(func() { running(stop, w.replace) })
	}
	for range 3 {
		c.transfer(c.other(c.awaitSync()).config.Name)
		leader := c.awaitSync() // otherwise nobody else may lead
		c.isolate(leader.config.Name, broken)
		c.leader(leader)
		c.heal()
	}
	c.start(c.crash(c.awaitSync()))
	behind := c.crash(c.other(c.awaitSync()))
	for _, w := range writers { // so much that the log is compacted
		puts, pairs := w.puts.Load()+100, w.pairs.Load()+1
		eventually(t, w.name+" goes on", func() error {
			if w.puts.Load() < puts || w.pairs.Load() < pairs {
				return fmt.Errorf("%d puts, %d pairs", w.puts.Load(), w.pairs.Load())
			}
			return nil
		})
	}
	c.start(behind)
	c.awaitSync()
	c.transfer(behind.Name)
	end()
	for _, w := range writers {
		w.check()
	}
}

// foundWithKV founds a cluster of a member that serves the key-value store to clients with certificates.
func foundWithKV(t *testing.T, c node.Config) *member {
	t.Helper()
	c.ServerOptions, c.Permissions, c.StateMachine = etcd.Options(), etcd.Permissions(), kv.StateMachine{}
	if _, err := node.Init(c); err != nil {
		t.Fatal(err)
	}
	m := startServing(t, c, etcd.Services)
	eventually(t, "lead", func() error {
		if s := m.status(); s.State != nexusraft.Leader {
			return fmt.Errorf("%s is %s", c.Name, s.State)
		}
		return nil
	})
	return m
}

// sessionOf registers a session by the connection of a client.
func sessionOf(t *testing.T, conn *grpc.ClientConn) (id uint64) {
	t.Helper()
	eventually(t, "register a session", func() error {
		resp, err := pb.NewZonesClient(conn).RegisterSession(t.Context(), &pb.RegisterSessionRequest{Zone: 1})
		if err == nil && resp.GetError() != nil {
			err = errors.New(resp.GetError().GetText())
		}
		id = resp.GetSession()
		return err
	})
	return id
}

// putAs puts k under a number of a session, by the connection of a client, and returns what was there before, and the
// revision.
func putAs(t *testing.T, conn *grpc.ClientConn, session, number uint64, value string) (string, int64, error) {
	t.Helper()
	ctx := metadata.AppendToOutgoingContext(within(t), "nexus-session", fmt.Sprintf("%d/%d", session, number))
	req := &etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte(value), PrevKv: true}
	resp, err := etcdserverpb.NewKVClient(conn).Put(ctx, req)
	return string(resp.GetPrevKv().GetValue()), resp.GetHeader().GetRevision(), err
}

// A session is its client's: no other one may write in it, or learn of its answers, by whatever number.
func TestSessionOfAnotherPrincipal(t *testing.T) {
	t.Parallel()
	m := foundWithKV(t, secureConfig(t, "n1"))
	for _, name := range []string{"alice", "mallory"} {
		m.grant(name, nexusraft.AccessWrite)
	}
	alice, mallory := m.client("alice"), m.client("mallory")
	session := sessionOf(t, alice)
	for number, value := range []string{"secret", "public"} {
		if _, _, err := putAs(t, alice, session, uint64(number)+1, value); err != nil {
			t.Fatal(err)
		}
	}
	for number := uint64(1); number <= 3; number++ { // 2 was answered with the secret, 3 has not run
		for _, value := range []string{"public", "forged"} {
			old, _, err := putAs(t, mallory, session, number, value)
			if status.Code(err) != codes.PermissionDenied || old != "" {
				t.Errorf("another client, number %d: got %q, %v, want PermissionDenied", number, old, err)
			}
		}
	}
	theirs := sessionOf(t, mallory)
	for _, id := range []uint64{theirs + 1, theirs + 2, 1 << 62} { // which the next clients may get
		if _, _, err := putAs(t, mallory, id, 1, "forged"); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("a session to come: got %v, want FailedPrecondition", err)
		}
	}
	if old, _, err := putAs(t, alice, session, 2, "public"); err != nil || old != "secret" {
		t.Errorf("its client: got %q, %v", old, err)
	}
	if _, _, err := putAs(t, alice, session, 2, "another"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a number with another command: got %v, want FailedPrecondition", err)
	}
	if old, _, err := putAs(t, alice, session, 3, "last"); err != nil || old != "public" {
		t.Errorf("the next one: got %q, %v", old, err)
	}
}

// A client registers more sessions than the zone remembers. One that another client uses meanwhile stays, the ones
// that nobody has used for longest are forgotten, and what was forgotten is refused.
func TestManySessionsOfOneClient(t *testing.T) {
	t.Parallel()
	m := foundWithKV(t, secureConfig(t, "n1"))
	for _, name := range []string{"alice", "mallory"} {
		m.grant(name, nexusraft.AccessWrite)
	}
	alice, mallory := m.client("alice"), m.client("mallory")
	used, idle := sessionOf(t, alice), sessionOf(t, alice)
	if _, _, err := putAs(t, alice, used, 1, "first"); err != nil {
		t.Fatal(err)
	}
	const each = 64
	sessions := 5000 // the zone remembers 4096
	if os.Getenv("NEXUS_RAFT_CI") != "" && !node.UnderRace {
		sessions = 100_000
	}
	for range sessions / each {
		var callers sync.WaitGroup
		for range each {
			callers.Go(func() { sessionOf(t, mallory) })
		}
		callers.Wait()
		if _, _, err := putAs(t, alice, used, 1, "first"); err != nil {
			t.Fatalf("a session that is in use: %v", err)
		}
	}
	if _, _, err := putAs(t, alice, idle, 1, "late"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a session that nobody has used: got %v, want FailedPrecondition", err)
	}
	if old, revision, err := putAs(t, alice, used, 2, "second"); err != nil || old != "first" || revision != 3 {
		t.Errorf("after that: got %q at revision %d, %v", old, revision, err)
	}
}

// A session that nobody has used for an hour is forgotten. Its client goes on in another one; by hand, its numbers are
// refused.
func TestClientSessionExpires(t *testing.T) {
	t.Parallel()
	var ahead atomic.Int64
	c := testConfig(t, "n1")
	c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	m := foundWithKV(t, c)
	o := client.Options{Endpoints: []string{m.config.Advertise}, ExactlyOnce: true}
	early, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	busy, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	conn, err := grpc.NewClient("passthrough:///"+m.config.Advertise, grpc.WithNoProxy(),
		grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	byHand := sessionOf(t, conn)
	if _, err := early.Put(within(t), []byte("early"), nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := putAs(t, conn, byHand, 1, "v"); err != nil {
		t.Fatal(err)
	}
	for range 70 { // minutes, in which another session is in use: the sessions' clock needs that
		ahead.Add(int64(time.Minute))
		if _, err := busy.Put(within(t), []byte("busy"), nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := putAs(t, conn, byHand, 1, "v"); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("by hand: got %v, want FailedPrecondition", err)
	}
	if _, err := early.Put(within(t), []byte("early"), nil); err != nil {
		t.Error(err)
	}
	for key, want := range map[string]int64{"early": 2, "busy": 70, "k": 1} {
		if pair, _, err := early.Get(within(t), []byte(key)); err != nil || pair.Version != want {
			t.Errorf("%s was put %d times, want %d: %v", key, pair.Version, want, err)
		}
	}
}
