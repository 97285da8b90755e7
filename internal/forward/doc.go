// Package forward keeps count of the calls that a node has passed on to a zone's leader, so that they end
// with their leader, and so that the node does not stop before they have come back.
package forward
