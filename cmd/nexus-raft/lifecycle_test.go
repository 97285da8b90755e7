package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/nexi-lab/nexus-raft/client"
)

// stopLimit is how long an orderly stop may take, whatever the other nodes do.
const stopLimit = 5 * time.Second

// stopsInTime sends SIGTERM and wants status 0 in time.
func (p *process) stopsInTime(t *testing.T) {
	t.Helper()
	asked := time.Now()
	p.stop(t)
	if took := time.Since(asked); took >= stopLimit {
		t.Errorf("%v: ended %v after SIGTERM, want below %v", p.args, took, stopLimit)
	}
}

// says waits until a process has printed something.
func (p *process) says(t *testing.T, text string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%v prints %q", p.args, text), func() bool { return strings.Contains(p.out.String(), text) })
}

// writers put key after key until stop is called, which returns how many were acknowledged
// and how the others failed.
func (c *trio) writers(t *testing.T, count int) (acknowledged *atomic.Int64, stop func() []error) {
	t.Helper()
	acknowledged = new(atomic.Int64)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	for w := range count {
		conn, err := client.New(client.Options{Endpoints: []string{c.a1, c.a2}})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer conn.Close()
			for i := 0; ctx.Err() == nil; i++ {
				_, err := conn.Put(t.Context(), fmt.Appendf(nil, "w%d/%d", w, i), []byte("v"))
				if err == nil {
					acknowledged.Add(1)
					continue
				}
				mu.Lock()
				failed = append(failed, err)
				mu.Unlock()
			}
		})
	}
	t.Cleanup(cancel)
	return acknowledged, func() []error {
		cancel()
		wg.Wait()
		return failed
	}
}

// A leader that is told to stop hands over first: the new leader is there before the old
// one has ended, and no writer notices more than a pause. Nor does one when a follower stops.
func TestOrderlyStopsUnderWriters(t *testing.T) {
	t.Setenv("NEXUS_RAFT_LOG_FORMAT", "json")
	t.Setenv("NEXUS_RAFT_LOG_LEVEL", "debug")
	c := newTrio(t)
	acknowledged, stop := c.writers(t, 4)
	beyond := func(n int64) func() bool {
		return func() bool { return acknowledged.Load() > n }
	}
	eventually(t, "writers write", beyond(50))
	c.n1.stopsInTime(t)
	if log := c.n2.out.String(); !strings.Contains(log, `"msg":"leader changed"`) ||
		!regexp.MustCompile(`"msg":"leader changed"[^\n]*"self":true`).MatchString(log) {
		t.Errorf("the old leader has ended and the follower does not lead; it logged\n%s", log)
	}
	eventually(t, "writers go on", beyond(acknowledged.Load()+50))
	c.n1 = c.serve1(t)
	c.awaitSync(t)
	c.n1.stopsInTime(t) // as a follower, with what it has passed on to the leader
	eventually(t, "writers go on without the follower", beyond(acknowledged.Load()+50))
	if failed := stop(); len(failed) > 0 {
		t.Errorf("%d writes failed, the first with: %v; %d were acknowledged", len(failed), failed[0], acknowledged.Load())
	}
	for _, p := range []*process{c.n1, c.n2, c.w1} {
		checkLog(t, p.out.String())
	}
}

// Peers that hang, and clients that never end their calls, do not hold up an orderly stop.
func TestStopWhilePeersHang(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	conn, err := grpc.NewClient(c.a1, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	watch, err := healthpb.NewHealthClient(conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*process{c.n2, c.w1} {
		if err := p.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	c.n1.stopsInTime(t)
}

func TestStopWithoutQuorum(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.n2.kill(t)
	c.w1.kill(t)
	eventually(t, "nobody leads", func() bool {
		_, ok := c.leader(t)
		return !ok
	})
	c.n1.stopsInTime(t)
}

// SIGTERM ends the search for a cluster, and is no failure. The flags are from a file.
func TestStopWhileJoining(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"serve", "witness"} {
		dir := t.TempDir()
		config := filepath.Join(dir, "node.yaml")
		text := fmt.Sprintf("data-dir: %s/data\nlisten: 127.0.0.1:0\njoin:\n- 127.0.0.1:1\n- 127.0.0.1:2\njoin-timeout: 1h\n",
			dir)
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		p := launch(t, kind, "--config", config)
		p.says(t, "not admitted yet, asking again")
		p.stopsInTime(t)
	}
}

func TestJoinTimeout(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"serve", "witness"} {
		dir := filepath.Join(t.TempDir(), "data")
		p := launch(t, kind, "--data-dir", dir, "--listen", "127.0.0.1:0", "--join", "127.0.0.1:1", "--join-timeout", "100ms")
		p.complains(t, "127.0.0.1:1", "100ms")
	}
}

// checkLog wants lines of JSON, each with keys that docs/architecture.md lists and with a
// constant lower-case message.
func checkLog(t *testing.T, log string) {
	t.Helper()
	keys := documentedKeys(t)
	message := regexp.MustCompile(`^[a-z][a-z ,:']*$`)
	for line := range strings.Lines(log) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("no JSON: %v: %q", err, line)
			continue
		}
		if msg, _ := fields["msg"].(string); !message.MatchString(msg) {
			t.Errorf("message %q is not constant or not lower-case", msg)
		}
		for key := range fields {
			if !keys[key] {
				t.Errorf("key %q is not in docs/architecture.md: %s", key, line)
			}
		}
	}
}

// documentedKeys are the first column of the table of log keys.
func documentedKeys(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Log lines\n")
	if !ok {
		t.Fatal("docs/architecture.md has no section on log lines")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	keys := map[string]bool{"time": true, "level": true, "msg": true}
	for line := range strings.Lines(section) {
		if cells := strings.Split(line, "|"); len(cells) > 2 {
			for _, m := range regexp.MustCompile("`([a-z]+)`").FindAllStringSubmatch(cells[1], -1) {
				keys[m[1]] = true
			}
		}
	}
	return keys
}
