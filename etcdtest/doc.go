// Package etcdtest drives clusters of nexus-raft with etcd's own clients: its Go client, and
// etcdctl. It is a module of its own, so that the product's go.mod stays small; run it with
// go test in its directory.
//
// It builds the programs and runs them as processes on loopback, two members and a witness.
//
// # The differential test
//
// TestDifferential plays random sequences of requests on an etcd, built from this module's tools,
// and on a cluster of ours: the outcomes must be the same, answers and errors, but for who
// answered in which term. Its parts:
//
//	differential_generate_test.go  makes a sequence from a seed
//	differential_step_test.go      one request, its text, and its revisions, which count from the
//	                               sequence's beginning: all sequences share two stores
//	differential_store_test.go     plays a sequence on one of the two stores
//	differential_compare_test.go   what may differ, each with the place where that is said
//	differential_minimise_test.go  makes a sequence that shows a difference short
//	differential_self_test.go      two etcds do not differ; mistakes that are planted in an etcd's
//	                               answers are found
//
// A sequence that shows a difference is minimised and written to testdata/differential;
// TestDifferentialKept plays all that are there. The environment:
//
//	NEXUS_RAFT_DIFFERENTIAL=1h        how long; 4 s without it, 2 minutes in CI
//	NEXUS_RAFT_DIFFERENTIAL_KINDS=txn only some kinds of requests, besides Range, Put and DeleteRange, of
//	                                  history,txn,compact,hashkv,stream,lease
//	NEXUS_RAFT_DIFFERENTIAL_SEED=174  the seed that TestDifferentialSeed plays again
//
// make differential plays for an hour.
//
// # Suites of others
//
// TestSuites runs test suites of etcd and of Kubernetes against processes: suites_test.go lists their
// tests, and of those that are left out the reason. It copies their module to a temporary directory,
// and replaces there what starts servers within the test by what is in testdata/suites.
//
//	NEXUS_RAFT_SUITES=etcd/common@etcd,etcd/common@nexus-raft go test -run TestSuites -v -timeout 1h
//
// With @etcd the suite judges an etcd, which shows whether what we replaced is right. make suites
// runs them against the cluster.
package etcdtest
