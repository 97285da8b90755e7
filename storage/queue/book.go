package queue

import (
	"cmp"
	"time"

	"github.com/tidwall/btree"
)

// book knows of each message what the tree doesn't tell: whether it may be delivered, and
// to how many it was.
//
// A message is, in this order: pushed (above limit); unread (cursor <= ID <= limit); in
// ready; leased; and then acknowledged, which the book forgets, or in ready again.
//
// The invariants:
//
//   - Of the messages below cursor, those that are not acknowledged are in ready or leased.
//     So the unread part of the tree has no removed keys, which would be slow to skip.
//   - All that was pushed with ID <= limit is visible, and limit <= visible.
//   - What is in ready is below cursor: the lowest ID of all is found in ready, if it has any.
type book struct {
	visible uint64 // the highest ID that is visible
	limit   uint64 // up to this one, messages may be delivered
	syncing int    // the pushes that wait for the disk

	cursor    uint64
	ready     btree.Set[uint64]
	delivered map[uint64]*delivery     // what was and is not acknowledged
	leases    *btree.BTreeG[*delivery] // those of delivered that are leased
}

// delivery is what is known of a message that was delivered.
type delivery struct {
	id     uint64
	count  int
	until  time.Time // when the lease ends
	leased bool
}

func newBook() book {
	byTime := func(a, b *delivery) bool {
		return cmp.Or(a.until.Compare(b.until), cmp.Compare(a.id, b.id)) < 0
	}
	return book{
		delivered: make(map[uint64]*delivery),
		leases:    btree.NewBTreeGOptions(byTime, btree.Options{NoLocks: true}),
	}
}

// pushed notes that a message is visible. One that waits for the disk is not to be delivered
// before, nor is what was pushed after it.
func (k *book) pushed(id uint64, sync bool) {
	k.visible = id
	if sync {
		k.syncing++
	}
	k.raise(0)
}

// synced notes that a push waits for the disk no more, and whether its message is there: then so is
// all that was pushed before.
func (k *book) synced(id uint64, ok bool) {
	k.syncing--
	if ok {
		k.raise(id)
	}
	k.raise(0)
}

// raise lets messages be delivered up to id, and all that are visible if none waits for the disk.
func (k *book) raise(id uint64) {
	if k.syncing == 0 {
		id = k.visible
	}
	k.limit = max(k.limit, id)
}

// unread returns the part of the tree that has what may be delivered and is not in ready
// yet, and whether there can be any.
func (k *book) unread() (start, end []byte, ok bool) {
	return key(k.cursor), key(k.limit + 1), k.cursor <= k.limit
}

// read takes over a message from the unread part, the lowest one.
func (k *book) read(id uint64) {
	k.ready.Insert(id)
	k.cursor = id + 1
}

// readAll notes that the unread part has nothing more.
func (k *book) readAll() { k.cursor = max(k.cursor, k.limit+1) }

// lease takes the lowest message out of ready, if there is one, and leases it.
func (k *book) lease(until time.Time) (Message, bool) {
	id, ok := k.ready.PopMin()
	if !ok {
		return Message{}, false
	}
	d := k.delivered[id]
	if d == nil {
		d = &delivery{id: id}
		k.delivered[id] = d
	}
	d.count++
	d.until, d.leased = until, true
	k.leases.Set(d)
	return Message{ID: id, Deliveries: d.count}, true
}

// leased returns the delivery that m came from, nil if it has no lease any more.
func (k *book) leased(m Message) *delivery {
	if d := k.delivered[m.ID]; d != nil && d.leased && d.count == m.Deliveries {
		return d
	}
	return nil
}

// extend moves the end of a lease.
func (k *book) extend(d *delivery, until time.Time) {
	k.leases.Delete(d)
	d.until = until
	k.leases.Set(d)
}

// giveBack ends a lease; the message is to be delivered again.
func (k *book) giveBack(d *delivery) {
	k.leases.Delete(d)
	d.leased = false
	k.delivered[d.id] = d
	k.ready.Insert(d.id)
}

// forget ends a lease and forgets its message.
func (k *book) forget(d *delivery) {
	k.leases.Delete(d)
	delete(k.delivered, d.id)
}

// remember undoes forget.
func (k *book) remember(d *delivery) {
	k.delivered[d.id] = d
	k.leases.Set(d)
}

// expire ends the leases whose time is over.
func (k *book) expire(now time.Time) {
	for d, ok := k.leases.Min(); ok && !d.until.After(now); d, ok = k.leases.Min() {
		k.giveBack(d)
	}
}

// lowest returns an ID that no message which is not acknowledged is below.
func (k *book) lowest() uint64 {
	low := k.cursor
	if id, ok := k.ready.Min(); ok {
		low = min(low, id)
	}
	for id := range k.delivered {
		low = min(low, id)
	}
	return low
}
