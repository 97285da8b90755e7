package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// What a careless operator does. Each of these ends in one clear line that names the thing
// and the way out, and changes nothing.

// process is nexus-raft as a process of its own, with what it has printed.
type process struct {
	*exec.Cmd
	out  output
	args []string
}

// launch starts nexus-raft; it is killed when the test ends.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	return begin(t, exec.Command(os.Args[0], args...), args)
}

// begin starts a command that becomes nexus-raft.
func begin(t *testing.T, cmd *exec.Cmd, args []string) *process {
	t.Helper()
	p := &process{Cmd: cmd, args: args}
	p.Env = append(os.Environ(), mainVariable+"=1")
	p.Stdout, p.Stderr = &p.out, &p.out
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Process.Kill()
		p.Wait()
		if t.Failed() {
			t.Logf("%v:\n%s", args, &p.out)
		}
	})
	return p
}

// exits waits for the process's end, and returns its status.
func (p *process) exits(t *testing.T) int {
	t.Helper()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.Wait()
	}()
	select {
	case <-ended:
		return p.ProcessState.ExitCode()
	case <-time.After(time.Minute):
		t.Fatalf("%v goes on, want it to end; it printed\n%s", p.args, &p.out)
		return -1
	}
}

// complains waits for the process's end and checks its status and its last line.
func (p *process) complains(t *testing.T, says ...string) {
	t.Helper()
	status := p.exits(t)
	lines := strings.Split(strings.TrimRight(p.out.String(), "\n"), "\n")
	last := lines[len(lines)-1]
	if status != exitFailed || !strings.HasPrefix(last, "nexus-raft: ") {
		t.Errorf("%v: got status %d and %q, want %d and why", p.args, status, last, exitFailed)
	}
	for _, want := range says {
		if !strings.Contains(last, want) {
			t.Errorf("%v: got %q, want %q in it", p.args, last, want)
		}
	}
}

func (p *process) stop(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := p.exits(t); status != exitOK {
		t.Errorf("%v: status %d after SIGTERM, want 0; it printed\n%s", p.args, status, &p.out)
	}
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	p.exits(t)
}

// trio is two members and a witness as three processes.
type trio struct {
	dir        string
	n1, n2, w1 *process
	a1, a2, aw string // where they serve
}

func (c *trio) data(name string) string { return filepath.Join(c.dir, name) }
func (c *trio) endpoints() string       { return c.a1 + "," + c.a2 }

func (c *trio) serve1(t *testing.T, more ...string) *process {
	return launch(t, append([]string{"serve", "--data-dir", c.data("n1"), "--listen", c.a1}, more...)...)
}

func (c *trio) serve2(t *testing.T, more ...string) *process {
	return launch(t, append([]string{
		"serve", "--data-dir", c.data("n2"), "--name", "n2", "--listen", c.a2, "--join",
		c.a1,
	}, more...)...)
}

func (c *trio) witness(t *testing.T, more ...string) *process {
	return launch(t, append([]string{
		"witness", "--data-dir", c.data("w1"), "--name", "w1", "--listen", c.aw, "--join",
		c.a1,
	}, more...)...)
}

// newTrio founds a cluster and waits until it is in sync.
func newTrio(t *testing.T) *trio {
	t.Helper()
	c := &trio{dir: t.TempDir(), a1: freeAddress(t), a2: freeAddress(t), aw: freeAddress(t)}
	if status, _, stderr := command(t, "init", "--data-dir", c.data("n1"), "--name", "n1", "--listen",
		c.a1); status != exitOK {
		t.Fatalf("init: status %d, %s", status, stderr)
	}
	c.n1, c.n2, c.w1 = c.serve1(t), c.serve2(t), c.witness(t)
	c.awaitSync(t)
	eventually(t, "the witness is ready", func() bool { // it hears that it is in a little later than all others
		out := c.w1.out.String()
		return strings.Contains(out, "msg=ready") || strings.Contains(out, `"msg":"ready"`)
	})
	return c
}

// awaitSync waits until two members and a witness are in sync.
func (c *trio) awaitSync(t *testing.T) (leader nexusraft.ZoneStatus) {
	t.Helper()
	eventually(t, "the zone is in sync", func() bool {
		var ok bool
		leader, ok = c.leader(t)
		members, voters := leader.Membership.Count(nexusraft.RoleMember), len(leader.Replicas)
		return ok && leader.Sync == nexusraft.InSync && members == 2 && voters == 3
	})
	return leader
}

// leader returns the leader's view of the zone, if there is one.
func (c *trio) leader(t *testing.T) (nexusraft.ZoneStatus, bool) {
	t.Helper()
	for _, address := range []string{c.a1, c.a2} {
		for _, z := range statusOf(t, address).Zones {
			if z.State == nexusraft.Leader {
				return z, true
			}
		}
	}
	return nexusraft.ZoneStatus{}, false
}

// statusOf returns what a node says of itself, the zero value if it does not answer.
func statusOf(t *testing.T, address string) nexusraft.NodeStatus {
	t.Helper()
	c, err := client.New(client.Options{Endpoints: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	s, err := c.Status(ctx, address)
	if err != nil {
		return nexusraft.NodeStatus{}
	}
	return s
}

func (c *trio) put(t *testing.T, key, value string) {
	t.Helper()
	status, _, stderr := command(t, "put", key, value, "--endpoints", c.endpoints(), "--timeout", "20s")
	if status != exitOK {
		t.Fatalf("put %s: status %d, %s", key, status, stderr)
	}
}

func (c *trio) wants(t *testing.T, key, value string) {
	t.Helper()
	for _, endpoint := range []string{c.a1, c.a2} {
		_, stdout, stderr := command(t, "get", key, "--endpoints", endpoint, "--timeout", "20s")
		if stdout != value+"\n" {
			t.Errorf("get %s from %s: got %q, %s; want %q", key, endpoint, stdout, stderr, value)
		}
	}
}

// copyDir copies a data directory as an operator would.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// listing is the names, sizes and times of a directory's files, to see that nothing changed.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintln(&b, path, info.Size(), info.ModTime().UnixNano())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// A member whose disk was lost comes back with its old command line: it is a new node and a
// learner, and status says what makes it a member; that makes it one.
func TestWipedMemberIsReplaced(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.put(t, "k", "before")
	c.n2.kill(t)
	c.put(t, "k", "alone")
	if err := os.RemoveAll(c.data("n2")); err != nil {
		t.Fatal(err)
	}
	c.n2 = c.serve2(t)
	var advice string
	eventually(t, "status says how to replace it", func() bool {
		_, stdout, _ := command(t, "status", "--endpoints", c.endpoints())
		i := strings.Index(stdout, "nexus-raft member replace ")
		if i < 0 {
			return false
		}
		advice, _, _ = strings.Cut(stdout[i:], "\n")
		return true
	})
	leader, _ := c.leader(t)
	if got := leader.Membership.Count(nexusraft.RoleLearner); got != 1 {
		t.Errorf("got %d learners, want the wiped node as one", got)
	}
	words := strings.Fields(advice)
	if len(words) < 5 {
		t.Fatalf("status says %q, want a whole command", advice)
	}
	args := append(words[1:5:5], "--endpoints", c.endpoints())
	if status, stdout, stderr := command(t, args...); status != exitOK {
		t.Fatalf("%q: status %d, %s%s", args, status, stdout, stderr)
	}
	c.awaitSync(t)
	c.wants(t, "k", "alone")
	c.n1.kill(t) // what it has must be enough
	c.put(t, "k", "after")
}

// A founder whose disk was lost must not open a second, empty cluster.
func TestWipedFounder(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.put(t, "k", "v")
	c.n1.kill(t)
	if err := os.RemoveAll(c.data("n1")); err != nil {
		t.Fatal(err)
	}
	c.serve1(t).complains(t, c.data("n1"), "--join")
	if _, err := os.Stat(c.data("n1")); !os.IsNotExist(err) {
		t.Errorf("the directory after the refusal: %v, want it untouched", err)
	}
	c.n1 = c.serve1(t, "--name", "n1", "--join", c.a2)
	eventually(t, "the founder is a learner of its old cluster", func() bool {
		leader, ok := c.leader(t)
		return ok && leader.Membership.Count(nexusraft.RoleLearner) == 1
	})
	c.put(t, "k", "still one cluster")
}

// A copy of a data directory that runs beside the original has no say, and ends.
func TestCopiedDirectory(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.put(t, "k", "1")
	c.n2.stop(t)
	copyDir(t, c.data("n2"), c.data("copy"))
	c.n2 = c.serve2(t)
	c.awaitSync(t)
	c.put(t, "k", "2")
	elsewhere := launch(t, "serve", "--data-dir", c.data("copy"), "--listen", freeAddress(t), "--join", c.a1)
	elsewhere.complains(t, "copied or rolled back", "copy")
	c.awaitSync(t)
	c.wants(t, "k", "2")
}

// A backup that is put back over a data directory has forgotten what it acknowledged.
func TestRolledBackDirectory(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.n2.stop(t)
	copyDir(t, c.data("n2"), c.data("backup"))
	c.n2 = c.serve2(t)
	c.awaitSync(t)
	c.put(t, "k", "v")
	c.n2.kill(t)
	copyDir(t, c.data("backup"), c.data("n2"))
	c.serve2(t).complains(t, "copied or rolled back", c.data("n2"))
	c.put(t, "k", "went on")
}

func TestRolledBackWitness(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.w1.stop(t)
	copyDir(t, c.data("w1"), c.data("backup"))
	c.w1 = c.witness(t)
	eventually(t, "both members have seen its second opening", func() bool {
		return strings.Count(c.w1.out.String(), "peer connected") >= 2
	})
	c.w1.kill(t)
	copyDir(t, c.data("backup"), c.data("w1"))
	c.witness(t).complains(t, "copied or rolled back", c.data("w1"))
	c.put(t, "k", "went on")
}

// A removed node ends, and stays out.
func TestRemovedWitness(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	if status, _, stderr := command(t, "member", "remove", "n2", "--endpoints", c.endpoints()); status != exitFailed ||
		!strings.Contains(stderr, "witness") {
		t.Errorf("remove n2: got status %d, %q; want a refusal: half of the voters would be witnesses", status, stderr)
	}
	if status, _, stderr := command(t, "member", "remove", "w1", "--endpoints", c.endpoints()); status != exitOK {
		t.Fatalf("remove w1: status %d, %s", status, stderr)
	}
	c.w1.complains(t, "removed", c.data("w1"))
	c.witness(t).complains(t, "removed", c.data("w1"))
	if err := os.RemoveAll(c.data("w1")); err != nil {
		t.Fatal(err)
	}
	c.w1 = c.witness(t)
	c.awaitSync(t)
}

// Directories that are not a node's.
func TestForeignDirectories(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	file := filepath.Join(c.dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	full := filepath.Join(c.dir, "full")
	if err := os.Mkdir(full, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(full, "thesis.tex"), []byte("precious"), 0o644); err != nil {
		t.Fatal(err)
	}
	free := freeAddress(t)
	before := listing(t, full) + listing(t, file)
	for _, tc := range []struct {
		args []string
		says []string
	}{
		{[]string{"init", "--data-dir", c.data("n1")}, []string{c.data("n1"), "in use"}},
		{[]string{"serve", "--data-dir", c.data("n1"), "--listen", free}, []string{c.data("n1"), "in use"}},
		{
			[]string{"witness", "--data-dir", c.data("w1"), "--listen", free, "--join", c.a1},
			[]string{c.data("w1"), "one witness at a time"},
		},
		{[]string{"init", "--data-dir", c.data("w1")}, []string{c.data("w1"), "witness"}},
		{[]string{"serve", "--data-dir", c.data("w1"), "--listen", free, "--join", c.a1}, []string{c.data("w1"), "witness"}},
		{[]string{"witness", "--data-dir", c.data("n2"), "--listen", free, "--join", c.a1}, []string{c.data("n2"), "member"}},
		{[]string{"init", "--data-dir", file}, []string{file, "not a directory"}},
		{[]string{"serve", "--data-dir", file, "--listen", free, "--join", c.a1}, []string{file, "not a directory"}},
		{[]string{"witness", "--data-dir", file, "--listen", free, "--join", c.a1}, []string{file, "not a directory"}},
		{[]string{"init", "--data-dir", full}, []string{full, "thesis.tex"}},
		{[]string{"serve", "--data-dir", full, "--listen", free, "--join", c.a1}, []string{full, "thesis.tex"}},
		{[]string{"witness", "--data-dir", full, "--listen", free, "--join", c.a1}, []string{full, "thesis.tex"}},
		{[]string{"init", "--data-dir", unwritable(t)}, []string{"data"}},
		{
			[]string{"serve", "--data-dir", filepath.Join(c.dir, "nothing"), "--listen", free},
			[]string{"nothing", "--join", "init"},
		},
		{[]string{"witness", "--data-dir", filepath.Join(c.dir, "nothing"), "--listen", free}, []string{"nothing", "--join"}},
	} {
		launch(t, tc.args...).complains(t, tc.says...)
	}
	if after := listing(t, full) + listing(t, file); after != before {
		t.Errorf("before:\n%safter:\n%swant no difference", before, after)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "nothing")); !os.IsNotExist(err) {
		t.Errorf("the empty directory after the refusal: %v, want it absent", err)
	}
	c.put(t, "k", "v") // nothing of it has disturbed the cluster
}

// unwritable returns a directory in which nothing can be made, not even by root.
func unwritable(t *testing.T) string {
	t.Helper()
	if os.Geteuid() == 0 {
		return "/sys/nexus-raft-data"
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "data")
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	status := statusOf(t, c.a2)
	c.n2.stop(t)
	lis, err := net.Listen("tcp", c.a2)
	if err != nil {
		t.Fatal(err)
	}
	c.serve2(t).complains(t, c.a2, "in use")
	lis.Close()
	c.n2 = c.serve2(t)
	c.awaitSync(t)
	if again := statusOf(t, c.a2); again.Incarnation != status.Incarnation+1 {
		t.Errorf("incarnation %d after %d, want one opening: a start without a port opens nothing", again.Incarnation,
			status.Incarnation)
	}
}

// Addresses to join that lead nowhere.
func TestJoinAddresses(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	mute := muteServer(t)
	own, local, nobody := freeAddress(t), freeAddress(t), freeAddress(t)
	_, port, _ := net.SplitHostPort(local)
	cases := []struct {
		listen, join string
		says         []string
	}{
		{own, own, []string{own, "own address"}},
		{local, "localhost:" + port, []string{"localhost:" + port, "own address"}},
		{freeAddress(t), nobody, []string{nobody, "refused"}},
		{freeAddress(t), web.Listener.Addr().String(), []string{web.Listener.Addr().String()}},
		{freeAddress(t), mute, []string{mute}},
		{freeAddress(t), c.aw, []string{c.aw, "witness"}},
	}
	var started []*process // all at once: each waits out its timeout
	for _, tc := range cases {
		dir := filepath.Join(t.TempDir(), "n3")
		started = append(started, launch(t, "serve", "--data-dir", dir, "--listen", tc.listen, "--join", tc.join,
			"--join-timeout", "2s"))
	}
	began := time.Now()
	for i, tc := range cases {
		started[i].complains(t, tc.says...)
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("--join %s took %v", tc.join, took)
		}
	}
	// A directory of one cluster, and an address of another.
	other := newTrio(t)
	other.n2.stop(t)
	other.n2 = launch(t, "serve", "--data-dir", other.data("n2"), "--listen", other.a2, "--join", c.a1)
	other.awaitSync(t)
	other.put(t, "k", "its own")
	other.wants(t, "k", "its own")
	if got := statusOf(t, c.a1); len(got.Zones) != 1 || len(got.Zones[0].Membership.Members) != 3 {
		t.Errorf("the other cluster has %+v, want its three replicas", got.Zones)
	}
}

// muteServer accepts connections and says nothing.
func muteServer(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lis.Close() })
	go func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(io.Discard, conn)
			}()
		}
	}()
	return lis.Addr().String()
}

// Keys, values and zones that are not to be.
func TestBadKeys(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	before := c.awaitSync(t)
	long := strings.Repeat("k", 4<<10+1)
	for _, tc := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"put", "", "v"}, exitFailed, "key"},
		{[]string{"get", ""}, exitFailed, "key"},
		{[]string{"del", ""}, exitFailed, "key"},
		{[]string{"put", long, "v"}, exitFailed, "4096"},
		{[]string{"put", "k", strings.Repeat("v", 3<<20)}, exitFailed, "limit"},
		{[]string{"put", "k", "v", "--zone", "77"}, exitFailed, "zone"},
		{[]string{"get", "k", "--zone", "77"}, exitFailed, "zone"},
		{[]string{"put", "k", "v", "--zone", "XYZ"}, exitUsage, "zone"},
	} {
		status, stdout, stderr := command(t, append(tc.args, "--endpoints", c.endpoints())...)
		if status != tc.status || stdout != "" || !strings.Contains(stderr, tc.says) || strings.Count(stderr, "\n") > 2 ||
			len(stderr) > 600 {
			t.Errorf("%.40q: got status %d, %q, %.600q; want %d and %q in a line", tc.args, status, stdout, stderr, tc.status,
				tc.says)
		}
	}
	after, _ := c.leader(t)
	if after.LastIndex > before.LastIndex+1 {
		t.Errorf("last index %d after %d, want nothing appended", after.LastIndex, before.LastIndex)
	}
	if status, _, stderr := command(t, "get", "k", "--endpoints", c.aw); status != exitFailed ||
		!strings.Contains(stderr, "name a member") {
		t.Errorf("get at the witness: got status %d, %q; want the way out", status, stderr)
	}
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{"put", "6b0001", "2d35ff", "--hex"}, ""},
		{[]string{"get", "6b0001", "--hex"}, "2d35ff\n"},
		{[]string{"list", "6b00", "--hex"}, "6b0001\t2d35ff\n"},
		{[]string{"del", "6b0001", "--hex"}, "deleted 1\n"},
	} {
		status, stdout, stderr := command(t, append(tc.args, "--endpoints", c.endpoints())...)
		if status != exitOK || tc.says != "" && stdout != tc.says {
			t.Errorf("%q: got status %d, %q, %s; want %q", tc.args, status, stdout, stderr, tc.says)
		}
	}
	if status, _, stderr := command(t, "put", long[1:], "v", "--endpoints", c.endpoints()); status != exitOK {
		t.Errorf("a key of 4 KiB: status %d, %.200s", status, stderr)
	}
	c.oldRevisions(t)
}

// oldRevisions has a cluster do what TestOldRevisions and TestTxn have a store do.
func (c *trio) oldRevisions(t *testing.T) {
	t.Helper()
	swap := writeFile(t, []byte("mod(\"o\") > 0\n\nput o new\nget o\n\n\n"))
	c.put(t, "o", "old")
	for _, tc := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"txn", swap}, exitOK, "OK\n\no\tnew\n"},
		{[]string{"history", "o"}, exitOK, "  2        3      no\n"},
		{[]string{"get", "o", "--rev", "1"}, exitFailed, "there was no key"},
		{[]string{"get", "o", "--rev", "100"}, exitFailed, "not there yet"},
		{[]string{"compact", "5", "--physical"}, exitOK, "is 5\n"},
		{[]string{"compact", "5"}, exitFailed, "is 5 already"},
		{[]string{"compact", "100"}, exitFailed, "not there yet"},
		{[]string{"list", "--rev", "4"}, exitFailed, "revision 4 is compacted: the oldest that can be read is 5"},
		{[]string{"history", "absent"}, exitFailed, "not since revision 5"},
	} {
		status, stdout, stderr := command(t, append(tc.args, "--endpoints", c.endpoints(), "--timeout", "20s")...)
		if status != tc.status || !strings.Contains(stdout+stderr, tc.says) {
			t.Errorf("%q: got status %d, %q, %s; want %d and %q", tc.args, status, stdout, stderr, tc.status, tc.says)
		}
	}
}
