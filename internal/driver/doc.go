// Package driver is the round, once: the node, the witness, the simulation and the step machine's
// tests run it. It decides what leaves a node when (I3), and nothing else does. Like the step machine
// below it, it has no goroutine, no clock and no I/O of its own: its caller gives it ticks and
// messages and calls Driver.Turn, so simulation and tests cover it as it ships.
//
// Its parts: driver.go and group.go have the round; votes.go, reads.go and proposals.go what waits for
// it; freshness.go what reads know of the state without waiting; worker.go the loop of the goroutine that
// owns groups, with its inbox, which node and witness run; status.go what a status asks of that;
// neighbors.go the signals of other nodes, and which groups sleep because of them.
//
// A group is a zone's replica on its worker: the step machine (zone.Replica), the vote requests,
// reads and proposals that wait for it, and its owner, which has the disk's side of it.
//
// # A round
//
// Turn makes one round of every group that has work, in this order:
//
//	begin    each group asks raft for its Work, and Work.SendNow leaves: a leader's appends and
//	         heartbeats, which promise nothing about its disk. What tells of the commit of a conf
//	         change is not among them (I3): zone routes each message, the driver keeps the order.
//	apply    committed entries run over the state, one command after the other, until their effects
//	         and answers are about as large as a part may be (I15). Nothing is staged yet, so a group
//	         whose state machine fails leaves nothing behind.
//	stage    each group puts its part of the write together: in its first part snapshot, entries and
//	         hard state, in every part the effects with the applied index (I2).
//	commit   one write for all groups, of each all or nothing, synced if one of them must be: votes,
//	         terms and entries, and every conf change. After an error nothing leaves any more (I9).
//	settle   proposals whose entries the part has applied are answered (I8); apply to settle repeat
//	         until the whole round is written.
//	finish   Work.AfterSync leaves: every vote and every response. Proposals that end elsewhere
//	         are told so. raft may count on what is written (Advance), and reads are served whose
//	         index is applied, written and advanced.
//	ask      the round's vote requests leave, one call for each node however many groups.
//	end      what raft has left unanswered is ended: it answers a vote at once or never.
//
// # Seams
//
// Appending and applying meet in Part only: the log's part is in Part.Work and the rest in
// Part.Committed, so that they can be written apart. Neither a Driver nor a Worker holds anything of
// a group between two turns: a group may be given to another one, so that there may be several, as a
// member has (package worker).
// Proposals don't come by the inbox: Host.Propose takes all that wait, and zone.Propose makes few
// entries of them. Each is numbered, applied and answered by itself all the same: the group knows
// of entries only that a part ends with one.
package driver
