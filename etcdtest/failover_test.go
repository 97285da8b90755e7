package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// journal is what writers know of their writes. Each key is put once.
type journal struct {
	mu        sync.Mutex
	tried     map[string]bool
	acked     map[string]int64 // key to revision
	uncertain map[string]error
}

// write puts new keys, one after the other, until stop. A put that fails is noted and never
// repeated; its client may go on with another key at once.
func (j *journal) write(t *testing.T, client *clientv3.Client, writer int, stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		key := fmt.Sprintf("failover/%d/%06d", writer, i)
		j.mu.Lock()
		j.tried[key] = true
		j.mu.Unlock()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		resp, err := client.Put(ctx, key, key)
		cancel()
		j.mu.Lock()
		if err != nil {
			j.uncertain[key] = err
		} else {
			j.acked[key] = resp.Header.Revision
		}
		j.mu.Unlock()
		if err != nil {
			time.Sleep(10 * time.Millisecond) // don't fill the journal
		}
	}
}

// count returns how many puts are acknowledged and how many not.
func (j *journal) count() (acked, uncertain int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.acked), len(j.uncertain)
}

// check compares the journal with what a member has: every acknowledged put is there as it
// was acknowledged, and nothing was put twice, neither by the client nor by the server.
func (j *journal) check(t *testing.T, client *clientv3.Client) {
	t.Helper()
	j.mu.Lock()
	missing := maps.Clone(j.acked) // before the read
	j.mu.Unlock()
	resp, err := client.Get(within(t, patience), "failover/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	revisions := make(map[int64]string)
	for _, kv := range resp.Kvs {
		key := string(kv.Key)
		delete(missing, key)
		if kv.Version != 1 || kv.CreateRevision != kv.ModRevision || string(kv.Value) != key {
			t.Errorf("%s: got %v, want it put once", key, kv)
		}
		if rev, ok := j.acked[key]; ok && kv.ModRevision != rev {
			t.Errorf("%s: acknowledged at %d, found at %d", key, rev, kv.ModRevision)
		}
		if !j.tried[key] {
			t.Errorf("%s: nobody put it", key)
		}
		if other := revisions[kv.ModRevision]; other != "" {
			t.Errorf("%s and %s have the same revision", key, other)
		}
		revisions[kv.ModRevision] = key
	}
	if len(missing) > 0 {
		t.Errorf("%d acknowledged puts are lost: %v", len(missing), missing)
	}
}

func TestLeaderIsKilled(t *testing.T) {
	c := ownCluster(t)
	j := &journal{tried: make(map[string]bool), acked: make(map[string]int64), uncertain: make(map[string]error)}
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for i := range 4 {
		client := dial(t, c.endpoints()...)
		writers.Go(func() { j.write(t, client, i, stop) })
	}
	ended := sync.OnceFunc(func() { close(stop); writers.Wait() })
	defer ended()

	var killed [2]*process
	for round := range killed {
		leader, follower, err := c.roles()
		if err != nil {
			t.Fatal(err)
		}
		awaitWrites(t, j, 200)
		leader.kill()
		killed[round] = leader
		awaitWrites(t, j, 200) // the other one leads, and the client has found it
		j.check(t, dial(t, follower.address))
		if err := leader.start(); err != nil {
			t.Fatal(err)
		}
		if err := c.awaitInSync(); err != nil {
			t.Fatal(err)
		}
	}
	ended()
	for _, p := range c.members {
		j.check(t, dial(t, p.address))
	}
	acked, uncertain := j.count()
	t.Logf("killed %s and then %s: %d puts acknowledged, %d not", killed[0].name, killed[1].name, acked, uncertain)
	if uncertain == 0 {
		t.Error("no put was under way when a leader was killed: nothing is shown")
	}
}

// awaitWrites returns when so many more puts are acknowledged.
func awaitWrites(t *testing.T, j *journal, more int) {
	t.Helper()
	before, _ := j.count()
	if err := poll("puts are acknowledged", func() bool {
		acked, _ := j.count()
		return acked >= before+more
	}); err != nil {
		t.Fatal(err)
	}
}

func TestWithoutQuorum(t *testing.T) {
	c := ownCluster(t)
	leader, follower, err := c.roles()
	if err != nil {
		t.Fatal(err)
	}
	client := dial(t, follower.address)
	if _, err := client.Put(within(t, patience), "a", "1"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Get(within(t, patience), "a"); err != nil { // and now the follower has applied it
		t.Fatal(err)
	}
	leader.kill()
	c.witness.kill()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	began := time.Now()
	if _, err := client.Put(ctx, "a", "2"); err == nil {
		t.Error("put: it was acknowledged by one of three")
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("put: it took %v, with a limit of 2s", took)
	}
	if got, err := client.Get(within(t, patience), "a", clientv3.WithSerializable()); err != nil || got.Count != 1 ||
		string(got.Kvs[0].Value) != "1" {
		t.Errorf("serializable get: got %v, %v; want what is on the disk", got, err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if got, err := client.Get(ctx, "a"); err == nil {
		t.Errorf("linearizable get: got %v, want an error", got)
	}
}

// TestDiskWithoutRoom is about a member alone, whose reserve is larger than any disk.
func TestDiskWithoutRoom(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "full")
	p := newProcess(programs.member, dir, "n1", "serve", "--disk-reserve", "4096TiB")
	out, err := exec.Command(programs.member, "init", "--data-dir", p.dir, "--name", p.name, "--listen",
		p.address).CombinedOutput()
	if err != nil {
		t.Fatalf("init: %v: %s", err, out)
	}
	defer p.kill()
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	client := dial(t, p.address)
	if got, err := client.Get(within(t, patience), "a"); err != nil || got.Count != 0 {
		t.Fatalf("get: got %v, %v; want reads to go on", got, err)
	}
	if _, err := client.Put(within(t, patience), "a", "1"); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Errorf("put: got %v, want %v", err, rpctypes.ErrNoSpace)
	}
	alarms, err := client.AlarmList(within(t, patience))
	if err != nil || len(alarms.Alarms) != 1 || alarms.Alarms[0].Alarm != etcdserverpb.AlarmType_NOSPACE {
		t.Errorf("alarms: got %v, %v; want NOSPACE", alarms, err)
	}
	status, err := client.Status(within(t, patience), p.address)
	if err != nil || !strings.Contains(strings.Join(status.Errors, " "), "disk full") {
		t.Errorf("status: got %v, %v; want the full disk", status, err)
	}
}
