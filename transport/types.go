package transport

import (
	"context"
	"fmt"
	"iter"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Identity is what a node says of itself in every handshake.
type Identity struct {
	Cluster     nexusraft.ClusterID // 0: it belongs to no cluster yet and can only join one
	Node        nexusraft.NodeID
	Incarnation nexusraft.Incarnation
	Boot        nexusraft.Boot   // of this opening; never 0
	Earlier     []nexusraft.Boot // of those before, the latest first, those that are known; see NewBoot
	Address     string           // where it is reached, host:port; at most nexusraft.MaxAddressBytes
	Name        string           // at most nexusraft.MaxNameBytes
	Witness     bool
}

// Message is one Raft message of a zone, opaque to this package.
type Message struct {
	Zone nexusraft.ZoneID
	Data []byte
}

// Class says which queue a message waits in.
type Class int

// The classes. Order is kept within a zone and class.
const (
	Control Class = iota // heartbeats and their answers; they overtake Append
	Append               // everything else
)

// Vote is one vote request. Term and Context travel verbatim.
type Vote struct {
	Zone      nexusraft.ZoneID
	Pre       bool                // a pre-vote
	From      nexusraft.ReplicaID // the candidate
	To        nexusraft.ReplicaID // the voter
	Term      nexusraft.Term
	LastIndex nexusraft.Index
	LastTerm  nexusraft.Term
	Context   []byte // at most MaxVoteContextBytes
}

// VoteOutcome is what became of a vote.
type VoteOutcome int

// The outcomes.
const (
	VoteIgnored  VoteOutcome = iota // Raft answered nothing; Why says what is assumed
	VoteRejected                    // refused by Raft's rules
	VoteGranted                     // given, and on the voter's disk
)

func (o VoteOutcome) String() string {
	switch o {
	case VoteIgnored:
		return "ignored"
	case VoteRejected:
		return "rejected"
	case VoteGranted:
		return "granted"
	}
	return fmt.Sprintf("VoteOutcome(%d)", int(o))
}

// VoteResult answers one Vote.
type VoteResult struct {
	Zone           nexusraft.ZoneID
	Pre            bool
	From           nexusraft.ReplicaID // the voter
	To             nexusraft.ReplicaID // the candidate
	Outcome        VoteOutcome
	Term           nexusraft.Term // of Raft's answer, verbatim; the voter's own if ignored
	Why            string         // why it was ignored
	LastTerm       nexusraft.Term
	LastIndex      nexusraft.Index
	LeaseTicksLeft int // ticks until the voter stops protecting the leader it knows
}

// SnapshotHeader says what a snapshot is of.
type SnapshotHeader struct {
	Zone    nexusraft.ZoneID
	From    nexusraft.ReplicaID
	To      nexusraft.ReplicaID
	Index   nexusraft.Index // the log index that the state includes
	Term    nexusraft.Term  // the term of the entry there
	Message []byte          // the Raft message that announces it, opaque; at most MaxSnapshotMessageBytes
}

// Proposal is a command on its way to the zone's leader.
type Proposal struct {
	Zone    nexusraft.ZoneID
	Request nexusraft.RequestID
	Own     bool // the command is the nodes' own, not the state machine's
	Command []byte
}

// JoinRequest asks for admission to a cluster's root zone.
type JoinRequest struct {
	Peer Identity       // who asks; Peers.Join fills it in
	Role nexusraft.Role // RoleMember or RoleWitness

	// Over TLS, a node without a certificate shows a join token and asks for one.
	CertificateRequest []byte // PEM, at most MaxRequestBytes
	Token              pki.Token
}

// JoinResult is an admission.
type JoinResult struct {
	Cluster    nexusraft.ClusterID
	Zone       nexusraft.ZoneID
	Replica    nexusraft.ReplicaID // the new node's replica in Zone
	Membership nexusraft.Membership

	Certificate []byte // PEM, the cluster's CA last; nil if none was asked for
}

// Checksum digests one copy of a zone's state.
type Checksum = wire.Checksum

// PeerHandler is what a node and a witness both do for their peers. Its methods are called
// from many goroutines at once.
type PeerHandler interface {
	// Hello is called for every handshake, before anything else of it is accepted and
	// after Server's own checks: the node remembers incarnation and address, and refuses
	// a lower incarnation or a removed node with an error that says so, which the peer
	// gets to read. Peer's cluster is this node's, or 0 if peer asks to join.
	Hello(peer Identity) error

	// Receive takes Raft messages of one zone or many, in order. It must not block. The
	// slices belong to the handler.
	Receive(from nexusraft.NodeID, msgs []Message)

	// Leaving says that a peer shuts down in order: it ended its stream instead of
	// breaking it. All that it sent before has been received. It must not block.
	Leaving(from nexusraft.NodeID)

	// RequestVote answers when all votes in the answer are on disk, or ctx ends. The
	// slices belong to the handler.
	RequestVote(ctx context.Context, from nexusraft.NodeID, votes []Vote) ([]VoteResult, error)

	// Status is what the node says of itself. Anyone may ask.
	Status(ctx context.Context) (nexusraft.NodeStatus, error)
}

// MemberHandler is what only a full node does. Its methods are called from many goroutines
// at once. Its errors reach the caller as the sentinel of package nexusraft that they
// match, with their text.
type MemberHandler interface {
	// InstallSnapshot consumes chunks to the end, verifies the state and hands it to Raft.
	// Each chunk belongs to the handler. An error is yielded once and last, and then nothing
	// of the snapshot may be kept: the stream was cut off, or its checksums don't hold.
	// Chunks can be iterated once, and only until InstallSnapshot returns.
	InstallSnapshot(ctx context.Context, from nexusraft.NodeID, h SnapshotHeader, chunks iter.Seq2[[]byte, error]) error

	// Propose runs a command if this node leads the zone; it never forwards again. Its
	// slice belongs to the handler. An error that matches no sentinel is the state machine's
	// answer and matches ErrApplication at the caller; a context's is ErrUncertain there.
	Propose(ctx context.Context, p Proposal) (nexusraft.Result, error)

	// Join admits a node. Asked again by the same node, it answers as before.
	Join(ctx context.Context, r JoinRequest) (JoinResult, error)

	// ChangeMembership makes one change of a zone's replicas if this node leads the zone,
	// and returns once it is in force. Change is valid. Any operator may ask.
	ChangeMembership(ctx context.Context, zone nexusraft.ZoneID, change nexusraft.MembershipChange) (nexusraft.Membership, error)

	// TransferLeader has another member lead, if this node leads the zone: to, or if that is
	// 0 the member that has most of the log. It returns who leads now, once that does.
	TransferLeader(ctx context.Context, zone nexusraft.ZoneID, to nexusraft.NodeID) (nexusraft.NodeID, error)

	// Checksum digests this node's own copy of a zone's state. Anyone may ask.
	Checksum(ctx context.Context, zone nexusraft.ZoneID) (Checksum, error)
}
