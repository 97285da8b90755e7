// Package integration stands in for etcd's test framework of the same name: its clusters are processes,
// where etcd's are servers within the test.
package integration

import (
	"cmp"
	"context"
	"fmt"
	"math/rand"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/testutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/tests/v3/processes"
)

// RequestWaitTimeout is how long tests wait for a request, or for an answer that must not come.
const RequestWaitTimeout = 5 * time.Second

// TestTLSInfo is asked for by tests with TLS, which are left out.
var TestTLSInfo transport.TLSInfo

// ClusterConfig is what a test asks for.
type ClusterConfig struct {
	Size                       int
	QuotaBackendBytes          int64
	MaxRequestBytes, MaxTxnOps uint
	MaxLearners                int
	DisableStrictReconfigCheck bool
	AuthToken                  string
	SnapshotCount              uint64
	ClientTLS, PeerTLS         *transport.TLSInfo
	UseTCP, UseIP, UseBridge   bool

	ClientMaxCallSendMsgSize, ClientMaxCallRecvMsgSize int
	WatchProgressNotifyInterval, GRPCKeepAliveMinTime  time.Duration
}

// flags are those that etcd and ours have under one name, and those of etcd alone.
func (cfg *ClusterConfig) flags() (both, etcd []string) {
	add := func(flags *[]string, name string, value any, given bool) {
		if given {
			*flags = append(*flags, name, fmt.Sprint(value))
		}
	}
	add(&both, "--max-request-bytes", cfg.MaxRequestBytes, cfg.MaxRequestBytes != 0)
	add(&both, "--max-txn-ops", cfg.MaxTxnOps, cfg.MaxTxnOps != 0)
	// Some tests set the server's own variable instead, which is 10 min in each program.
	interval := cmp.Or(cfg.WatchProgressNotifyInterval, v3rpc.GetProgressReportInterval())
	add(&both, "--watch-progress-notify-interval", interval, interval < 10*time.Minute)
	add(&etcd, "--grpc-keepalive-min-time", cfg.GRPCKeepAliveMinTime, cfg.GRPCKeepAliveMinTime != 0)
	add(&etcd, "--quota-backend-bytes", cfg.QuotaBackendBytes, true)
	add(&etcd, "--snapshot-count", cfg.SnapshotCount, cfg.SnapshotCount != 0)
	return both, etcd
}

// Cluster is some members, each with a client.
type Cluster struct {
	Members []*Member

	cfg *ClusterConfig
	set *processes.Set
	end sync.Once
}

// NewCluster starts a cluster and waits until all its members are in.
func NewCluster(t testutil.TB, cfg *ClusterConfig) *Cluster {
	if cfg.ClientTLS != nil || cfg.PeerTLS != nil {
		t.Skip("the adapter has no TLS")
	}
	both, etcd := cfg.flags()
	set, err := processes.New(cfg.Size, "", both, etcd)
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{cfg: cfg, set: set}
	t.Cleanup(func() { c.Terminate(t) })
	if err := set.Start(); err != nil {
		t.Fatalf("%v\n%s", err, set.Logs())
	}
	for _, p := range set.Members {
		m, err := newMember(p, cfg)
		if err != nil {
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
			if m.leads(ctx) {
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
		endpoints = append(endpoints, m.GRPCURL)
	}
	return endpoints
}

// Client returns the client of a member.
func (c *Cluster) Client(i int) *clientv3.Client { return c.Members[i].Client }

// RandClient returns the client of any member.
func (c *Cluster) RandClient() *clientv3.Client { return c.Client(rand.Intn(len(c.Members))) }

// TakeClient leaves it to the test to close the client of a member.
func (c *Cluster) TakeClient(i int) { c.Members[i].Client = nil }

// Terminate ends all processes and removes their data. It may be called again.
func (c *Cluster) Terminate(t testutil.TB) {
	c.end.Do(func() {
		for _, m := range c.Members {
			m.close()
		}
		if logs := c.set.Logs(); t != nil && t.Failed() && logs != "" {
			t.Logf("%s", logs)
		}
		c.set.Remove()
	})
}
