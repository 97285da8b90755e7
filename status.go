package nexusraft

import "time"

// SyncState says whether every acknowledged write of a zone is on all data copies that
// its quorum needs (docs/invariants.md, I1). Only a leader knows it.
type SyncState string

// The states of the hold-back gate.
const (
	SyncUnknown SyncState = ""         // this replica is not the leader
	InSync      SyncState = "in sync"  // every acknowledged write is on both members
	Closing     SyncState = "closing"  // a member that was behind is about to be in sync
	Degraded    SyncState = "degraded" // acknowledged writes may be on one member only
)

// RaftState is a replica's state in Raft.
type RaftState string

// The states.
const (
	Follower     RaftState = "follower"
	PreCandidate RaftState = "pre-candidate"
	Candidate    RaftState = "candidate"
	Leader       RaftState = "leader"
)

// ReplicaStatus is one row of a leader's view of its zone.
type ReplicaStatus struct {
	Member
	Match  Index  `json:"match"`           // known to be on that replica's disk
	Active bool   `json:"active"`          // heard of within the last election timeout
	State  string `json:"state,omitempty"` // how the leader sends to it: probe, replicate, snapshot
}

// ZoneStatus is one replica's view of its zone.
type ZoneStatus struct {
	Zone       ZoneID          `json:"zone"`
	Replica    ReplicaID       `json:"replica"`
	Role       Role            `json:"role"`
	State      RaftState       `json:"state"`
	Leader     ReplicaID       `json:"leader"` // 0 if unknown
	Term       Term            `json:"term"`
	Commit     Index           `json:"commit"`
	Applied    Index           `json:"applied"`
	FirstIndex Index           `json:"first_index"`
	LastIndex  Index           `json:"last_index"`
	Sync       SyncState       `json:"sync,omitempty"`
	SyncSince  time.Time       `json:"sync_since,omitzero"`  // when Sync was entered
	SyncIndex  Index           `json:"sync_index,omitempty"` // the last index when Sync was entered
	Membership Membership      `json:"membership"`
	Replicas   []ReplicaStatus `json:"replicas,omitempty"` // a leader's view, otherwise empty

	Snapshots []SnapshotStatus `json:"snapshots,omitempty"` // on their way to or from this replica
}

// SnapshotStatus is a zone's state on its way from a leader to a replica that its log no longer reaches.
type SnapshotStatus struct {
	Peer    NodeID    `json:"peer"`              // the other node
	Sending bool      `json:"sending,omitempty"` // to it, and not from it
	Index   Index     `json:"index"`             // the log index that the state includes
	Bytes   uint64    `json:"bytes"`             // how much has been sent, or has come
	Since   time.Time `json:"since"`
}

// NodeStatus is what a node says of itself.
type NodeStatus struct {
	Cluster     ClusterID    `json:"cluster"`
	Node        NodeID       `json:"node"`
	Name        string       `json:"name"`
	Address     string       `json:"address"`
	Witness     bool         `json:"witness,omitempty"`
	Incarnation Incarnation  `json:"incarnation"`
	Healthy     bool         `json:"healthy"`
	Problem     string       `json:"problem,omitempty"`   // why it is not healthy
	DiskBytes   int64        `json:"disk_bytes"`          // what its data takes
	DiskFree    int64        `json:"disk_free,omitempty"` // what its disk has free, the reserve included; 0 if unknown
	Zones       []ZoneStatus `json:"zones"`

	CertificateUntil time.Time `json:"certificate_until,omitzero"` // when its certificate expires; zero without TLS
}

// LeaderView returns the index of the leader's own view among several replicas' views of
// one zone, -1 if it is not among them. A leader of a term that another view is beyond has
// been overtaken and does not count.
func LeaderView(views []ZoneStatus) int {
	leader := -1
	var newest Term
	for i, v := range views {
		if v.Term > newest {
			leader, newest = -1, v.Term
		}
		if v.Term == newest && v.State == Leader {
			leader = i
		}
	}
	return leader
}
