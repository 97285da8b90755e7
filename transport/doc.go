// Package transport is gRPC between nodes: streams of opaque Raft messages, votes,
// snapshots, and the calls by which a node joins and forwards commands.
//
// It knows nothing of Raft. Server takes what other nodes send and hands it to a
// PeerHandler and, on a full node, a MemberHandler; Peers sends. Both can be used without
// consensus, as the example shows.
//
// # Identity
//
// Every stream and every call between nodes begins with a handshake that names cluster,
// both nodes, incarnation and protocol version; a mismatch is refused with a text that
// says which (invariant I6). Each side keeps the highest incarnation it has seen of the
// other and refuses a lower one, which is how a cloned or rolled-back disk shows.
//
// # Goroutines
//
// Peers runs three for each peer, all of which end before Close returns:
//
//   - the sender owns the connection and the queue: it dials, opens the Exchange stream and
//     sends frames of whatever is waiting; it never waits in order to fill a frame;
//   - the receiver, one for each stream, notices that the stream has ended;
//   - the vote caller has at most one RequestVote call under way.
//
// Server starts none: gRPC runs its methods, and they hand over and wait.
//
// # Losing messages
//
// Raft sends again, so a full queue drops the newest message and a broken stream drops what
// is queued, counted and reported by PeersOptions.OnUnreachable. Within a zone and class
// the order is kept; messages of class Control overtake messages of class Append.
package transport
