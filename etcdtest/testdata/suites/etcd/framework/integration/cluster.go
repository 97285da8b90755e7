// Package integration stands in for etcd's test framework of the same name: its clusters are processes,
// where etcd's are servers within the test.
package integration

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"go.uber.org/zap"

	"go.etcd.io/etcd/client/pkg/v3/testutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/pkg/v3/grpctesting"
	framecfg "go.etcd.io/etcd/tests/v3/framework/config"
	"go.etcd.io/etcd/tests/v3/processes"
)

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

// Cluster is some members, each with a client.
type Cluster struct {
	Members []*Member

	set *processes.Set
}

// Member is a member that holds data.
type Member struct {
	Name   string
	Client *clientv3.Client

	process *processes.Process
}

// NewCluster starts a cluster and waits until all its members are in.
func NewCluster(t testutil.TB, cfg *ClusterConfig) *Cluster {
	if cfg.ClientTLS != nil || cfg.PeerTLS != nil {
		t.Skip("the adapter has no TLS")
	}
	set, err := processes.New(cfg.Size, "", "--quota-backend-bytes", fmt.Sprint(cfg.QuotaBackendBytes))
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{set: set}
	t.Cleanup(func() { c.Terminate(t) })
	if err := set.Start(); err != nil {
		t.Fatalf("%v\n%s", err, set.Logs())
	}
	for _, p := range set.Members {
		m := &Member{Name: p.Name, process: p}
		if m.Client, err = newClient(clientv3.Config{Endpoints: []string{p.Address}}); err != nil {
			t.Fatal(err)
		}
		c.Members = append(c.Members, m)
	}
	return c
}

// WaitLeader returns which member leads, once one does.
func (c *Cluster) WaitLeader(t testing.TB) int {
	leader := -1
	err := processes.Poll("there is a leader", func(ctx context.Context) bool {
		for i, m := range c.Members {
			if !m.process.Runs() {
				continue
			}
			status, err := m.Client.Status(ctx, m.process.Address)
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
		endpoints = append(endpoints, m.process.Address)
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

// Terminate ends all processes and removes their data. It may be called again.
func (c *Cluster) Terminate(t testutil.TB) {
	for _, m := range c.Members {
		if m.Client != nil {
			m.Client.Close()
			m.Client = nil
		}
	}
	if logs := c.set.Logs(); t.Failed() && logs != "" {
		t.Logf("%s", logs)
	}
	c.set.Remove()
}

// Stop ends the member's process, its data stay.
func (m *Member) Stop(testutil.TB) { m.process.Stop() }

// Restart starts it again and waits until it answers.
func (m *Member) Restart(testutil.TB) error {
	if err := m.process.Start(); err != nil {
		return err
	}
	return processes.Poll(m.Name+" answers", func(ctx context.Context) bool {
		_, err := m.Client.Get(ctx, "x", clientv3.WithSerializable())
		return err == nil
	})
}

// GRPCPortNumber is the port for clients.
func (m *Member) GRPCPortNumber() string {
	_, port, _ := net.SplitHostPort(m.process.Address)
	return port
}

// RecordedRequests are none: nothing looks into another process.
func (m *Member) RecordedRequests() []grpctesting.RequestInfo { return nil }
