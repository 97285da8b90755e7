// Package authz decides which caller may call which gRPC method, where a node speaks TLS. Package
// policy has what each method asks of its callers. The records of the root zone, as this replica has
// them, say what each client may do; no other node is asked, so that a member that is behind, or
// cut off, still decides, by what it has. A request carries the name of its client on, and is
// checked again where it takes effect (I14): see RequesterOf and Guard.Permits.
//
//	Guard         interceptors for calls, and what the limits of callers ask
//	guardedStream a client's stream, which ends when the client may not go on
//	records       the principals and tokens, read anew when they have changed
//	credentials   what a caller shows: a bearer token or a certificate
package authz
