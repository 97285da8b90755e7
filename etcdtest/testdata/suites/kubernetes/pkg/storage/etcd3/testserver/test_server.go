// Package testserver stands in for Kubernetes' own, which starts an etcd within the test: it starts
// processes.
package testserver

import (
	"net"
	"net/url"
	"os"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"k8s.io/apiserver/pkg/storage/etcd3/testserver/processes"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// NewTestConfig returns a configuration with a free port. Of it count the client URL's port and the interval
// of progress notifications.
func NewTestConfig(t testing.TB) *embed.Config {
	cfg := embed.NewConfig()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	cfg.ListenClientUrls = []url.URL{{Scheme: "http", Host: lis.Addr().String()}}
	cfg.Dir = t.TempDir()
	return cfg
}

// RunEtcd starts one and returns a client of it. Both end with the test.
func RunEtcd(t testing.TB, cfg *embed.Config) *kubernetes.Client {
	t.Helper()
	if cfg != nil && !cfg.ClientTLSInfo.Empty() {
		t.Skip("the adapter has no TLS")
	}
	if cfg == nil {
		cfg = NewTestConfig(t)
	}
	var flags []string
	if interval := cfg.WatchProgressNotifyInterval; interval != 0 {
		flags = append(flags, "--watch-progress-notify-interval", interval.String())
	}
	set, err := processes.New(1, cfg.ListenClientUrls[0].Host, flags, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("SUITE_LOGS") != "" {
			t.Log(set.Logs())
		}
		set.Remove()
	})
	if err := set.Start(); err != nil {
		t.Fatalf("%v\n%s", err, set.Logs())
	}
	client, err := kubernetes.New(clientv3.Config{
		Endpoints: []string{"http://" + set.Members[0].Address}, DialTimeout: 10 * time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	recorder := storagetesting.NewKubernetesRecorder(client.Kubernetes)
	client.KV = storagetesting.NewKVRecorder(client.KV, recorder)
	client.Kubernetes = recorder
	return client
}
