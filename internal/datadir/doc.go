// Package datadir is a full node's data directory: one store, with the node's own records (its
// identity, its peers, its certificate), the logs of its zones and their states. It has what founding
// a cluster writes there, what an opening checks, and what is done to a directory while no node runs.
// The forms of the records are fixed: earlier releases have written them.
package datadir
