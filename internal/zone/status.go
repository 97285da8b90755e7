package zone

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

var raftStates = map[raft.StateType]nexusraft.RaftState{
	raft.StateFollower:     nexusraft.Follower,
	raft.StatePreCandidate: nexusraft.PreCandidate,
	raft.StateCandidate:    nexusraft.Candidate,
	raft.StateLeader:       nexusraft.Leader,
}

// Status returns this replica's view of its zone. Times and the log's first index are the
// caller's to fill in: nothing here knows a clock or the disk.
func (r *Replica) Status() nexusraft.ZoneStatus {
	st := r.rn.BasicStatus()
	s := nexusraft.ZoneStatus{
		Zone: r.cfg.Zone, Replica: r.cfg.Replica, Role: r.role(),
		State: raftStates[st.RaftState], Leader: nexusraft.ReplicaID(st.Lead),
		Term: nexusraft.Term(st.GetTerm()), Commit: nexusraft.Index(st.GetCommit()),
		Applied: r.applied, LastIndex: r.last,
		Membership: r.members,
	}
	if r.leads() {
		s.Sync, s.SyncIndex = r.Sync()
		s.Replicas = r.replicas()
	}
	return s
}

// Sync returns the gate's state and the log's last index when it was entered; SyncUnknown
// if this replica doesn't lead.
func (r *Replica) Sync() (nexusraft.SyncState, nexusraft.Index) {
	if !r.leads() {
		return nexusraft.SyncUnknown, 0
	}
	return r.gate.State()
}

// Leader returns the zone's leader as far as it is known, and whether it is this replica.
func (r *Replica) Leader() (id nexusraft.ReplicaID, self bool) {
	st := r.rn.BasicStatus()
	return nexusraft.ReplicaID(st.Lead), st.RaftState == raft.StateLeader
}

// Term returns the term that this replica is in.
func (r *Replica) Term() nexusraft.Term { return nexusraft.Term(r.rn.BasicStatus().GetTerm()) }

// Applied returns the index up to which entries are applied, as of the last Advance.
func (r *Replica) Applied() nexusraft.Index { return r.applied }

// Membership returns the records as of the last applied conf change.
func (r *Replica) Membership() nexusraft.Membership { return r.members }

// Copies returns on how many data copies the entry at index is known to be durable. On a
// replica that does not lead that is its own.
func (r *Replica) Copies(index nexusraft.Index) int {
	if !r.leads() {
		return 1
	}
	n := 0
	r.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		if !r.isWitness(nexusraft.ReplicaID(id)) && nexusraft.Index(pr.Match) >= index {
			n++
		}
	})
	return n
}

func (r *Replica) role() nexusraft.Role {
	if m, ok := r.members.Replica(r.cfg.Replica); ok {
		return m.Role
	}
	if r.cfg.Witness {
		return nexusraft.RoleWitness
	}
	return nexusraft.RoleLearner // not admitted yet, as far as this replica knows
}

func (r *Replica) replicas() []nexusraft.ReplicaStatus {
	var out []nexusraft.ReplicaStatus
	r.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		m, _ := r.members.Replica(nexusraft.ReplicaID(id))
		out = append(out, nexusraft.ReplicaStatus{
			Member: m, Match: nexusraft.Index(pr.Match), Active: r.active(nexusraft.ReplicaID(id)),
			State: progressStates[pr.State],
		})
	})
	return out
}

var progressStates = map[tracker.StateType]string{
	tracker.StateProbe:     "probe",
	tracker.StateReplicate: "replicate",
	tracker.StateSnapshot:  "snapshot",
}
