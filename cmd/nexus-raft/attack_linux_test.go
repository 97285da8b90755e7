//go:build !race

// The race detector needs more memory than these programs may have, and takes its time.

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// limited starts nexus-raft as a process that may have so many MiB of data, and so many
// descriptors.
func limited(t *testing.T, mib, descriptors int, args ...string) *process {
	t.Helper()
	script := fmt.Sprintf(`ulimit -n %d && ulimit -d %d && exec "$0" "$@"`, descriptors, mib<<10)
	return begin(t, exec.Command("sh", append([]string{"-c", script, os.Args[0]}, args...)...), args)
}

// What each program may have.
const (
	memberMiB   = 768 // of data
	witnessMiB  = 256
	descriptors = 256
)

// newLimitedTrio is a cluster with TLS, each of whose programs may have little memory and few
// descriptors.
func newLimitedTrio(t *testing.T) *secureTrio {
	t.Helper()
	c := &secureTrio{trio: trio{dir: t.TempDir(), a1: freeAddress(t), a2: freeAddress(t), aw: freeAddress(t)}}
	c.runs(t, "init", "--data-dir", c.data("n1"), "--name", "n1", "--listen", c.a1)
	c.admin = filepath.Join(c.data("n1"), "admin.pem")
	c.n1 = limited(t, memberMiB, descriptors, "serve", "--tls", "--data-dir", c.data("n1"), "--listen", c.a1)
	c.n2 = limited(t, memberMiB, descriptors, "serve", "--tls", "--data-dir", c.data("n2"), "--name", "n2", "--listen",
		c.a2,
		"--join", c.a1, "--token-file", c.joinToken(t, "member"))
	c.w1 = limited(t, witnessMiB, descriptors, "witness", "--tls", "--data-dir", c.data("w1"), "--name", "w1", "--listen",
		c.aw,
		"--join", c.a1, "--token-file", c.joinToken(t, "witness"))
	c.awaitSync(t)
	heedLimits(t, &c.trio)
	return c
}

// heedLimits checks that the programs know what they may have.
func heedLimits(t *testing.T, c *trio) {
	t.Helper()
	for p, mib := range map[*process]int{c.n1: memberMiB, c.n2: memberMiB, c.w1: witnessMiB} {
		if want := fmt.Sprintf("collected_at_bytes=%d\n", mib<<20*4/5); !strings.Contains(p.out.String(), want) {
			t.Errorf("%v does not say %q", p.args, want)
		}
	}
}

// memory is what a process has in memory, in KiB.
func memory(t *testing.T, p *process) int {
	t.Helper()
	page, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.Process.Pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kib
}

// An attack is what one stranger does to the program at an address, from addresses of its own, for
// a second or two.
var attacks = []struct {
	name string
	do   func(t *testing.T, addr string)
}{
	{"header bombs", func(t *testing.T, addr string) { // a few MB on the wire, gigabytes in memory
		each(8, func(i int) {
			a := attack(t, addr, fmt.Sprintf("127.0.1.%d", i+1), true)
			for n := 0; a != nil && n < 64 && a.bomb(watchMethod, 480_000); n++ {
			}
		})
	}},
	{"small headers on many streams", func(t *testing.T, addr string) {
		each(8, func(i int) {
			a := attack(t, addr, fmt.Sprintf("127.0.1.%d", i+1), true)
			for n := 0; a != nil && n < 4000 && a.bomb(watchMethod, 400); n++ {
			}
		})
	}},
	{"unfinished messages", func(t *testing.T, addr string) { // of 7 MiB each
		each(16, func(i int) {
			a := attack(t, addr, fmt.Sprintf("127.0.2.%d", i+1), true)
			for n := 0; a != nil && n < 200; n++ {
				if stream, ok := a.open(joinMethod); !ok || !a.begin(stream, 7<<20, 48<<10) {
					return
				}
			}
		})
	}},
	{"silent streams", func(t *testing.T, addr string) {
		each(16, func(i int) {
			a := attack(t, addr, fmt.Sprintf("127.0.3.%d", i+1), true)
			for n := 0; a != nil && n < 4000; n++ {
				if _, ok := a.open(watchMethod); !ok {
					return
				}
			}
		})
	}},
	{"rapid reset, pings and settings", func(t *testing.T, addr string) {
		each(4, func(i int) {
			a := attack(t, addr, fmt.Sprintf("127.0.4.%d", i+1), true)
			for n := 0; a != nil && n < 20_000 && a.nuisance(); n++ {
			}
		})
	}},
	{"watches of health", func(t *testing.T, addr string) {
		each(100, func(i int) {
			if a := attack(t, addr, "127.0.0.1", true); a != nil {
				if stream, ok := a.open(watchMethod); ok {
					a.data(stream, make([]byte, 5)) // an empty request
				}
			}
		})
	}},
	{"idle connections", func(t *testing.T, addr string) {
		each(400, func(i int) { attack(t, addr, fmt.Sprintf("127.0.5.%d", i%200+1), true) })
	}},
	{"handshakes that never end", func(t *testing.T, addr string) {
		each(600, func(int) { dialFrom(t, addr, "") })
	}},
	{"half-open connections of many addresses", func(t *testing.T, addr string) { // as of paths that were cut
		begun := [][]byte{
			nil,
			{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, // of 512 bytes of a ClientHello
			[]byte(http2.ClientPreface[:9]),      // no TLS
		}
		each(600, func(i int) {
			if conn := dialFrom(t, addr, fmt.Sprintf("127.0.6.%d", i%200+1)); conn != nil {
				conn.Write(begun[i%len(begun)])
			}
		})
	}},
	{"connections that stop after TLS", func(t *testing.T, addr string) {
		each(200, func(i int) {
			conn := dialFrom(t, addr, fmt.Sprintf("127.0.7.%d", i+1))
			if conn == nil {
				return
			}
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			secure := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			if secure.Handshake() == nil {
				io.WriteString(secure, http2.ClientPreface[:9])
			}
		})
	}},
	{"answers that nobody reads", func(t *testing.T, addr string) {
		each(16, func(i int) {
			a := mute(t, addr, fmt.Sprintf("127.0.8.%d", i+1), &tls.Config{InsecureSkipVerify: true})
			for n := 0; a != nil && n < 5000 && a.nuisance(); n++ {
			}
		})
	}},
}

// loaded is what a put may take on a machine that is busy with attackers and all three programs, on
// few cores: an election may come of it. Where a program stands still puts take many seconds, or
// fail.
const loaded = 2 * time.Second

const (
	watchMethod = "/grpc.health.v1.Health/Watch"
	joinMethod  = "/nexusraft.v1.Cluster/Join"
)

// each runs do for so many numbers, 16 at a time.
func each(count int, do func(i int)) {
	var all sync.WaitGroup
	var next atomic.Int64
	for range min(count, 16) {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(count); i = next.Add(1) - 1 {
				do(int(i))
			}
		})
	}
	all.Wait()
}

// nuisance sends frames that cost the other side more than this one.
func (a *attacker) nuisance() bool {
	stream, ok := a.open(watchMethod)
	return ok && a.write(func() error {
		return errors.Join(a.framer.WriteRSTStream(stream, http2.ErrCodeCancel), a.framer.WriteSettings(),
			a.framer.WritePing(false, [8]byte{}), a.framer.WriteWindowUpdate(0, 1))
	})
}

// allAttacks is set by make attack; without it one of each kind is played.
var allAttacks = os.Getenv("NEXUS_RAFT_ATTACKS") == "all"

func played[T any](attacks []T) []T {
	if allAttacks {
		return attacks
	}
	return attacks[:1]
}

// Each program lives through what strangers do to it, with little memory and few descriptors;
// meanwhile it answers callers with a role, and checks of its health; afterwards it has given back
// what the strangers had.
func TestStrangersUnderLimits(t *testing.T) {
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
	quiet := slowestOf(t, honest, 100, nil)
	before := map[*process]int{c.n1: memory(t, c.n1), c.w1: memory(t, c.w1)}
	for _, a := range played(attacks) {
		t.Run(a.name, func(t *testing.T) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				a.do(t, c.a1)
				a.do(t, c.aw)
			}()
			defer func() { <-done }()
			attacked := slowestOf(t, honest, 100, done)
			compare(t, quiet, attacked)
			for _, addr := range []string{c.a1, c.aw} {
				if err := checkHealth(t, addr); err != nil {
					t.Errorf("a check of the health of %s: %v", addr, err)
				}
			}
			t.Logf("memory of the member %d KiB, of the witness %d KiB", memory(t, c.n1), memory(t, c.w1))
		})
	}
	c.awaitSync(t)
	for p, was := range before {
		eventually(t, fmt.Sprintf("%v has given back its memory", p.args), func() bool { return memory(t, p) < was+64<<10 })
	}
	s, err := honest.Status(t.Context(), c.a1)
	if err != nil || allAttacks && (s.Refused["stranger_streams"] == 0 || s.Refused["handshakes"] == 0) {
		t.Errorf("status says that %v was refused, %v; want what strangers were", s.Refused, err)
	}
}

// compare wants a put to be about as fast as without the attack.
func compare(t *testing.T, quiet, attacked time.Duration) {
	t.Helper()
	bound := max(5*quiet, loaded)
	t.Logf("p99 of a put: %v quiet, %v under attack: %.1f times as much; the bound is %v", quiet, attacked,
		float64(attacked)/float64(quiet), bound)
	if attacked > bound {
		t.Errorf("p99 of a put is %v, and %v without the attack; want 5 times as much, or %v, at most", attacked, quiet,
			loaded)
	}
}

// slowestOf puts until done is closed, and at least so many times, and returns the 99th percentile
// of what it took. A put whose outcome is not known, as while another leader is elected, is made again.
func slowestOf(t *testing.T, c *client.Client, least int, done <-chan struct{}) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var took []time.Duration
	for i := 0; ; i++ {
		select {
		case <-done:
			done = nil
		default:
		}
		if done == nil && i >= least {
			slices.Sort(took)
			return took[len(took)*99/100]
		}
		start := time.Now()
		_, err := c.Put(ctx, []byte("k"), []byte("v"))
		for ctx.Err() == nil && errors.Is(err, nexusraft.ErrUncertain) {
			_, err = c.Put(ctx, []byte("k"), []byte("v"))
		}
		if err != nil {
			t.Fatalf("put while others attack: %v", err)
		}
		took = append(took, time.Since(start))
	}
}

// checkHealth is a stranger's check, as a load balancer makes it.
func checkHealth(t *testing.T, addr string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	return err
}
