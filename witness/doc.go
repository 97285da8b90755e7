// Package witness is the vote-only node: a voter without data, so that a zone of two
// members goes on when any one of the three is lost.
//
// It runs the same Raft as a member, internal/zone, over a log that keeps only what a vote
// needs. So Raft's own proof covers it: whatever a witness does or fails to do is delay,
// loss or restart as Raft tolerates them.
//
// # What is on its disk
//
//	witness.lock            held by the process that uses the directory
//	identity.a, identity.b  the node's identity, the highest incarnation it saw of each peer, and which
//	                        zones it hosts, as of which version of the root zone's table of them
//	zone-1.a, zone-1.b      the root zone's log, hard state, configuration and members
//	zones.a, zones.b        the same of all other zones
//
// The identity and the root zone's record are one small content each, which is replaced as a whole; slots.go says
// how. All other zones share the last pair of files, so that a round syncs once for them; journal.go says how.
// A Log keeps the terms of the entries that are not applied yet, as runs, and no payload:
// its size does not grow with writes.
//
// # Zones
//
// A witness has no copy of the root zone's state, so the leader of the root zone tells it of the other
// zones: internal/hosting tells, take_over_zones.go takes over. A log is made before the version of the
// table that made its zone is stored, and removed after the version that has it no more. So, whatever
// crashes when, a vote is not forgotten, and a zone that was dropped is never made again (I12).
//
// # Goroutines
//
// One worker owns all zones, and each round visits those alone that something has come for. gRPC
// handlers put messages into its bounded inbox, and vote requests with a slot that is filled once the
// vote is on the disk. transport's senders carry the answers. What else is written is the identity,
// which a mutex guards, because handshakes are rare; and by the handler that takes zones over, of which
// there is one at a time, the logs of zones that the worker does not have yet or any more. The first
// write that fails ends Run, and nothing that depends on it leaves (I3, I9).
package witness
