// Package raftwire carries raft's messages between the wire and a worker, at a member and at a
// witness alike: the driver knows no wire, and transport no raft.
//
//   - receive.go: what peers send goes to the worker's inbox, and vote requests wait for their answers.
//   - send_by_class.go: what leaves a round goes to the peers, and the answers to votes come back.
//   - signal.go: what a node says of itself with every tick, for all zones (internal/zone/sleep.go).
//   - vote.go: a vote request and its answer, in the form of either side.
package raftwire
