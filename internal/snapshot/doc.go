// Package snapshot carries a zone's state from one member to another: an Encoder makes bytes of a state
// as of one moment, and Receive writes what comes of them into a tree of its own, which the zone then
// switches to. Neither end holds more than a few chunks in memory, or one pair that is larger.
//
// The bytes are pairs in the order of their keys: length and bytes of the key, length and bytes of the
// value, the lengths as uvarints. What Raft must know (index, term, configuration, records) is in the
// MsgSnap that the header carries.
package snapshot
