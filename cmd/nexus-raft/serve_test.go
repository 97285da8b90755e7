package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// nextPort counts the ports that freeAddress has tried; test programs that run at once begin at places
// of their own.
var nextPort atomic.Int64

func init() { nextPort.Store(int64(os.Getpid()) * 64) }

// freeAddress returns a loopback address at which nobody listens. Its port is below those that systems
// give to connections: one of them could take it before a program listens there.
func freeAddress(t *testing.T) string {
	t.Helper()
	var failed error
	for range 1000 {
		lis, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+nextPort.Add(1)%20_000))
		if err == nil {
			defer lis.Close()
			return lis.Addr().String()
		}
		failed = err
	}
	t.Fatalf("no port is free: %v", failed)
	return ""
}

// start runs nexus-raft as a process of its own, which is killed when the test ends. It
// dies with the test program, too.
func start(t *testing.T, args ...string) (*exec.Cmd, io.WriteCloser) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), mainVariable+"=1")
	log := &output{}
	cmd.Stderr = log
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("%v:\n%s", args, log)
		}
	})
	return cmd, in
}

// founded founds a cluster and runs its first member.
func founded(t *testing.T) (dir, endpoint string, member *exec.Cmd, in io.WriteCloser) {
	t.Helper()
	dir, endpoint = filepath.Join(t.TempDir(), "n1"), freeAddress(t)
	status, stdout, stderr := command(t, "init", "--data-dir", dir, "--name", "n1", "--listen", endpoint, "--json")
	if status != exitOK {
		t.Fatalf("init: status %d, %s", status, stderr)
	}
	var got struct {
		Cluster nexusraft.ClusterID
		Node    nexusraft.NodeID
		Name    string
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || got.Cluster == 0 || got.Node == 0 || got.Name != "n1" {
		t.Fatalf("init: got %q, %v; want cluster, node and name", stdout, err)
	}
	member, in = start(t, "serve", "--data-dir", dir, "--listen", endpoint, "--stop-when-stdin-closes")
	return dir, endpoint, member, in
}

func TestKeysByHand(t *testing.T) {
	t.Parallel()
	file, large := filepath.Join(t.TempDir(), "large"), strings.Repeat("v", 500<<10) // more than an argument may have
	if err := os.WriteFile(file, []byte(large), 0o600); err != nil {
		t.Fatal(err)
	}
	_, endpoint, _, _ := founded(t)
	ask := func(args ...string) []string {
		return append(args, "--endpoints", "127.0.0.1:1,"+endpoint, "--timeout", "20s")
	}
	for _, tc := range []struct {
		args           []string
		status         int
		stdout, stderr string
	}{
		{ask("put", "a", "1"), 0, "revision 2, data copies 1\n", ""},
		{ask("put", "b", "\xff\x1b[31m", "--json"), 0, `{"revision":3,"copies":1}` + "\n", ""},
		{ask("put", "c\xfe", "text\n"), 0, "revision 4, data copies 1\n", ""},
		{ask("get", "a"), 0, "1\n", ""},
		{ask("get", "b"), 0, `"\xff\x1b[31m"` + "\n", ""},
		{
			ask("get", "b", "--json"), 0,
			`{"key":"b","value_base64":"/xtbMzFt","create_revision":3,"mod_revision":3,"version":1}` + "\n", "",
		},
		{ask("get", "nobody"), 1, "", `nexus-raft: get: there is no key "nobody"` + "\n"},
		{ask("list", ""), 0, "a\t1\nb\t\"\\xff\\x1b[31m\"\n\"c\\xfe\"\t\"text\\n\"\n", ""},
		{
			ask("list", "a", "--json"), 0, `{"key":"a","value":"1","create_revision":2,"mod_revision":2,"version":1}` + "\n",
			"",
		},
		{
			ask("list", "c", "--json"), 0,
			`{"key_base64":"Y/4=","value":"text\n","create_revision":4,"mod_revision":4,"version":1}` + "\n", "",
		},
		{ask("list", "z"), 0, "", ""},
		{ask("del", "a"), 0, "deleted 1\n", ""},
		{ask("del", "a", "--json"), 0, `{"deleted":0,"revision":5,"copies":1}` + "\n", ""},
		{ask("get", "a"), 1, "", `nexus-raft: get: there is no key "a"` + "\n"},
		{ask("put", "large", "--file", file), 0, "revision 6, data copies 1\n", ""},
		{ask("get", "large"), 0, large + "\n", ""},
		{ask("put", "empty", "--file", "-"), 0, "revision 7, data copies 1\n", ""},
		{ask("get", "empty"), 0, "\n", ""},
	} {
		status, stdout, stderr := command(t, tc.args...)
		got, want := fmt.Sprint(status, stdout, stderr), fmt.Sprint(tc.status, tc.stdout, tc.stderr)
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%q (-want +got):\n%s", tc.args, d)
		}
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	_, endpoint, _, _ := founded(t)
	var leads nexusraft.NodeStatus
	eventually(t, "the member leads", func() bool {
		_, stdout, _ := command(t, "status", "--json", "--endpoints", endpoint)
		var r report
		if err := json.Unmarshal([]byte(stdout), &r); err != nil || len(r.Answers) != 1 || r.Answers[0].Status == nil {
			return false
		}
		leads = *r.Answers[0].Status
		return len(leads.Zones) == 1 && leads.Zones[0].State == nexusraft.Leader
	})
	if leads.Name != "n1" || leads.Address != endpoint || !leads.Healthy || leads.Witness {
		t.Errorf("got %+v, want n1 at %s, healthy", leads, endpoint)
	}
	status, stdout, _ := command(t, "status", "--endpoints", endpoint+",127.0.0.1:1")
	for _, want := range []string{
		"n1", "healthy", "LEADER", "can NOT lose n1: it is the only member",
		"127.0.0.1:1: no answer",
	} {
		if status != exitOK || !strings.Contains(stdout, want) {
			t.Errorf("status: got %d and\n%s\nwant %q in it", status, stdout, want)
		}
	}
}

func TestServeStopsInOrderAndStartsAgain(t *testing.T) {
	t.Parallel()
	dir, endpoint, member, in := founded(t)
	put := func(value, want string) {
		t.Helper()
		if status, _, stderr := command(t, "put", "k", value, "--endpoints", endpoint, "--timeout", "20s"); status != exitOK {
			t.Fatalf("put: status %d, %s", status, stderr)
		}
		if _, stdout, stderr := command(t, "get", "k", "--endpoints", endpoint, "--timeout", "20s"); stdout != want {
			t.Fatalf("get: got %q, %s; want %q", stdout, stderr, want)
		}
	}
	put("one", "one\n")
	in.Close() // as when the process that started it has ended
	if err := member.Wait(); err != nil {
		t.Errorf("stop when standard input closes: %v, want status 0", err)
	}
	again, _ := start(t, "serve", "--data-dir", dir, "--listen", endpoint)
	put("two", "two\n")
	if err := again.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := again.Wait(); err != nil {
		t.Errorf("SIGTERM: %v, want status 0", err)
	}
}

// What init prints can be given to a shell as it is.
func TestInitPrintsTheNextCommand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "Bob's $HOME; data")
	status, stdout, stderr := command(t, "init", "--data-dir", dir, "--listen", "0.0.0.0:2026", "--advertise",
		"n1.example:2026")
	_, next, ok := strings.Cut(strings.TrimSpace(stdout), "start it with: nexus-raft ")
	if status != exitOK || !ok {
		t.Fatalf("got status %d, %q, %q; want the next command", status, stdout, stderr)
	}
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `printf '%s\n' `+next).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	want := []string{"serve", "--data-dir", dir, "--listen", "0.0.0.0:2026", "--advertise", "n1.example:2026"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what a shell makes of %q (-want +got):\n%s", next, d)
	}
}

func TestInitRefusesADirectoryWithAnIdentity(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "n1")
	if status, stdout, stderr := command(t, "init", "--data-dir", dir); status != exitOK ||
		!strings.Contains(stdout, "serve --data-dir "+dir) {
		t.Fatalf("first: got status %d, %q, %q; want the command that goes on", status, stdout, stderr)
	}
	status, _, stderr := command(t, "init", "--data-dir", dir)
	if status != exitFailed || !strings.Contains(stderr, dir) || !strings.Contains(stderr, "serve") {
		t.Errorf("second: got status %d, %q; want a refusal that names the directory and the way out", status, stderr)
	}
}
