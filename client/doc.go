// Package client is the remote client of a cluster: it reads and writes the keys of one
// zone through etcd's v3 KV service, on whichever of its endpoints answers.
//
// It retries where that is safe. A read is tried on one endpoint after the other until its
// context ends. A write is tried again only when it certainly did not happen: no endpoint
// could be reached, or the one that was reached said that it appended nothing. Otherwise
// the error is nexusraft.ErrUncertain: the write may have happened, or may still happen. With
// Options.ExactlyOnce such a write is numbered and tried again, too, and happens once.
//
// Besides single calls it has what goes on for long: Subscribe and Watch follow a zone's events
// and keys, KeepLease keeps a lease alive, Lock and Campaign hold a lock or an office with a
// fencing token.
//
// Connections are made when they are first needed. They are encrypted if there are
// credentials; see Options.
package client
