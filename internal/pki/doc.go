// Package pki makes and reads the certificates by which nodes and clients of a cluster know
// each other: a cluster's authority, node and client certificates, and the tokens with which
// a node that has no certificate yet comes for one.
//
// A certificate names its subject in its one URI: nexus-raft://CLUSTER/node/NODE or
// nexus-raft://CLUSTER/client/NAME. Host names are not looked at: a node is its ID, wherever it is
// reached. The cluster's own authority puts a second URI into the certificate of a node,
// nexus-raft-role:member or nexus-raft-role:witness, which says whether it holds data. Members and
// learners of the root zone hold the authority's key, and a witness does not.
//
// It is all computation, on keys of the curve P-256: no files, no network, no clock of its own.
package pki
