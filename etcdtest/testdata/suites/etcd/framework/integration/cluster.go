// Package integration stands in for etcd's test framework of the same name: its clusters are
// processes, of etcd or of nexus-raft, where etcd's are servers within the test.
//
// The environment names the programs: SUITE_ETCD, or SUITE_MEMBER and SUITE_WITNESS.
package integration

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

	"go.uber.org/zap"

	"go.etcd.io/etcd/client/pkg/v3/testutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/pkg/v3/grpctesting"
	framecfg "go.etcd.io/etcd/tests/v3/framework/config"
)

// patience bounds every wait.
const patience = 30 * time.Second

// TestTLSInfo is asked for by tests with TLS, which are left out.
var TestTLSInfo transport.TLSInfo

// ClusterConfig is what a test asks for.
type ClusterConfig struct {
	Size                       int
	QuotaBackendBytes          int64
	DisableStrictReconfigCheck bool
	AuthToken                  string
	SnapshotCount              uint64
	ClientTLS, PeerTLS         *transport.TLSInfo
	UseTCP, UseIP              bool
}

// Cluster is some members, each a process with a client, and a witness beside two of ours.
type Cluster struct {
	Members []*Member

	beside []*process // a witness, and the second member where a test wants one
	dir    string
}

// Member is a member that holds data.
type Member struct {
	Name   string
	Client *clientv3.Client

	process *process
}

// NewCluster starts a cluster and waits until all its members are in.
func NewCluster(t testutil.TB, cfg *ClusterConfig) *Cluster {
	if cfg.ClientTLS != nil || cfg.PeerTLS != nil {
		t.Skip("the adapter has no TLS")
	}
	dir, err := os.MkdirTemp("", "suite-*")
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{dir: dir}
	t.Cleanup(func() { c.Terminate(t) })
	if os.Getenv("SUITE_ETCD") != "" {
		c.addEtcds(cfg)
	} else {
		c.addOurs(t, cfg)
	}
	for _, p := range c.processes() {
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
	}
	for _, m := range c.Members {
		if m.Client, err = newClient(clientv3.Config{Endpoints: []string{m.process.address}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.awaitMembers(); err != nil {
		t.Fatalf("%v\n%s", err, c.logs())
	}
	return c
}

// addEtcds adds members of an etcd.
func (c *Cluster) addEtcds(cfg *ClusterConfig) {
	var peers, all []string
	for i := range cfg.Size {
		peers = append(peers, "http://"+freeAddress())
		all = append(all, fmt.Sprintf("m%d=%s", i, peers[i]))
	}
	for i := range cfg.Size {
		p := newProcess(os.Getenv("SUITE_ETCD"), c.dir, fmt.Sprintf("m%d", i))
		p.args = []string{
			"--name", p.name, "--data-dir", p.dir, "--listen-client-urls", "http://" + p.address,
			"--advertise-client-urls", "http://" + p.address, "--listen-peer-urls", peers[i],
			"--initial-advertise-peer-urls", peers[i], "--initial-cluster", strings.Join(all, ","),
			"--heartbeat-interval", "10", "--election-timeout", "100", "--unsafe-no-fsync", "--log-level", "error",
			"--quota-backend-bytes", fmt.Sprint(cfg.QuotaBackendBytes),
		}
		c.Members = append(c.Members, &Member{Name: p.name, process: p})
	}
}

// addOurs adds members of ours. A test that wants one of etcd's gets one of two and a witness; one that
// wants two sees both; three are three full members.
func (c *Cluster) addOurs(t testutil.TB, cfg *ClusterConfig) {
	var first *process
	for i := range max(cfg.Size, 2) {
		p := newProcess(os.Getenv("SUITE_MEMBER"), c.dir, fmt.Sprintf("m%d", i))
		p.args = []string{"serve", "--data-dir", p.dir, "--name", p.name, "--listen", p.address}
		if i == 0 {
			first = p
		} else {
			p.args = append(p.args, "--join", first.address)
		}
		if i < cfg.Size {
			c.Members = append(c.Members, &Member{Name: p.name, process: p})
		} else {
			c.beside = append(c.beside, p)
		}
	}
	out, err := exec.Command(first.program, "init", "--data-dir", first.dir, "--name", first.name, "--listen",
		first.address).CombinedOutput()
	if err != nil {
		t.Fatalf("init: %v: %s", err, out)
	}
	if cfg.Size <= 2 {
		w := newProcess(os.Getenv("SUITE_WITNESS"), c.dir, "w")
		w.args = []string{"--data-dir", w.dir, "--name", w.name, "--listen", w.address, "--join", first.address}
		c.beside = append(c.beside, w)
	}
}

func (c *Cluster) processes() (all []*process) {
	for _, m := range c.Members {
		all = append(all, m.process)
	}
	return append(all, c.beside...)
}

// awaitMembers returns once each member names all the others as voters and answers a read.
func (c *Cluster) awaitMembers() error {
	return poll("all members are in", func(ctx context.Context) bool {
		for _, m := range c.Members {
			list, err := m.Client.MemberList(ctx)
			if err != nil || len(list.Members) != len(c.processes()) {
				return false
			}
			if c.promote(list) {
				return false
			}
			if _, err := m.Client.Get(ctx, "x"); err != nil {
				return false
			}
		}
		return true
	})
}

// promote makes learners members, and returns whether there was one. The second node of ours with data
// becomes a member by itself, a third one does not.
func (c *Cluster) promote(list *clientv3.MemberListResponse) (found bool) {
	for _, member := range list.Members {
		found = found || member.IsLearner
		if program := os.Getenv("SUITE_MEMBER"); member.IsLearner && len(c.Members) > 2 {
			exec.Command(program, "member", "promote", member.Name, "--timeout", "5s", "--endpoints",
				c.Members[0].process.address).Run() // and if it failed, again: the caller looks until there is none
		}
	}
	return found
}

// WaitLeader returns which member leads, once one does.
func (c *Cluster) WaitLeader(t testing.TB) int {
	leader := -1
	err := poll("there is a leader", func(ctx context.Context) bool {
		for i, m := range c.Members {
			if m.process.cmd == nil {
				continue
			}
			status, err := m.Client.Status(ctx, m.process.address)
			if err == nil && status.Leader == status.Header.MemberId {
				leader = i
				return true
			}
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	return leader
}

// Endpoints are those of all members that the test asked for.
func (c *Cluster) Endpoints() (endpoints []string) {
	for _, m := range c.Members {
		endpoints = append(endpoints, m.process.address)
	}
	return endpoints
}

// ClusterClient returns a client of all members.
func (c *Cluster) ClusterClient(t testing.TB, opts ...framecfg.ClientOption) (*clientv3.Client, error) {
	cfg := clientv3.Config{Endpoints: c.Endpoints()}
	for _, opt := range opts {
		opt(&cfg)
	}
	client, err := newClient(cfg)
	if err == nil {
		t.Cleanup(func() { client.Close() })
	}
	return client, err
}

func newClient(cfg clientv3.Config) (*clientv3.Client, error) {
	cfg.DialTimeout, cfg.Logger = 5*time.Second, zap.NewNop()
	return clientv3.New(cfg)
}

// WithAuth makes a client log in.
func WithAuth(name, password string) framecfg.ClientOption {
	return func(cfg any) { cfg.(*clientv3.Config).Username, cfg.(*clientv3.Config).Password = name, password }
}

// WithAuthToken gives a client a token.
func WithAuthToken(token string) framecfg.ClientOption {
	return func(cfg any) { cfg.(*clientv3.Config).Token = token }
}

// WithEndpoints gives a client other endpoints.
func WithEndpoints(endpoints []string) framecfg.ClientOption {
	return func(cfg any) { cfg.(*clientv3.Config).Endpoints = endpoints }
}

// Terminate ends all processes and removes their data.
func (c *Cluster) Terminate(t testutil.TB) {
	for _, m := range c.Members {
		if m.Client != nil {
			m.Client.Close()
			m.Client = nil
		}
	}
	if t.Failed() && c.dir != "" {
		t.Logf("%s", c.logs())
	}
	for _, p := range c.processes() {
		p.stop()
	}
	os.RemoveAll(c.dir)
	c.dir = ""
}

func (c *Cluster) logs() string {
	var all strings.Builder
	for _, p := range c.processes() {
		log, _ := os.ReadFile(p.dir + ".log")
		fmt.Fprintf(&all, "--- %s\n%s", p.name, log)
	}
	return all.String()
}

// Stop ends the member's process, its data stay.
func (m *Member) Stop(testutil.TB) { m.process.stop() }

// Restart starts it again and waits until it answers.
func (m *Member) Restart(testutil.TB) error {
	if err := m.process.start(); err != nil {
		return err
	}
	return poll(m.Name+" answers", func(ctx context.Context) bool {
		_, err := m.Client.Get(ctx, "x", clientv3.WithSerializable())
		return err == nil
	})
}

// GRPCPortNumber is the port for clients.
func (m *Member) GRPCPortNumber() string {
	_, port, _ := net.SplitHostPort(m.process.address)
	return port
}

// RecordedRequests are none: nothing looks into another process.
func (m *Member) RecordedRequests() []grpctesting.RequestInfo { return nil }

// process is a program that runs, or ran, with its data below a directory.
type process struct {
	name, dir, address, program string
	args                        []string
	cmd                         *exec.Cmd
	stdin                       io.Closer // when it closes the process ends
}

func newProcess(program, dir, name string) *process {
	return &process{name: name, dir: filepath.Join(dir, name), address: freeAddress(), program: program}
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

// underShell ends the program that it starts when its own stdin closes, as it does if the test ends,
// however it ends.
const underShell = `"$@" <&- & p=$!; cat >/dev/null; kill -9 $p; wait $p 2>/dev/null`

func (p *process) start() error {
	log, err := os.OpenFile(p.dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command("sh", append([]string{"-c", underShell, "sh", p.program}, p.args...)...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		return err
	}
	return p.cmd.Start()
}

// stop ends the process at once, if it runs.
func (p *process) stop() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	p.stdin.Close()
	p.cmd.Wait()
	p.cmd = nil
}

// poll waits until ok, which is asked again and again.
func poll(what string, ok func(context.Context) bool) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		done := ok(ctx)
		cancel()
		if done {
			return nil
		}
	}
	return errors.New("waited in vain until " + what)
}
