package nexusraft

// Permission is what a gRPC method asks of the clients that call it, where the server speaks TLS.
type Permission struct {
	Role AccessRole // the least one with which it may be called
	In   Scope      // where the client must have it

	// Reading is the role that suffices for a request which changes nothing, where that can be told from the request: it
	// counts for a TxnRequest of etcd's API that has nothing but ranges. AccessNone: there is no difference.
	Reading AccessRole
}

// Scope says in which zone a client must have a role.
type Scope string

// The scopes.
const (
	// InRequestZone: in the zone that the request is for. That is what its field "zone" (uint64) says,
	// or, of a message without one, the metadata nexus-zone; the root zone where nothing is said.
	InRequestZone Scope = ""

	InRootZone Scope = "root" // for what concerns the whole cluster
	InAnyZone  Scope = "any"  // for what concerns no zone
)
