// Package worker is the zones of a member, divided among workers: their groups, how those are made and dropped as the
// root zone's records ask for, what they write, apply and send, the switch to a snapshot's state, and when
// a state machine leads.
//
// A worker is a goroutine that owns its zones: it alone touches their groups and replicas, and writes what they
// write in one batch. The zone's ID says which worker has it. Workers is the way in, for any goroutine: what it is
// asked for it hands over to the inbox of the zone's worker, and waits.
//
// What workers have together is in Options and in together.go. The root zone's worker tells the others of what has come
// of the zones' records, and each makes and drops its own replicas (hosting.go).
//
// It knows no node: Options have what its zones share with the rest of one.
package worker
