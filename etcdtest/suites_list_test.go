package etcdtest

import "regexp"

// suites are all that there are, by name.
var suites = map[string]suite{
	"etcd/common":        etcdCommon,
	"etcd/clientv3":      etcdClient,
	"etcd/concurrency":   etcdSuite("integration/clientv3/concurrency", nil, suiteTests{names: ".*"}),
	"etcd/lease":         etcdLease,
	"etcd/naming":        etcdSuite("integration/clientv3/naming", nil, suiteTests{names: ".*"}),
	"etcd/watch":         etcdWatch,
	"etcd/connectivity":  etcdConnectivity,
	"etcd/examples":      etcdExamples,
	"kubernetes/etcd3":   kubernetesEtcd3,
	"kubernetes/cacher":  kubernetesCacher,
	"kubernetes/factory": kubernetesFactory,
}

// What tests want that ours does not offer, or that the adapter cannot do.
const (
	skipsItself  = "it skips itself"
	noUsers      = "users and roles of keys are not offered; access is by certificates and tokens"
	noTLS        = "the adapter has no TLS"
	noPartitions = "the adapter cuts no connections between members"
	noMetrics    = "it reads a metric of etcd's"
	noQuotas     = "alarms that clients raise, and quotas, are not offered yet"
	noAdding     = "nodes get their identity by joining"
)

// etcdSuite is a package of etcd's own tests, without some of its files.
func etcdSuite(pkg string, removed []string, tests ...suiteTests) suite {
	return suite{
		module: "go.etcd.io/etcd/tests/v3", version: "v3.7.3", pkg: pkg, tags: "integration",
		files: "etcd", processes: "processes",
		removed: append([]string{
			"framework/integration/cluster_direct.go", "framework/integration/cluster_proxy.go",
		}, removed...),
		goMod: func(text string) string {
			replaced := regexp.MustCompile(`(?s)\nreplace \(.*?\n\)\n`).ReplaceAllString(text, "\n")
			// One test elsewhere needs this module, which is not published.
			return replaced + "\nreplace go.etcd.io/etcd/cache/v3 => ./stub\n"
		},
		tests: tests,
	}
}

// etcdCommon is what etcd's own tests ask of all ways to run it, with its Go client.
var etcdCommon = etcdSuite(
	"common", nil,
	suiteTests{names: "TestKV(Put|Delete|GetNoQuorum)|TestStatus|TestEndpointStatus|TestWaitLeader"},
	suiteTests{names: "TestKVGet|TestKVGetStream|TestTxn.*|TestCompact|TestEndpointHashKV"},
	// With an etcd, ...TwoCompactsOnTombstone failed once in three runs: members answered with hashes of
	// before and of after their second compaction for longer than the test's three seconds.
	suiteTests{names: "TestVerifyHashKVAfter(Compact|TwoCompactsOnTombstone|CompactOnLastTombstone)"},
	suiteTests{names: "TestWaitLeader_MemberStop", leftOut: "all its clusters have TLS, which the adapter has not"},
	suiteTests{
		names:   "TestVerifyHashKVAfterCompactAndDefrag|TestDefragOnline",
		lacking: "Defragment is not offered yet",
	},
	suiteTests{names: "TestEndpointHealth", lacking: "gRPC's health service is not offered yet"},
	suiteTests{names: "TestAlarm.*", lacking: noQuotas},
	suiteTests{names: "TestWatch|TestLease.*"},
	suiteTests{names: "TestMemberList", lacking: "it counts members, and ours have a witness beside"},
	suiteTests{names: "TestMember(Add|Remove)", leftOut: noAdding},
	suiteTests{names: "TestAuthority", leftOut: "it looks at requests within the server"},
	suiteTests{names: "Test(Auth|Role|RootRole|User).*|Test.*With(No|Invalid|Root|User)Auth", leftOut: noUsers},
)

// etcdClient is the Go client itself: keys, transactions, mirrors, namespaces.
var etcdClient = etcdSuite(
	"integration/clientv3", []string{
		"integration/clientv3/cluster_test.go", "integration/clientv3/maintenance_test.go",
		"integration/clientv3/metrics_test.go", "integration/clientv3/ordering_kv_test.go",
		"integration/clientv3/ordering_util_test.go", "integration/clientv3/mirror_auth_test.go",
		"integration/clientv3/user_test.go",
	},
	suiteTests{names: "TestKVForLearner|TestBalancerSupportLearner", leftOut: noAdding},
	suiteTests{names: "TestKVPutWithRequireLeader", lacking: noMetrics},
	suiteTests{names: "TestKVPutError", lacking: noQuotas},
	suiteTests{names: "TestKVLargeRequests", lacking: "it lets requests have 10 MiB, and ours have 1.5 MiB at most"},
	suiteTests{names: "TestTxnReadRetry", leftOut: skipsItself},
	suiteTests{names: ".*"},
)

// etcdLease is leases, and the client's cache that rests on them.
var etcdLease = etcdSuite(
	"integration/clientv3/lease", nil,
	suiteTests{names: "TestLeaseKeepAliveHandleFailure|TestLeaseRenewLostQuorum", leftOut: skipsItself},
	suiteTests{names: "TestLeaseWithRequireLeader", lacking: noMetrics},
	suiteTests{names: ".*"},
)

// etcdWatch is watches. TestV3WatchRestoreSnapshotUnsync, in the file that is removed, waits for a line
// in the server's log.
var etcdWatch = etcdSuite(
	"integration/clientv3/watch", []string{"integration/clientv3/watch/v3_watch_restore_test.go"},
	suiteTests{
		names:     "TestV3WatchProgressOnMemberRestart",
		notByEtcd: "its 10 s are often too short for the restart of an etcd that is a process",
	},
	suiteTests{
		names:   "TestV3WatchCancellation|TestV3WatchCloseCancelRace|TestWatchCancelOnServer|TestWatchWithRequireLeader",
		lacking: noMetrics,
	},
	suiteTests{
		names:   "TestWatchFragment.*",
		lacking: "it wants ten revisions in one answer; one of ours has 64 KiB of events, or one revision",
	},
	suiteTests{
		names: "TestV3WatchProgressWaitsForSync",
		lacking: "it wants the newest revision in the headers of a watch that catches up; ours have the one up to " +
			"which all was sent",
	},
	suiteTests{names: "TestV3NoEventsLostOnCompact", leftOut: "it wants code planted in the server"},
	suiteTests{names: ".*"},
)

// etcdConnectivity is what the client does while members are down or their connections hang.
var etcdConnectivity = etcdSuite(
	"integration/clientv3/connectivity", nil,
	suiteTests{names: "TestDialTLS.*", leftOut: noTLS},
	suiteTests{
		names:   "TestBalancerUnderServerShutdownWatch",
		lacking: "it wants a put to wait while there is no leader, where ours says so at once",
	},
	suiteTests{
		names:     "TestBalancerUnderServerStopInflightSerializableGetOnRestart",
		notByEtcd: "an etcd that is a process answers nobody after its start until it finds a quorum",
	},
	suiteTests{
		names:   "TestBalancerUnderBlackholeKeepAliveWatch",
		leftOut: "it waits 6.5 s, and gRPC's client pings at most each 10 s",
	},
	suiteTests{names: ".*NetworkPartition.*|TestSwitchSetEndpoints", leftOut: noPartitions},
	suiteTests{names: ".*"},
)

// etcdExamples are the examples of the client's documentation.
var etcdExamples = etcdSuite(
	"integration/clientv3/examples", nil,
	suiteTests{names: "ExampleAuth", leftOut: noUsers},
	suiteTests{names: "ExampleCluster_member(Add|AddAsLearner|Remove|Update)", leftOut: noAdding},
	suiteTests{names: "ExampleCluster_memberList", lacking: "it counts members, and ours have a witness beside"},
	suiteTests{names: "ExampleMaintenance_defragment", lacking: "Defragment is not offered yet"},
	suiteTests{names: ".*"},
)

// kubernetesSuite is a package of what Kubernetes' API server tests its store with.
func kubernetesSuite(pkg string, tests ...suiteTests) suite {
	return suite{
		module: "k8s.io/apiserver", version: "v0.37.2", pkg: pkg,
		files: "kubernetes", processes: "pkg/storage/etcd3/testserver/processes",
		goMod: func(text string) string { return text },
		tests: tests,
	}
}

// kubernetesEtcd3 is what Kubernetes' API server asks of its store.
var kubernetesEtcd3 = kubernetesSuite(
	"pkg/storage/etcd3",
	suiteTests{names: ".*"}, // new ones, too
)

// kubernetesCacher is the API server's cache, which rests on watches.
var kubernetesCacher = kubernetesSuite(
	"pkg/storage/cacher",
	suiteTests{
		names:   "TestWatchListIsSynchronisedWhenNoEventsFromStoreReceived",
		leftOut: "it has no store, and passes only after other tests in one process",
	},
	suiteTests{names: ".*"},
)

// kubernetesFactory is how the API server reaches its store.
var kubernetesFactory = kubernetesSuite(
	"pkg/storage/storagebackend/factory",
	suiteTests{names: "TestTLSConnection", leftOut: noTLS},
	suiteTests{names: ".*"},
)
