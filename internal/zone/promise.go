package zone

import (
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A leader that a quorum has just answered may read alone for a while (driver.Lease): none of that quorum
// helps to elect another leader meanwhile. Each replica promises this, a witness too, whether leaders make
// use of it or not: for an election timeout after it was last given a message of a leader, and after its
// start, when it does not know what it has heard before, it gives no vote and no pre-vote, and does not
// stand for election.
//
// raft's own check is not enough for a lease. It goes with the leader that raft knows, and raft forgets that
// one as soon as any answer of a higher term comes, a late one to a pre-vote of an earlier day say. raft's
// timer is: each message that resets the count of silence resets it, too.
//
// A vote for a transfer passes, since the leader has asked for it, and has no lease from then on (MayLease).
//
// A replica that was never in a term above the founding one has answered no leader, and is free at once: a
// new zone elects its leader without a wait.

// silence counts the ticks since a leader was last heard of, or since the start.
type silence struct{ ticks int }

// campaignTransfer is the context of vote requests that a leader has asked for.
const campaignTransfer = "CampaignTransfer"

// silenceAtStart is that of a replica which has stored a term.
func silenceAtStart(term nexusraft.Term, electionTicks int) silence {
	if term <= FoundingTerm {
		return silence{electionTicks}
	}
	return silence{}
}

// hear ends the silence if a message is of a leader. One that was deposed, as far as this replica knows, is none.
func (r *Replica) hear(m *raftpb.Message) {
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		if m.GetTerm() >= r.rn.BasicStatus().GetTerm() {
			r.silence.ticks = 0
		}
	}
}

// LeaseTicksLeft returns in how many ticks the replica gives votes again; 0: it does.
func (r *Replica) LeaseTicksLeft() int { return max(0, r.cfg.ElectionTicks-r.silence.ticks) }

// withholds reports whether a message asks for a vote that the replica does not give now. Requests of earlier
// terms are raft's to refuse.
func (r *Replica) withholds(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgVote, raftpb.MsgPreVote:
		return r.LeaseTicksLeft() > 0 && m.GetTerm() >= r.rn.BasicStatus().GetTerm() &&
			string(m.GetContext()) != campaignTransfer
	}
	return false
}

// MayLease reports whether a quorum's answer lets this replica read alone for a while: it leads, has applied
// what was acknowledged before, its configuration is not a joint one, and it has handed over to nobody in this
// term: its order to stand for election may come late, and even after the transfer was given up.
func (r *Replica) MayLease() bool {
	return r.TermApplied() && r.handedOver != r.hard.term && !r.Joint()
}

// EachVoter reports whether something holds for each voter's node.
func (r *Replica) EachVoter(holds func(nexusraft.NodeID) bool) bool {
	for _, half := range halves(r.conf) {
		for _, id := range half {
			if m, known := r.members.Replica(id); !known || !holds(m.Node) {
				return false
			}
		}
	}
	return true
}
