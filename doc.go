// Package nexusraft is the vocabulary that all parts of nexus-raft share: identifiers,
// roles, member records, status values, the errors a caller can act on, and the contract
// of a replicated state machine.
//
// The parts themselves live in packages of their own, and each can be used alone:
// storage (an embedded ordered key-value store), transport (gRPC between nodes), node
// (Raft zones) and witness (a voter without data).
package nexusraft
