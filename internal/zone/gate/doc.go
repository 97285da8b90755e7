// Package gate is the hold-back gate of a leader: it decides how far the witnesses may see the log.
// Package zone asks it once in each round.
//
// # The problem
//
// With two members and a witness, any two of the three commit an entry. If the witness acknowledges
// an entry that the follower does not have, and the leader dies, then the follower's log is behind
// the witness's and the witness must refuse its vote: no leader can be elected, although two of
// three are alive. Under load the witness, which writes less to an idle disk, is always ahead of the
// follower.
//
// # The rule
//
// While both members are healthy, a witness gets an entry only after both have it. Then a follower
// is never behind a witness, every acknowledged write is on both disks, and the witness is off the
// path of a write. When a member fails, the witness gets everything at once, and the zone goes on
// with the leader's copy alone.
//
// Terms used below, for one leader in one term:
//
//	R      the quorum-th highest index among the full voters' durable ones, the leader's
//	       own included; the quorum is that of all voters. In a joint configuration it is the
//	       lower of both halves. With fewer full voters than the quorum, R doesn't exist.
//	floor  the highest index that a witness may hold of what this leader sent. It begins at
//	       the empty entry that opens the term: a member that holds an entry of this term
//	       is ahead of whatever a witness still has from an older one.
//
//	degraded  everything goes to the witness at once; floor follows. A leader begins here.
//	closing   the full voters that R needs are replicating and close. Nothing beyond floor
//	          is released, so R reaches it. If it does not within the hold time, release:
//	          degraded, and back off before the next try.
//	in sync   R >= floor. Appends to the witness beyond R are held. If an entry is older
//	          than the hold time and R has not reached it, release: degraded. Progress counts,
//	          since a follower with a stalled disk answers heartbeats; answers count too, since a
//	          zone without writes makes no progress: if the full voters that R needs are silent
//	          for two hold times, degraded, though nothing is held.
//
// In every state, nothing is released to a witness that has not answered this leader within the hold
// time. The leader could not hear its acknowledgement, so the entry would not commit; but the
// witness would be ahead of the follower, and prevent its election for as long as the leader's links
// stay down. A leader sends each witness a heartbeat when its term opens, and the log once the
// witness has answered. A vote is no such answer: it comes back on the candidate's own call, and
// says nothing about the path of acknowledgements.
//
// Invariants: in sync, no witness holds an entry of this term beyond R (the simulation checks
// it after each step); no append leaves for a witness that is not heard (gate_test.go).
//
// A leader may be leaving the zone: it was elected while its own removal was under way. Its log goes
// with it. So in every state, a witness may see only what one of the remaining members has, or a
// single one of them could not be elected any more.
//
// Time is counted in ticks. The age of an entry is known from samples of the log's last
// index, one for each of the last HoldTicks ticks: R has stalled if it has not reached what
// the log's end was a hold time ago.
//
// Rejected: letting the witness acknowledge, and delaying only the commit. The witness would still
// hold what the follower lacks, which is what blocks the election.
package gate
