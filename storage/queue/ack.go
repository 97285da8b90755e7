package queue

import (
	"fmt"
	"time"

	"github.com/nexi-lab/nexus-raft/storage"
)

// Ack removes a message that was popped: it is done. d says what it waits for, as with a
// storage.Tree: with Sync, when it returns nil, the message never comes back; without, a
// crash may bring it back. It returns ErrNotLeased if the lease is over; after any other error
// the message is given back.
func (q *Queue) Ack(m Message, d ...storage.Durability) error {
	b := q.s.NewBatch()
	defer b.Close()
	return q.AckWith(b, m, d...)
}

// AckWith is Ack in one batch with what b holds already: it commits b, and so all of it happens or,
// if the lease is over, nothing does. After it, Reset or Close b, whatever it returned.
func (q *Queue) AckWith(b *storage.Batch, m Message, d ...storage.Durability) error {
	q.writing.RLock()
	defer q.writing.RUnlock()
	lease, err := q.finish(m)
	if err != nil {
		return err
	}
	if err = q.remove(b, m); err == nil {
		err = b.Commit(q.s.Syncs(d...))
	}
	if err != nil {
		q.restore(lease)
	}
	return q.failed("acknowledge in", err)
}

// remove puts the removal of a message into a batch.
func (q *Queue) remove(b *storage.Batch, m Message) error {
	err := b.Delete(q.tree, key(m.ID))
	if err == nil && q.dead != nil {
		err = b.Delete(q.dead.counts, key(m.ID))
	}
	return err
}

// restore gives back a message that was to be removed, and is not.
func (q *Queue) restore(lease *delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.book.giveBack(lease)
	q.dispatch()
}

// leaseAgain leaves a message that was to be removed, and is not, to its lease.
func (q *Queue) leaseAgain(lease *delivery) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.book.remember(lease)
	q.dispatch()
}

// finish ends a lease for good.
func (q *Queue) finish(m Message) (lease *delivery, err error) {
	err = q.withLease("acknowledge in", m, func(d *delivery) {
		lease = d
		q.book.forget(d)
	})
	return lease, err
}

// Nack gives a message back: it is delivered again at once, before all younger ones. To have it
// delivered later, Extend its lease and let it end. It returns ErrNotLeased if the lease is over.
func (q *Queue) Nack(m Message) error {
	return q.withLease("give back to", m, q.book.giveBack)
}

// Extend makes the lease of a message end when the duration, which must be positive, has
// passed from now. It returns ErrNotLeased if the lease is over.
func (q *Queue) Extend(m Message, lease time.Duration) error {
	if lease <= 0 {
		return q.failed("extend a lease of", fmt.Errorf("by %v, must be positive", lease))
	}
	return q.withLease("extend a lease of", m, func(d *delivery) {
		q.book.extend(d, time.Now().Add(lease))
	})
}

// withLease does what changes the lease of a message, if it has one.
func (q *Queue) withLease(verb string, m Message, change func(*delivery)) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.usable(); err != nil {
		return q.failed(verb, err)
	}
	q.dispatch()
	d := q.book.leased(m)
	if d == nil {
		return q.failed(verb, fmt.Errorf("%w: message %d, delivery %d", ErrNotLeased, m.ID, m.Deliveries))
	}
	change(d)
	q.dispatch()
	return nil
}
