// Package pki makes and reads the certificates by which nodes and clients of a cluster know
// each other: a cluster's authority, node and client certificates, and the tokens with which
// a node that has no certificate yet comes for one.
//
// Who a certificate names is in its one URI: nexus-raft://CLUSTER/node/NODE or
// nexus-raft://CLUSTER/client/NAME. Host names are not looked at: a node is its ID, wherever it is
// reached.
//
// It is all computation, on keys of the curve P-256: no files, no network, no clock of its own.
package pki
