package integration

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/testutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/pkg/v3/grpctesting"
	"go.etcd.io/etcd/tests/v3/processes"
)

// Member is a member that holds data.
type Member struct {
	Name    string
	GRPCURL string // where clients find it, or its bridge
	Client  *clientv3.Client

	// PeerURLs and IsLearner are for tests that change members, which are left out.
	PeerURLs  []string
	IsLearner bool

	// ElectionTicks are as many as etcd's tests have, of 10 ms; ServerConfig says how long they let it try.
	ElectionTicks int
	ServerConfig  serverConfig

	process *processes.Process
	bridge  *bridge
}

type serverConfig struct{}

// ReqTimeout is how long a member tries what a client asks.
func (serverConfig) ReqTimeout() time.Duration { return RequestWaitTimeout }

func newMember(p *processes.Process, cfg *ClusterConfig) (m *Member, err error) {
	m = &Member{Name: p.Name, GRPCURL: p.Address, process: p, ElectionTicks: 10}
	if cfg.UseBridge {
		if m.bridge, err = newBridge(p.Address); err != nil {
			return nil, err
		}
		m.GRPCURL = m.bridge.address()
	}
	m.Client, err = newClient(cfg.client(m.GRPCURL))
	return m, err
}

func (m *Member) close() {
	if m.Client != nil {
		m.Client.Close()
	}
	if m.bridge != nil {
		m.bridge.Close()
	}
}

// Bridge is what stands between clients and the member, in clusters that ask for it.
func (m *Member) Bridge() Bridge { return m.bridge }

// URL is the member's own address.
func (m *Member) URL() string { return "http://" + m.process.Address }

// leads asks the member whether it leads.
func (m *Member) leads(ctx context.Context) (leads bool) {
	if !m.process.Runs() {
		return false
	}
	m.ask(func(client *clientv3.Client) {
		status, err := client.Status(ctx, m.process.Address)
		leads = err == nil && status.Leader == status.Header.MemberId
	})
	return leads
}

// ask calls with a client of its own: that of the member may be taken, or its bridge cut.
func (m *Member) ask(call func(*clientv3.Client)) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{m.process.Address}, Logger: zap.NewNop()})
	if err != nil {
		return
	}
	defer client.Close()
	call(client)
}

// Stop ends the member's process, its data stay.
func (m *Member) Stop(testutil.TB) { m.process.Stop() }

// StopNotify is closed: Stop waits until the process has ended.
func (m *Member) StopNotify() <-chan struct{} {
	closed := make(chan struct{})
	close(closed)
	return closed
}

// Terminate ends the member's process for good.
func (m *Member) Terminate(testutil.TB) { m.process.Stop() }

// Restart starts it again and waits until it answers.
func (m *Member) Restart(testutil.TB) error {
	if err := m.process.Start(); err != nil {
		return err
	}
	return m.answers()
}

// WaitOK waits until it answers.
func (m *Member) WaitOK(t testutil.TB) {
	if err := m.answers(); err != nil {
		t.Fatal(err)
	}
}

func (m *Member) answers() error {
	return processes.Poll(m.Name+" answers", func(ctx context.Context) (answers bool) {
		m.ask(func(client *clientv3.Client) {
			_, err := client.Get(ctx, "x", clientv3.WithSerializable())
			answers = err == nil
		})
		return answers
	})
}

// GRPCPortNumber is the port for clients.
func (m *Member) GRPCPortNumber() string {
	_, port, _ := net.SplitHostPort(m.process.Address)
	return port
}

// Metric returns what an etcd says of itself under a name, with these labels.
func (m *Member) Metric(name string, labels ...string) (string, error) {
	if os.Getenv("SUITE_ETCD") == "" {
		return "", errors.New("only an etcd has etcd's metrics")
	}
	resp, err := http.Get(m.URL() + "/metrics")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if has := hasAll(lines.Text(), labels); strings.HasPrefix(lines.Text(), name) && has {
			return strings.Fields(lines.Text())[1], nil
		}
	}
	return "", fmt.Errorf("no metric %s %v", name, labels)
}

func hasAll(line string, labels []string) bool {
	for _, label := range labels {
		if !strings.Contains(line, label) {
			return false
		}
	}
	return true
}

// InjectPartition would cut the connections between members; the adapter skips tests that want it.
func (m *Member) InjectPartition(t testing.TB, _ ...*Member) {
	t.Skip("the adapter cuts no connections between members")
}

// RecoverPartition is the end of InjectPartition.
func (m *Member) RecoverPartition(testing.TB, ...*Member) {}

// ReadyNotify and the next two are for tests that add members.
func (m *Member) ReadyNotify() <-chan struct{} { return m.StopNotify() }

// AddAndLaunchLearnerMember would add a member; the adapter skips tests that want it.
func (c *Cluster) AddAndLaunchLearnerMember(t testing.TB) { t.Skip("the adapter adds no members") }

// GetLearnerMembers would name them.
func (c *Cluster) GetLearnerMembers() ([]*etcdserverpb.Member, error) { return nil, nil }

// RecordedRequests are none: nothing looks into another process.
func (m *Member) RecordedRequests() []grpctesting.RequestInfo { return nil }
