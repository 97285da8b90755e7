package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/nexi-lab/nexus-raft/cmd/nexus-raft/demo"
)

// output collects what a process prints. It may be read while that goes on.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// show is one demo, run as a process of its own over a few files.
type show struct {
	cmd         *exec.Cmd
	out, err    output
	data, files string
}

func startShow(t *testing.T, args ...string) *show {
	t.Helper()
	s := &show{data: filepath.Join(t.TempDir(), "data"), files: t.TempDir()}
	for i := range 30 {
		if err := os.WriteFile(filepath.Join(s.files, fmt.Sprint("file", i)), []byte(strings.Repeat("x", i)),
			0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.cmd = exec.Command(os.Args[0], append([]string{"demo", s.files, "--data-dir", s.data}, args...)...)
	s.cmd.Env = append(os.Environ(), mainVariable+"=1")
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.err
	s.cmd.WaitDelay = 10 * time.Second
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		if t.Failed() {
			t.Logf("standard output:\n%s\nstandard error:\n%s", &s.out, &s.err)
		}
	})
	return s
}

// child is one of the three, as the timeline names it.
type child struct {
	name, address string
	pid           int
}

var childLine = regexp.MustCompile(`(n1|n2|w1) at (127\.0\.0\.1:\d+) \(process (\d+)\)`)

// children waits until all three are up and in sync.
func (s *show) children(t *testing.T) []child {
	t.Helper()
	eventually(t, "the zone is in sync", func() bool { return strings.Contains(s.out.String(), "in sync") })
	var out []child
	for _, m := range childLine.FindAllStringSubmatch(s.out.String(), -1) {
		pid, err := strconv.Atoi(m[3])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, child{m[1], m[2], pid})
	}
	if len(out) != 3 {
		t.Fatalf("got %v, want three processes", out)
	}
	return out
}

// gone fails the test unless all three have ended.
func gone(t *testing.T, children []child) {
	t.Helper()
	for _, c := range children {
		eventually(t, c.name+" has ended", func() bool {
			conn, err := net.Dial("tcp", c.address)
			if err == nil {
				conn.Close()
			}
			return err != nil
		})
	}
}

func (s *show) exitStatus(t *testing.T) int {
	t.Helper()
	s.cmd.Wait() // its error is the status
	return s.cmd.ProcessState.ExitCode()
}

func TestDemo(t *testing.T) {
	t.Parallel()
	s := startShow(t, "--min-seconds", "2", "--json", "--writers", "3")
	if status := s.exitStatus(t); status != exitOK {
		t.Fatalf("status: got %d, want 0", status)
	}
	var got demo.Summary
	if err := json.Unmarshal([]byte(s.out.String()), &got); err != nil {
		t.Fatalf("standard output %q: %v", &s.out, err)
	}
	type facts struct {
		Lost, Unexpected, Files, Members, Witnesses, Failovers, Disks int
		Equal                                                         bool
	}
	want := facts{Files: 30, Members: 2, Witnesses: 1, Failovers: 2, Disks: 3, Equal: true}
	if d := cmp.Diff(want, facts{
		got.Lost, got.Unexpected, got.Files, got.Members, got.Witnesses, len(got.FailoversMS), len(got.DiskBytes),
		got.StateChecksumsEqual,
	}); d != "" {
		t.Errorf("summary (-want +got):\n%s", d)
	}
	if got.FailoverMS == nil || *got.FailoverMS <= 0 || got.LongestGapMS < *got.FailoverMS/2 {
		t.Errorf("failover %v ms, longest gap %d ms: want a failover, and a gap about as long", got.FailoverMS,
			got.LongestGapMS)
	}
	if got.Acknowledged < 30 || got.Acknowledged != got.WrittenOnTwoCopies+got.WrittenOnOneCopy ||
		got.WrittenOnTwoCopies == 0 {
		t.Errorf("acknowledged %d, on two copies %d, on one %d: want a sum, and some on two",
			got.Acknowledged, got.WrittenOnTwoCopies, got.WrittenOnOneCopy)
	}
	for name, n := range got.DiskBytes {
		if n <= 0 {
			t.Errorf("disk bytes of %s: got %d, want some", name, n)
		}
	}
	if _, err := os.Stat(s.data); !os.IsNotExist(err) {
		t.Errorf("data directory: got %v, want it removed", err)
	}
}

func TestDemoInterrupted(t *testing.T) {
	t.Parallel()
	s := startShow(t, "--min-seconds", "600")
	children := s.children(t)
	if err := s.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if status := s.exitStatus(t); status != exitFailed || !strings.Contains(s.err.String(), "interrupted") {
		t.Errorf("got status %d and %q, want 1 and why", status, &s.err)
	}
	gone(t, children)
	if _, err := os.Stat(s.data); !os.IsNotExist(err) {
		t.Errorf("data directory: got %v, want it removed", err)
	}
}

func TestDemoWhoseChildDies(t *testing.T) {
	t.Parallel()
	s := startShow(t, "--min-seconds", "600", "--kill", "none")
	children := s.children(t)
	victim, err := os.FindProcess(children[1].pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Kill(); err != nil {
		t.Fatal(err)
	}
	status := s.exitStatus(t)
	for _, want := range []string{"n2 ended without being stopped: signal: killed", "the end of its log", s.data} {
		if status != exitFailed || !strings.Contains(s.err.String(), want) {
			t.Errorf("got status %d and %q, want 1 and %q", status, &s.err, want)
		}
	}
	gone(t, children)
}

func TestDemoKilled(t *testing.T) {
	t.Parallel()
	s := startShow(t, "--min-seconds", "600", "--kill", "none")
	children := s.children(t)
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	s.exitStatus(t)
	gone(t, children)
}
