// Package compactor keeps the history of a node's key-value zones short: it compacts by itself what is older than
// the retention (Options), and has what was compacted, by it or by a client, removed in small steps.
//
// It is a package of its own, and not a part of kv or node, because each of these does without the other: kv has no
// clock and proposes nothing, and a node knows no state machine. A program that embeds a node with kv.StateMachine
// calls Run beside node.Node.Run; that function and its Options are all there is.
//
// One loop serves all zones that the node leads. It hears which of them have applied something
// (node.Node.LedZones), and keeps a note of those alone that have something to compact or to sweep: a zone
// without either costs nothing and sleeps on. One command at a time is under way, and zones take turns. After each
// sweep it rests three times as long as that took, so that the others' writes have three quarters of the time.
//
// Several compactors need not agree: the commands only ever raise a zone's compaction revision, and sweeps
// remove what nobody can read. They run in the term in which the node leads the zone, or not at all.
package compactor
