// Package simtest runs a whole zone, two members and a witness and their replacements, or several zones
// on the same nodes, in one goroutine: the real driver with its rounds (internal/driver), the real step
// machine (internal/zone), the real log (internal/raftlog) over a store on a crashable file system in
// memory, the real log of the witness (witness.Log) on another one, the real way of a command into the
// state (internal/apply, internal/system: sessions, digests, records of zones) and of the state to
// another member (internal/snapshot), and a made-up clock, network and workload. It has nothing but
// tests.
//
//	go test ./internal/simtest                                 ten seeds; a hundred with NEXUS_RAFT_CI=1
//	go test ./internal/simtest -simtest.seeds=5000 -timeout 1h more of them
//	go test ./internal/simtest -run TestChaos -simtest.seed=17 -simtest.trace -v
//
// One seed is one run: all that is random comes from it, raft's election timeouts too, and
// TestSameSeedSameRun holds that. A failure prints its seed and the last events.
//
// # Reading the source
//
// world.step (what happens in a step of time), process.progress (how the driver is driven), node.Stage
// and process.Commit (where it stands still, and may crash), memberDevice and witnessDevice (what a
// crash leaves), oracle (the invariants, checked after each step), ledger (what each committed entry
// comes to, in other words), TestChaos, TestTable, TestAvailability (each set of links that can be cut,
// against docs/availability.md), TestLongPaths, TestSlowDisks, TestSleep (faults while the zone sleeps,
// or falls asleep), TestSessionChaos (numbered commands, handed over again and again, many of them in
// one entry),
// TestLeaseChaos (leaders that read alone, by clocks that drift),
// TestKeySpaceChaos (kv instead of registers: reads at old revisions, compactions, sweeps, and the raise to
// versions; keySpace is its model), TestMachineThatDiffers (digests), TestZoneChaos (zones that are made and deleted),
// churn (nodes that join and leave, by the plans of zone.Replica.Plan), TestMembershipChaos,
// TestMembershipCrashes (every crash in every change).
//
// # What is not simulated
//
// A member's crash loses whole batches, not parts of one: Pebble writes in the background,
// and the run would not be a function of its seed any more. Torn writes are what the crash
// tests of storage and raftlog are for. The witness's file does lose single sectors here.
// A disk is lost for good only while the zone is in sync and every replica has applied the
// configuration that the leader has: raft counts a candidate's votes by what the candidate has
// applied, so a disk that is lost in the moment after a change may leave nobody electable.
// The handshake that refuses a removed node is a line in node.receive. How a node makes and drops its
// replicas by the root zone's records (process.match), and how a witness is told of the zones
// (process.takeOver), are told here once more; those of node and witness have tests of their own, and
// of a witness all of it is on the disk at once here. What becomes of proposals in package node
// (permissions, forwarding) is not simulated, nor are the limits of sessions in number and bytes:
// here they are forgotten after an hour without use, which is a few ticks.
//
// # What these checks caught
//
// In the code: a founder that is alone in its zone and restarts answered reads before it
// knew its commit index again, so that acknowledged writes were missing
// (zone.Replica.Read, TestFounderAlone); late answers to a leader that had crashed
// meanwhile were refused as forged ones; a witness that was sent entries before they were on
// the leader's own disk refused its vote for ever to the only member left after a crash
// (Replica.showsWitness, the row "degraded, leader restarts"); a leader that was elected
// while its own removal was under way let the witness see what no member that stays had
// (gate.limit).
//
// Planted, to see that they can fail:
//
//	AfterSync sent before the write             I3, at the first vote
//	responses among the messages that go early  I3, at the first append
//	gate open while in sync                     hold-back
//	gate closed while degraded                  liveness: the follower dies and nothing is acknowledged
//	in sync without R >= floor                  hold-back
//	floor not raised by what is released        hold-back
//	a deposed leader's appends not filtered     hold-back
//	a write that is not synced, of a member     I2: the restart finds another disk
//	a write that is not synced, of the witness  I2
//	applied index, or hard state, not written   I2: the log does not open again
//	a snapshot leaves the old log's end         I7: the log does not open again
//	a snapshot's data is not installed          I2
//	apply looks at the replica's name           I4
//	the result of another's entry               I8
//	copies counted by what was sent             the copies that the oracle counts
//	a session keeps no answers                  I17: the ledger says that it ran before
//	a command runs again for a new process      I17: the same
//	a window of sessions is off by one          I17
//	snapshots leave out the sessions            I4: the whole state of two members
//	time goes back with a leader's clock        I4: the machine keeps the time
//	a deleted zone leaves its log               each node hosts what there is
//	a digest passes over an entry               I4: the digest
//	a part ends in the middle of an entry       I2: the state on the disk
//	an entry's commands swap their answers      I8: the caller's own command
//	an entry answers its first command alone    liveness: every call is answered
//	a command that is twice in an entry runs    I17: the ledger says that it ran before
//	one zone's sync is not waited for           I3, in another zone of the round
//	a leader answers reads without asking       porcupine
//	a single voter answers reads at once        porcupine
//	witness never forgets its leader            liveness: the leader dies and nobody follows
//	witness ticks raft                          I11
//	stale suffix left behind in the log         I7: the log does not open again
//	zones sleep on though their leader is gone  liveness: nobody leads
//	a voter votes right after its start         I18
//	a leader reads alone while it hands over    I18
//	clocks drift beyond the bound               porcupine (TestLeaseNeedsItsBound)
//	a sweep removes what is live at C           kv.Check
//	a sweep's place is kept in memory           I4: the digest
//	undo takes the last change, or no deletes   the ledger: a revision is another one
//	a compacted revision is read                porcupine
//	compares inside see the writes around them  I17: the ledger has another answer
//	the raise moves nothing                     kv.Check
package simtest
