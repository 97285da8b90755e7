// Package feed reads the changes of a node's key spaces for all who follow them: once for each zone, and not once for
// each follower.
//
// A follower is a revision, up to which it has seen the changes: nothing waits for it, and nothing piles up. Of each
// zone that is followed the last changes are in memory, in a ring; who is behind that reads them from
// the zone's state. What is read is this replica's own state, whatever the zone's other replicas have by then. A
// snapshot that takes the place of the state changes nothing for followers, for a revision is the same in both; one
// that is behind the compaction revision is told so.
package feed
