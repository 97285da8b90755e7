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

	MachineVersion uint32 `json:"machine_version,omitempty"` // of its state machine; see Versioned

	Shape  Shape `json:"shape,omitzero"`   // that it is to have; the zero value: a replica on each node
	Moving bool  `json:"moving,omitempty"` // it is under way to its placement
}

// SnapshotStatus is a zone's state on its way from a leader to a replica that its log no longer
// reaches.
type SnapshotStatus struct {
	Peer    NodeID    `json:"peer"`              // the other node
	Sending bool      `json:"sending,omitempty"` // to it, and not from it
	Index   Index     `json:"index"`             // the log index that the state includes
	Bytes   uint64    `json:"bytes"`             // how much has been sent, or has come
	Since   time.Time `json:"since"`
}

// PeerStatus is what a node knows of the link between it and another one. A node sends only on
// connections that it has opened itself, so a link has two ways, and two nodes can work together
// only if both are open.
type PeerStatus struct {
	Node    NodeID    `json:"node"`
	Address string    `json:"address"`           // where this node calls it
	Reached bool      `json:"reached"`           // this node's calls to it succeed
	Since   time.Time `json:"since"`             // when they began to succeed, or to fail
	Error   string    `json:"error,omitempty"`   // why they fail
	Heard   bool      `json:"heard"`             // it calls this node: it was heard of in the last seconds
	HeardAt time.Time `json:"heard_at,omitzero"` // when it was last heard of; zero: not since this node's start
}

// OneWay reports whether the link works one way only. A link that was just made, or is just
// breaking, may for a moment.
func (s PeerStatus) OneWay() bool { return s.Reached != s.Heard }

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
	Peers       []PeerStatus `json:"peers,omitempty"` // ascending by node; none from releases before this field

	CertificateUntil time.Time `json:"certificate_until,omitzero"` // when its certificate expires; zero without TLS

	// Minor is the minor version of the protocol that it speaks, 0 from releases before version 4.
	// ClusterVersion is the one that all nodes of its cluster have been found to speak, which what a
	// version brought waits for; 0 if this node does not know it, as a witness.
	Minor          uint32 `json:"minor,omitempty"`
	ClusterVersion uint32 `json:"cluster_version,omitempty"`

	// MachineVersions are the highest versions that it knows of its state machines, by their names; the root
	// zone's has the name "". Those of version 0 are left out.
	MachineVersions map[string]uint32 `json:"machine_versions,omitempty"`

	Refused map[string]uint64 `json:"refused,omitempty"` // how often it has refused something since its start, by cause
}

// Checksum digests one copy of a zone's state. Two replicas that report the same applied index
// report the same Checksum, or one of them is wrong.
type Checksum struct {
	Applied  Index    // the last index whose effects are included
	Revision Revision // the state's count of changes; 0 if its state machine has none
	Sum      []byte   // the digest; its holder owns it
	Pairs    uint64   // key-value pairs digested
	Bytes    uint64   // bytes of their keys and values
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
