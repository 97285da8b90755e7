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
//	identity.a, identity.b  who the node is, and the highest incarnation it saw of each peer
//	zone-ID.a, zone-ID.b    one zone's log, hard state, configuration and members
//
// Each pair of files is one small content that is replaced as a whole; slots.go says how.
// A Log keeps the terms of the entries that are not applied yet, as runs, and no payload:
// its size does not grow with writes.
//
// # Goroutines
//
// One worker owns all zones. gRPC handlers put messages into its bounded inbox, and vote
// requests with a slot that is filled once the vote is on the disk. transport's senders
// carry the answers. The identity is the only other thing that is written; a mutex guards
// it, because handshakes are rare. The first write that fails ends Run, and nothing that
// depends on it leaves (I3, I9).
package witness
