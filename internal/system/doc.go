// Package system is the replicated system state of a zone: what the nodes keep beside the keys of
// its state machine, by commands of their own in the same log. It is functions of their arguments
// alone over a zone's state (I4): no node, no clock, no goroutine, no call to anybody.
//
//	Apply           runs a command, and Check refuses one that it would stop the zone for
//	AdvanceTime     the zone's time
//	Digest          of what the zone's entries have done, by which members find that they differ
//	Events          of a zone: what commands publish, and which are kept (EventLog)
//	BeginAttempt    looks up a command that a session has numbered, which runs once
//	PublishMembers  tells of conf changes
//	MachineVersion  the zone's version of its state machine
//	Authority       the cluster's certificate authority and the steps of replacing it; root zone only,
//	                as is all that follows
//	JoinToken       with which nodes join
//	Principals      which clients may do what
//	AccessTokens    their bearer tokens
//	Zones           the other zones, and the ClusterVersion that they need
//
// The keys of the state, after Prefix:
//
//	'a' 'p' name       a pb.Principal
//	'a' 't' id         a pb.AccessToken
//	'd'                the zone's Digest after the last entry; absent in a zone without one
//	'd' 'c'            what it was after the last checkpoints, the oldest first
//	'd' 'x'            this replica's alone: its state differs from the leader's, see MarkDiverged
//	'e' sequence       an event, see encodeEvent; the sequence is 8 bytes, big-endian
//	'm'                the zone's version of its state machine, 4 bytes, big-endian; absent: 0
//	'q'                the EventLog; absent in a zone without events so far
//	'r' 'c'            all sessions together, see sessionTable; absent before the first one
//	'r' 's' id         a session, see session.encode; the ID is 8 bytes, big-endian
//	'r' 'a' id place   an answer of it, see sessionAnswer.encode; the place is its number modulo 64, a byte
//	's' 'a'            the pb.Authority
//	's' 't' id         a pb.JoinToken
//	's' 'v'            the cluster's version, 4 bytes, big-endian; absent where an earlier release founded
//	's' 'z'            the pb.ZoneTable; absent before the first zone besides the root zone
//	'z' 'n' name       the ID of the zone of this name, 8 bytes, big-endian
//	'z' 'r' id         a zone's pb.ZoneRecord; the ID is 8 bytes, big-endian
//	't'                the zone's time, 8 bytes, big-endian
//
// They are replicated, stored and sent in snapshots with the changes that they tell of, by the same
// atomic writes (I2).
//
// What Apply does is for ever: replicas of two releases apply the same log, and a replica that
// starts anew applies an old one. Whatever changes a limit, a refusal or a stored byte changes
// history, and two replicas may differ from then on. The limits say so where they stand; the names
// that pki.ValidateClient takes, and the limits of events in the root package, are such limits, too.
package system

// Prefix begins each key of the system state in a zone's state.
const Prefix = 0x00
