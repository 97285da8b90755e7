// Package concurrency serves etcd's Lock and Election over keys of the zone that a call names, as etcd's clients do it
// themselves (clientv3/concurrency), so that both can wait for each other.
//
// Who wants a lock puts a key under its name, with a lease. The oldest key has the lock; every other waits for the
// one before it to go. A key's revision of creation is larger than that of each earlier holder: it is a fencing
// token. A program that writes in a transaction which compares the key's create revision with it writes nothing once
// it has lost the lock; a store outside the zone can refuse what comes with a smaller number than it has seen. An
// election is the same, with a value.
//
//	Concurrency  Lock and Election
//	place    one key in the queue for a name
//	bells    wake who waits for a key to go: one goroutine for a zone in which anybody waits
package concurrency
