// Package lessor measures the time of the leases of a node's key-value zones: it renews them, revokes those that have
// run out, and says what is left of them.
//
// It is a package of its own, and not a part of kv or node, because each of these does without the other: kv has no
// clock, and a node knows no state machine. A program that embeds a node with kv.StateMachine makes a Lessor, gives
// its Answer to the node (node.Config.Answer), and runs it beside the node (Run).
//
// The state says which leases there are; what is here is memory only: deadlines by this process's monotonic clock,
// of the zones that the node leads. One loop serves all of them: it hears which zones have applied something
// (node.Node.LedZones), and reads the leases that are new. A new leader reads all leases and gives each what was
// left of it at its last checkpoint, or all of its time, and an election timeout: so none runs out for the time
// without a leader. A lease that is renewed costs no log entry; of one that is not, what is left is noted in the
// state once a minute.
//
// A lease never runs out before its TTL has passed since its last renewal that was answered. Nothing rests on the
// clocks of two machines: a leader renews only what it has read after a quorum has confirmed its leadership, a later
// leader begins later, and a revoke runs in its leader's term and names the generation of the lease, or does nothing.
package lessor
