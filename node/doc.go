// Package node is the embeddable node: Raft zones in one process, over one store and one
// gRPC port.
//
// Init founds a cluster, once. Open opens a data directory, and Run joins a cluster if
// need be, serves until its context ends, and stops in order; AwaitReady waits until it serves.
// A Zone is the way in: Propose replicates a command to the zone's state machine, on any member
// and as soon as there is a leader, Read reads linearizably, and AwaitWhole waits until the zone
// can lose any one node. docs/embedding.md begins with a whole program.
//
// # Goroutines
//
// One worker goroutine (internal/worker) owns every zone's step machine (internal/zone), its waiting
// calls and its ticks. All others hand over to its inbox and wait. A round (internal/driver) steps
// what is waiting, sends what may leave early, writes one batch for all zones that have
// something to write, synced if one of them must be, sends what had to wait for the sync,
// and answers the calls (docs/architecture.md has the picture; docs/invariants.md the
// rules that comments here cite).
//
// A disk error ends the node: Run returns it, and nothing is acknowledged after it (I9).
//
// # Access
//
// Where a node speaks TLS, a client has the roles that its name has in the root zone, per zone or
// for all (Node.Credentials). Each gRPC method needs one: those of a program's own services say which in
// Config.Permissions, and those that don't are refused. A node goes by the state as it has it: one that
// is behind, or cut off from the others, goes by what it knows.
package node
