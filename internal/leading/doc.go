// Package leading runs the calls of nexusraft.Leading.Lead of a node: one at a time for each zone that it leads,
// each in a goroutine of its own, with the notes that wait for it. It does not know when a call is due, or what
// its end means: that is the zone's worker's business.
package leading
