// Package change makes changes of a zone's replicas and of its leader: what an operator asks for, or a node
// that joins. A change is planned (internal/zone) and handed to Raft in one step where the zone's replica
// is used, and awaited here until it is in force or has failed.
package change
