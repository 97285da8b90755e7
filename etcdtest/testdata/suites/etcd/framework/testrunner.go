// Package framework stands in for etcd's, whose other runners start servers within the test.
package framework

import (
	"go.etcd.io/etcd/tests/v3/framework/integration"
	intf "go.etcd.io/etcd/tests/v3/framework/interfaces"
)

// IntegrationTestRunner runs tests on clusters of processes.
var IntegrationTestRunner intf.TestRunner = integration.NewIntegrationRunner()
