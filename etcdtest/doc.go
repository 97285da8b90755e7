// Package etcdtest drives clusters of nexus-raft with etcd's own clients: its Go client, and
// etcdctl. It is a module of its own, so that the product's go.mod stays small; run it with
// go test in its directory.
//
// It builds the programs and runs them as processes on loopback, two members and a witness.
package etcdtest
