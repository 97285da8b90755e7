// Package authority issues what nodes and clients prove themselves with, and takes it back: join
// tokens, certificates of nodes and of clients, roles and access tokens; and it replaces the
// cluster's certificate authority. Every full node can do that: the records, the authority's key
// among them, are in the root zone's state (internal/system), and each change of them is a command.
// Package authz decides by the same records what a caller may do.
//
//	Service      one node's; RootZone is what it needs of the zone
//	join_tokens  tokens with which nodes join, made, listed, revoked
//	admission    whether a node that asks to join, or to renew by a token, has shown a good one
//	certificate  certificates of nodes, signed for others and for the node itself
//	renew        when a node's certificate is renewed, and whose a node renews
//	trust        which authorities a node believes
//	rotate       the steps of replacing the authority
//	access       roles, access tokens and certificates of clients
//	founding     what a cluster begins with, and an admin's way back in
package authority
