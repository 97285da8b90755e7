// Package worker is the zones of a member on one goroutine: their groups, how those are made and dropped as the
// root zone's records ask for, what they write, apply and send, the switch to a snapshot's state, and when
// a state machine leads.
//
// Worker is the way in, for any goroutine: what it is asked for it hands over to the inbox of the goroutine that
// Worker.Run works in, and waits. That goroutine alone touches a group and its replica.
//
// It knows no node: Options have what its zones share with the rest of one.
package worker
