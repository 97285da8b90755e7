// Package transport is gRPC between nodes: streams of opaque Raft messages, votes,
// snapshots, and the calls by which a node joins and forwards commands.
//
// It knows nothing of Raft. Server takes what other nodes send and hands it to its Handlers, among
// which a witness has no MemberHandler. ClientPool hands out a Client for each
// node, with a method for each pattern; Peers, on top of a pool, keeps streams up, queues and
// drops. All can be used without consensus, as the examples show. Package mtls has what secures
// their connections, and bounds what callers may take.
//
// # Identity
//
// Every stream and every call between nodes begins with a handshake that names cluster, both nodes,
// incarnation and protocol version; a mismatch is refused with a text that says which (invariant
// I6). Of the version, the major number must be the same; the minor may differ, and each side
// leaves out what the other's doesn't know. Each side keeps the highest incarnation it has seen of
// the other and refuses a lower one, which is how a cloned or rolled-back disk shows.
//
// # Lanes and signs of life
//
// Peers has two Exchange streams to a peer, on two connections: one for class Control, one for
// class Append. So a heartbeat waits behind no bulk, neither in a frame nor in the buffers of a
// connection. A peer of version 1.0 gets one stream for both, in frames of 64 KiB of each class.
//
// A stream asks for signs of life, three times in a SilenceTimeout and once a second at
// least. One ping at a time is under way. A stream of class Control whose ping has no answer for a
// SilenceTimeout is dropped, reported and opened anew; one that carries bulk has ten times
// as long, because there a ping waits for a peer that is slow to read, and slow is not dead. The
// other side drops a stream that has been silent for five seconds, unless its own handler
// is what holds it up. Version 1.0 knows no pings: the connection's keep-alive has to do.
//
// # Goroutines
//
// Peers runs for each peer, until Close returns at the latest:
//
//   - the sender, which owns the streams and the queue: it connects, opens the streams and
//     sends frames of whatever is waiting; it never waits in order to fill a frame;
//   - the sender of bulk, while both streams stand;
//   - for each stream a receiver, which notices its end, and a keeper, which pings;
//   - the vote caller, which has at most one RequestVote call under way.
//
// Server runs a reader for each Exchange stream that others have opened, besides gRPC's own
// goroutines, which hand over and wait.
//
// # What bounds what
//
//   - What waits for a peer: QueueMessages and QueueBytes, for each class.
//   - What a peer may have in memory here: one Exchange stream of each lane (a second replaces
//     the first), and of that as much as HTTP/2's flow control lets through while the handler
//     takes its time. A handler that is slow slows the peer down; it fills no memory.
//   - A gRPC message: 8 MiB, checked before it is read. A frame's messages and a
//     request's votes are counted before anything is allocated for them.
//   - RequestVote calls: 8 of a peer at once, 256 of all; more are RESOURCE_EXHAUSTED.
//
// # Losing messages
//
// Raft sends again, so a full queue drops the newest message and a broken stream drops what
// is queued, counted and reported by PeersOptions.OnUnreachable. Within a zone and class
// the order is kept, and no stream brings a message twice; the classes overtake each other.
package transport
