// Package zone is one replica of a zone as a step machine: messages, ticks and proposals
// go in, Work comes out. It has no goroutine, no clock and no I/O, so that the node, the
// witness and the simulation drive the very same code.
//
// A driver repeats one round while HasWork is true:
//
//	w := r.Ready()
//	send(w.SendNow)                      // a leader's appends and heartbeats
//	stage(w.Snapshot, w.Append, w.HardState, effects of w.Committed, applied index)
//	commit the batch, synced if w.MustSync
//	send(w.AfterSync)                    // votes and every response: never earlier (I3)
//	r.Advance()
//
// Package driver does so, and nothing else: where a test of this package needs rounds, it runs the
// driver, too. (Those tests are in package zone_test, for the driver imports this one.)
//
// Raft itself is go.etcd.io/raft/v3. What this package adds is what two members and a
// witness need: the checks on inbound messages that raft leaves to its user (step.go),
// the pairing of a waiting call with its own entry (proposal.go), the membership records
// (confchange.go), the witness that never leads (witness.go), and the hold-back gate
// that keeps every acknowledged write on both members while both are healthy (package gate).
//
// An idle zone sleeps: its replicas need no ticks (sleep.go has the essay).
//
// What a witness never asks of a replica is a function, not a method: Propose, ProposeConfChange,
// TransferLeader and Valid. A linker keeps every method of a type that the program has, and the
// witness is to stay small. Packages gate and driver do the same.
//
// A Replica is for one goroutine.
package zone
