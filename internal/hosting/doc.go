// Package hosting is the zones of a cluster besides the root zone, as the root zone's state has them:
// it makes, deletes and lists them for clients, raises the cluster's version for the first of them, and
// while its node leads the root zone it tells the witnesses which zones there are.
//
// What a node hosts follows from that state alone. A member goes by its own copy of it: it makes a
// replica of each zone that has a record and drops those of zones that have none (internal/system says
// why nothing more is needed). A witness has no copy, and is told.
package hosting
