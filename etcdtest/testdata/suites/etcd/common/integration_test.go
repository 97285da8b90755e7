//go:build integration

package common

import (
	"go.etcd.io/etcd/tests/v3/framework"
	"go.etcd.io/etcd/tests/v3/framework/config"
	"go.etcd.io/etcd/tests/v3/framework/integration"
)

// The clusters of etcd's own list that have several members have TLS as well, which the adapter has
// not; so there would be none for tests of what members have in common, HashKV for example.
func init() {
	testRunner = framework.IntegrationTestRunner
	clusterTestCases = func() []testCase {
		return []testCase{
			{name: "one member", config: config.ClusterConfig{ClusterSize: 1}},
			{name: "two members", config: config.ClusterConfig{ClusterSize: 2}},
			{name: "three members", config: config.ClusterConfig{ClusterSize: 3}},
		}
	}
}

// WithAuth and the others are what the tests ask of a framework besides clusters.
func WithAuth(name, password string) config.ClientOption { return integration.WithAuth(name, password) }

func WithAuthToken(token string) config.ClientOption { return integration.WithAuthToken(token) }

func WithEndpoints(endpoints []string) config.ClientOption {
	return integration.WithEndpoints(endpoints)
}

func WithHTTP2Debug() config.ClusterOption { return integration.WithHTTP2Debug() }

func WithUnixClient() config.ClusterOption { return integration.WithUnixClient() }

func WithTCPClient() config.ClusterOption { return integration.WithTCPClient() }
