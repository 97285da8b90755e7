package etcdtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
	"github.com/nexi-lab/nexus-raft/kv"
)

// patience bounds every wait.
const patience = 30 * time.Second

// The programs, built for this run, and the cluster that all tests share that leave it as
// it is.
var (
	programs struct{ member, witness, etcdctl, etcd string }
	shared   *cluster
)

func TestMain(m *testing.M) {
	status, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "etcdtest:", err)
		status = 1
	}
	os.Exit(status)
}

func runTests(m *testing.M) (status int, err error) {
	dir, err := os.MkdirTemp("", "etcdtest-*")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if err := build(dir); err != nil {
		return 1, err
	}
	shared, err = newCluster(filepath.Join(dir, "shared"))
	defer shared.stop()
	if err != nil {
		return 1, fmt.Errorf("start the shared cluster: %w\n%s", err, shared.logs())
	}
	if status = m.Run(); status != 0 {
		err = errors.New("the shared cluster's logs:\n" + shared.logs())
	}
	return status, err
}

// build builds the programs: ours from the module around this one, etcdctl and etcd from this
// one's tools.
func build(dir string) error {
	for _, b := range []struct{ from, path string }{
		{"..", "./cmd/nexus-raft"},
		{"..", "./cmd/nexus-witness"},
		{".", "go.etcd.io/etcd/etcdctl/v3"},
		{".", "go.etcd.io/etcd/server/v3"},
	} {
		cmd := exec.Command("go", "build", "-o", dir+string(filepath.Separator), b.path)
		cmd.Dir = b.from
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", b.path, err, out)
		}
	}
	programs.member = filepath.Join(dir, "nexus-raft")
	programs.witness = filepath.Join(dir, "nexus-witness")
	programs.etcdctl = filepath.Join(dir, "etcdctl")
	programs.etcd = filepath.Join(dir, "server") // named after its package
	return nil
}

// cluster is two members and a witness, each a process.
type cluster struct {
	members [2]*process
	witness *process
}

// newCluster founds a cluster and returns once it is in sync. The cluster is to be stopped
// even if there is an error.
func newCluster(dir string, flags ...string) (*cluster, error) {
	c := &cluster{}
	for i, name := range []string{"n1", "n2"} {
		c.members[i] = newProcess(programs.member, dir, name, append([]string{"serve"}, flags...)...)
	}
	c.witness = newProcess(programs.witness, dir, "w1")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return c, err
	}
	first := c.members[0]
	out, err := exec.Command(programs.member, "init", "--data-dir", first.dir, "--name", first.name, "--listen",
		first.address).CombinedOutput()
	if err != nil {
		return c, fmt.Errorf("init: %w: %s", err, out)
	}
	for _, p := range []*process{c.members[1], c.witness} {
		p.args = append(p.args, "--join", first.address)
	}
	for _, p := range []*process{first, c.members[1], c.witness} {
		if err := p.start(); err != nil {
			return c, err
		}
	}
	return c, c.awaitInSync()
}

func (c *cluster) endpoints() []string {
	return []string{c.members[0].address, c.members[1].address}
}

// stop kills what runs.
func (c *cluster) stop() {
	if c == nil {
		return
	}
	for _, p := range []*process{c.members[0], c.members[1], c.witness} {
		p.kill()
	}
}

func (c *cluster) logs() string {
	var all strings.Builder
	for _, p := range []*process{c.members[0], c.members[1], c.witness} {
		b, _ := os.ReadFile(p.dir + ".log")
		fmt.Fprintf(&all, "--- %s\n%s", p.name, b)
	}
	return all.String()
}

// awaitInSync returns once there is a leader, all three are in, every write is on both members, and old
// revisions are kept.
func (c *cluster) awaitInSync() error {
	return poll("the cluster is in sync", func() bool {
		_, _, err := c.roles()
		return err == nil
	})
}

// roles returns the leader and the follower of a cluster that is in sync.
func (c *cluster) roles() (leader, follower *process, err error) {
	for i, p := range c.members {
		zones, err := p.zones()
		if err != nil {
			continue
		}
		for _, z := range zones {
			whole := z.State == nexusraft.Leader && z.Sync == nexusraft.InSync && len(z.Membership.Members) == 3
			if whole && z.MachineVersion >= kv.VersionLeases {
				return p, c.members[1-i], nil
			}
		}
	}
	return nil, nil, errors.New("the cluster is not in sync")
}

// process is one of the three.
type process struct {
	name, dir, address string
	program            string
	args               []string
	credentials        []byte // what it asks for; nil without TLS
	cmd                *exec.Cmd
	stdin              io.Closer // when it closes the process ends
}

func newProcess(program, dir, name string, args ...string) *process {
	p := &process{name: name, dir: filepath.Join(dir, name), address: freeAddress(), program: program}
	p.args = append(args, "--stop-when-stdin-closes", "--data-dir", p.dir, "--name", name, "--listen", p.address)
	return p
}

// freeAddress returns a loopback address at which nobody listens.
func freeAddress() string {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

func (p *process) start() error {
	log, err := os.OpenFile(p.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.program, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	return p.cmd.Start()
}

// kill ends the process with SIGKILL, if it runs.
func (p *process) kill() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.cmd = nil
}

// zones asks the process for its status.
func (p *process) zones() ([]nexusraft.ZoneStatus, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	c, err := client.New(client.Options{Endpoints: []string{p.address}, Credentials: p.credentials})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	status, err := c.Status(ctx, p.address)
	return status.Zones, err
}

// poll waits until ok.
func poll(what string, ok func() bool) error {
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("waited in vain until " + what)
		}
	}
	return nil
}

// ownCluster starts a cluster for one test.
func ownCluster(t *testing.T) *cluster {
	t.Helper()
	c, err := newCluster(filepath.Join(t.TempDir(), "own"))
	t.Cleanup(func() {
		c.stop()
		if t.Failed() {
			t.Log(c.logs())
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// dial returns a client of the endpoints, as a program would have it.
func dial(t *testing.T, endpoints ...string) *clientv3.Client {
	t.Helper()
	return connect(t, clientv3.Config{Endpoints: endpoints})
}

// connect is dial with more settings.
func connect(t *testing.T, config clientv3.Config) *clientv3.Client {
	t.Helper()
	config.DialTimeout, config.Logger = 5*time.Second, zap.NewNop()
	c, err := clientv3.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// within returns a context for one request.
func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// onEach runs a test against the leader and against the follower of the shared cluster.
func onEach(t *testing.T, test func(t *testing.T, client *clientv3.Client)) {
	leader, follower, err := shared.roles()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("leader", func(t *testing.T) { test(t, dial(t, leader.address)) })
	t.Run("follower", func(t *testing.T) { test(t, dial(t, follower.address)) })
}
