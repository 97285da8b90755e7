package transport

import (
	"context"
	"fmt"
	"iter"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Identity is what a node says of itself in every handshake.
type Identity struct {
	Cluster     nexusraft.ClusterID // 0: it belongs to no cluster yet and can only join one
	Node        nexusraft.NodeID
	Incarnation nexusraft.Incarnation
	Boot        nexusraft.Boot   // of this opening; never 0
	Earlier     []nexusraft.Boot // of those before, the latest first, those that are known; 1,024 of them are sent
	Address     string           // where it is reached, host:port; at most nexusraft.MaxAddressBytes
	Name        string           // at most nexusraft.MaxNameBytes
	Witness     bool

	// Minor is the minor version of the protocol that the node speaks. Of a peer it is what that says,
	// which is MinorVersion of its program; a node's own is not looked at, MinorVersion is sent.
	Minor uint32

	// Full says that a caller has proved to be a full node, a member or a learner: by its certificate,
	// or without TLS by its own word. It is not sent, and false in all other identities.
	Full bool
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
	Context   []byte // at most 1 KiB
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
	LeaseTicksLeft int // ticks until the voter gives votes again, 0: it does
}

// SnapshotHeader says what a snapshot is of.
type SnapshotHeader struct {
	Zone    nexusraft.ZoneID
	From    nexusraft.ReplicaID
	To      nexusraft.ReplicaID
	Index   nexusraft.Index // the log index that the state includes
	Term    nexusraft.Term  // the term of the entry there
	Message []byte          // the Raft message that announces it, opaque; at most 1 MiB
}

// Proposal is a command on its way to the zone's leader.
type Proposal struct {
	Zone    nexusraft.ZoneID
	Request nexusraft.RequestID
	Own     bool // the command is the nodes' own, not the state machine's
	Command []byte

	// the client that has asked for it; nil if none has, or what clients may do is not checked
	Requester *nexusraft.Requester
}

// JoinRequest asks for admission to a cluster's root zone.
type JoinRequest struct {
	Peer Identity       // the node that asks; Peers.Join fills it in
	Role nexusraft.Role // RoleMember or RoleWitness

	// Over TLS, a node without a certificate proves that it knows a join token's secret, and asks for
	// one.
	CertificateRequest []byte          // PEM, at most nexusraft.MaxCertificateRequestBytes
	Token              pki.Token       // of the node that asks; it never leaves the process
	Proof              mtls.TokenProof // for the node that is asked
}

// RenewRequest asks for a new certificate.
type RenewRequest struct {
	Node               nexusraft.NodeID // whose
	CertificateRequest []byte           // PEM, at most nexusraft.MaxCertificateRequestBytes

	// Without a certificate that proves the node, not even one that has expired, a join token does.
	Token pki.Token       // of the node that asks; it never leaves the process
	Proof mtls.TokenProof // for the node that is asked; the zero value if a certificate has proved the node
}

// Renewal is a new certificate.
type Renewal struct {
	Certificate []byte   // PEM, the CA that has signed it last
	Authorities CABundle // what to believe; none, from an earlier release, for that CA alone
}

// JoinResult is an admission.
type JoinResult struct {
	Cluster    nexusraft.ClusterID
	Zone       nexusraft.ZoneID
	Replica    nexusraft.ReplicaID // the new node's replica in Zone
	Membership nexusraft.Membership

	Certificate []byte   // PEM, the CA that has signed it last; nil if none was asked for
	Authorities CABundle // what to believe; none, from an earlier release, for that CA alone
}

// Handlers are what a Server hands over to. All methods and functions are called from many
// goroutines at once.
type Handlers struct {
	Peer   PeerHandler   // never nil
	Member MemberHandler // nil on a witness: what only a full node does is answered Unimplemented

	// Operators serves what clients call of the service Zones, all but Propose, and of an answer all
	// but its handshake; nil: Unimplemented.
	Operators pb.ZonesServer

	// CheckSnapshot refuses a snapshot whose sender may send none, or that is of no use, before
	// anything of it is taken, and before it takes the place of another one; nil refuses none.
	CheckSnapshot func(ctx context.Context, from nexusraft.NodeID, h SnapshotHeader) error

	// CheckToken returns ErrRefused unless a caller, of which nothing is known yet, shows a join token
	// that is good. It is asked before anything is told to the caller; nil leaves that to Join.
	CheckToken func(ctx context.Context, p mtls.TokenProof) error

	// Renew signs a node's request for a certificate. The node has proved its identity by its
	// certificate, which may have expired (LapsedCallerOf); or it shows a join token instead. nil:
	// Unimplemented.
	Renew func(ctx context.Context, r RenewRequest) (Renewal, error)

	// Trust is told which authorities a peer believes, and says which this node does. Full nodes go by
	// their state alone; a witness takes over what a full node says (Identity.Full). nil, without
	// certificates of the cluster's own authority: refused.
	Trust func(ctx context.Context, from Identity, a CABundle) (Trust, error)

	// HostZones is told which zones there are, and says how much of that this node knows then, by
	// HostedZones.Version. A witness takes over what a full node says (Identity.Full); full nodes go by
	// their state. The slices belong to the handler. nil: refused.
	HostZones func(ctx context.Context, from Identity, t HostedZones) (version uint64, err error)

	// AskLeader answers a question if this node leads its zone and the one that asks has a copy of the zone's state; the
	// answer has at most MaxQuestionBytes. The question belongs to the handler, whose context ends after 10 s at the
	// latest. nil, on a witness: Unimplemented.
	AskLeader func(ctx context.Context, from Identity, q Question) (answer []byte, err error)
}

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

	// Status is what the node says of itself; its Peers come from Links. Its Zones are all that run on it, or,
	// if only is not 0, that one and the root zone, as far as they do. Anyone may ask.
	Status(ctx context.Context, only nexusraft.ZoneID) (nexusraft.NodeStatus, error)
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
	// slice belongs to the handler. An error that matches no sentinel is the state machine's answer,
	// of which the caller gets the text; a context's is ErrUncertain there.
	Propose(ctx context.Context, p Proposal) (nexusraft.Result, error)

	// Join admits a node. Asked again by the same node, it answers as before.
	Join(ctx context.Context, r JoinRequest) (JoinResult, error)
}
