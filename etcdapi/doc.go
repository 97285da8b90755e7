// Package etcdapi serves etcd's v3 API from a program that embeds a node, on the port on which the node serves its own
// services: KV, Watch, Lease, Lock, Election and what internal/rpc/etcd says, for all zones whose state machine is
// kv.StateMachine. It also does what such zones need done while their node leads them: the time of leases is counted
// (kv/lessor), and history is compacted (kv/compactor). The program nexus-raft serve is made of it.
//
//	api, err := etcdapi.New(etcdapi.Options{})
//	config := node.Config{Dir: dir, Name: "n1"}
//	api.Configure(&config)
//	n, err := node.Open(config)
//	err = api.Run(ctx, n, listener, nil)
package etcdapi
