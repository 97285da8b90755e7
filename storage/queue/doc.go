// Package queue is a durable queue on a tree of a store: tasks, events, an outbox. Messages
// are delivered in the order in which they were pushed, each at least once, until it is
// acknowledged.
//
// # Order
//
// IDs ascend in the order in which pushes become visible, and are never used twice, crashes
// included; there are gaps. Of what can be delivered, the lowest ID is first: a message that
// comes back goes before younger ones. With one consumer that acknowledges before it pops again,
// all messages come in order; several at once finish them in any.
//
// # What survives
//
// A message that was pushed with Sync survives a crash once Push has returned, and is delivered
// only then. One that was pushed without is delivered at once, unless an older one still
// waits for the disk; a crash may take it, delivered or not, and then takes all that was pushed
// after it.
//
// A message that was acknowledged is not delivered again while the process lives. After an Ack
// that was synced it never is; after one that was not, a crash may bring it back, unless something
// was synced since.
//
// Popping writes nothing: leases are in memory. After a crash, or Close, all that was not
// acknowledged is delivered again, at once, and is counted from one.
//
// # Messages that are never acknowledged
//
// A message that ends its consumer comes first again after each restart. With Options.MaxDeliveries
// the count of deliveries is on the disk, and outlives the process: what was delivered so often
// goes to another queue, Options.DeadLetters. Each Pop is a write without a sync then.
//
// # With other writes
//
// PushWith commits a message in one batch with other writes: either both happen or neither
// (an outbox). AckWith does the same for what the handling of a message writes to the same
// store: then that is done exactly once, since a consumer that has lost its lease writes nothing.
//
// # Cost
//
// A push is one write, an Ack one removal; many that wait for the disk share a sync. A Pop is one
// read, and for one in 64 a short scan that begins behind all that was delivered already. What
// is in memory is what was delivered and not acknowledged, some 200 bytes for each message
// without its value, 64 IDs, and what waits.
//
// # Layout
//
// The tree of the name that is given to Open has the messages, at their ID (8 bytes, big-endian).
// With Options.MaxDeliveries the tree with "/deliveries" behind that name has, at the same key, how
// often a message was delivered (8 bytes, big-endian).
package queue
