package integration

import (
	"context"
	"testing"
	"time"

	"go.uber.org/zap"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/testutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	framecfg "go.etcd.io/etcd/tests/v3/framework/config"
	"go.etcd.io/etcd/tests/v3/processes"
)

// ThroughProxy would say that clients go through etcd's proxy.
const ThroughProxy = false

// GRPCAPI is the API without the Go client around it.
type GRPCAPI struct {
	Cluster     etcdserverpb.ClusterClient
	KV          etcdserverpb.KVClient
	Lease       etcdserverpb.LeaseClient
	Watch       etcdserverpb.WatchClient
	Maintenance etcdserverpb.MaintenanceClient
	Auth        etcdserverpb.AuthClient
	Lock        v3lockpb.LockClient
	Election    v3electionpb.ElectionClient
}

// ToGRPC returns the API over the connection of a client.
func ToGRPC(c *clientv3.Client) GRPCAPI {
	conn := c.ActiveConnection()
	return GRPCAPI{
		Cluster: etcdserverpb.NewClusterClient(conn), KV: etcdserverpb.NewKVClient(conn),
		Lease: etcdserverpb.NewLeaseClient(conn), Watch: etcdserverpb.NewWatchClient(conn),
		Maintenance: etcdserverpb.NewMaintenanceClient(conn), Auth: etcdserverpb.NewAuthClient(conn),
		Lock: v3lockpb.NewLockClient(conn), Election: v3electionpb.NewElectionClient(conn),
	}
}

// client is how a client of the endpoints is configured.
func (cfg *ClusterConfig) client(endpoints ...string) clientv3.Config {
	return clientv3.Config{
		Endpoints: endpoints, MaxCallSendMsgSize: cfg.ClientMaxCallSendMsgSize,
		MaxCallRecvMsgSize: cfg.ClientMaxCallRecvMsgSize,
	}
}

func newClient(cfg clientv3.Config) (*clientv3.Client, error) {
	cfg.DialTimeout, cfg.Logger = 5*time.Second, zap.NewNop()
	return clientv3.New(cfg)
}

// ClusterClient returns a client of all members.
func (c *Cluster) ClusterClient(t testing.TB, opts ...framecfg.ClientOption) (*clientv3.Client, error) {
	cfg := c.cfg.client(c.Endpoints()...)
	for _, opt := range opts {
		opt(&cfg)
	}
	client, err := newClient(cfg)
	if err == nil {
		t.Cleanup(func() { client.Close() })
	}
	return client, err
}

// NewClientV3 returns a client of a member.
func (c *Cluster) NewClientV3(i int) (*clientv3.Client, error) {
	return newClient(c.cfg.client(c.Members[i].GRPCURL))
}

// WaitClientV3 waits until a client's requests are answered.
func WaitClientV3(t testutil.TB, kv clientv3.KV) {
	err := processes.Poll("a client is answered", func(ctx context.Context) bool {
		_, err := kv.Get(ctx, "/")
		return err == nil
	})
	if err != nil {
		t.Fatal(err)
	}
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
