package wire

import (
	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// An enum lists a string type's values at the numbers that the generated type gives them;
// 0 is the empty string, and so is every number beyond.
type enum[S ~string, E ~int32] []S

func (t enum[S, E]) toProto(s S) E {
	for i, x := range t {
		if x == s {
			return E(i)
		}
	}
	return 0
}

func (t enum[S, E]) fromProto(e E) S {
	if e < 0 || int(e) >= len(t) {
		return ""
	}
	return t[e]
}

var (
	roles = enum[nexusraft.Role, pb.Role]{
		pb.Role_ROLE_MEMBER:  nexusraft.RoleMember,
		pb.Role_ROLE_LEARNER: nexusraft.RoleLearner,
		pb.Role_ROLE_WITNESS: nexusraft.RoleWitness,
	}
	accessRoles = enum[nexusraft.AccessRole, pb.AccessRole]{
		pb.AccessRole_ACCESS_ROLE_READ:  nexusraft.AccessRead,
		pb.AccessRole_ACCESS_ROLE_WRITE: nexusraft.AccessWrite,
		pb.AccessRole_ACCESS_ROLE_ADMIN: nexusraft.AccessAdmin,
	}
	authorityPhases = enum[nexusraft.AuthorityPhase, pb.AuthorityPhase]{
		pb.AuthorityPhase_AUTHORITY_PHASE_BELIEVED: nexusraft.AuthorityBelieved,
		pb.AuthorityPhase_AUTHORITY_PHASE_SIGNS:    nexusraft.AuthoritySigns,
		pb.AuthorityPhase_AUTHORITY_PHASE_ALONE:    nexusraft.AuthorityAlone,
	}
	raftStates = enum[nexusraft.RaftState, pb.RaftState]{
		pb.RaftState_RAFT_STATE_FOLLOWER:      nexusraft.Follower,
		pb.RaftState_RAFT_STATE_PRE_CANDIDATE: nexusraft.PreCandidate,
		pb.RaftState_RAFT_STATE_CANDIDATE:     nexusraft.Candidate,
		pb.RaftState_RAFT_STATE_LEADER:        nexusraft.Leader,
	}
	syncStates = enum[nexusraft.SyncState, pb.SyncState]{
		pb.SyncState_SYNC_STATE_IN_SYNC:  nexusraft.InSync,
		pb.SyncState_SYNC_STATE_CLOSING:  nexusraft.Closing,
		pb.SyncState_SYNC_STATE_DEGRADED: nexusraft.Degraded,
	}
)

// RoleToProto converts a role; one that is unknown becomes ROLE_UNSPECIFIED.
func RoleToProto(r nexusraft.Role) pb.Role { return roles.toProto(r) }

// RoleFromProto converts a role; one that is unknown becomes "".
func RoleFromProto(r pb.Role) nexusraft.Role { return roles.fromProto(r) }

// AccessRoleToProto converts what a client may do; an unknown role becomes none.
func AccessRoleToProto(r nexusraft.AccessRole) pb.AccessRole { return accessRoles.toProto(r) }

// AccessRoleFromProto converts what a client may do; an unknown role becomes AccessNone.
func AccessRoleFromProto(r pb.AccessRole) nexusraft.AccessRole { return accessRoles.fromProto(r) }

// AuthorityPhaseToProto converts a phase; one that is unknown becomes AUTHORITY_PHASE_UNSPECIFIED.
func AuthorityPhaseToProto(p nexusraft.AuthorityPhase) pb.AuthorityPhase {
	return authorityPhases.toProto(p)
}

// AuthorityPhaseFromProto converts a phase; one that is unknown becomes "".
func AuthorityPhaseFromProto(p pb.AuthorityPhase) nexusraft.AuthorityPhase {
	return authorityPhases.fromProto(p)
}
