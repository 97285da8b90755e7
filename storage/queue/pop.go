package queue

import (
	"context"
	"time"
)

// readAhead is how many IDs are read at once.
const readAhead = 64

// Pop returns the first message and leases it: nobody else gets it until Options.Redeliver has
// passed, or Nack gives it back. It waits for one until ctx ends; waiting callers are served in the
// order in which they came. It returns nexusraft.ErrClosed once the queue or the store is closed,
// or the store is dead.
//
// If a message's value can't be read, it is returned without it, beside the error
// (nexusraft.ErrCorrupt, if it is damaged): it is leased as any other, and Ack drops it.
func (q *Queue) Pop(ctx context.Context) (Message, error) {
	for {
		m, err := q.wait(ctx)
		if err != nil {
			return m, q.failed("pop from", err)
		}
		m, there, err := q.read(m)
		if there || err != nil {
			return m, q.failed("pop from", err)
		}
	}
}

// TryPop is Pop without a wait. It reports whether there was a message.
func (q *Queue) TryPop() (Message, bool, error) {
	for {
		m, ok, err := q.takeNow()
		if err != nil || !ok {
			return m, false, q.failed("pop from", err)
		}
		m, there, err := q.read(m)
		if there || err != nil {
			return m, there, q.failed("pop from", err)
		}
	}
}

// handed is what a waiting Pop gets.
type handed struct {
	m   Message
	err error
}

// wait takes a message, without its value, when it is its turn.
func (q *Queue) wait(ctx context.Context) (Message, error) {
	if err := context.Cause(ctx); err != nil {
		return Message{}, err
	}
	got := make(chan handed, 1)
	q.mu.Lock()
	if err := q.usable(); err != nil {
		q.mu.Unlock()
		return Message{}, err
	}
	place := q.waiters.PushBack(got)
	q.dispatch()
	q.mu.Unlock()
	var why error
	select {
	case h := <-got:
		return h.m, h.err
	case <-ctx.Done():
		why = context.Cause(ctx)
	case <-q.done:
		why = q.usable()
	case <-q.s.Done():
		_, why = q.tree.Contains(nil)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	select {
	case h := <-got: // in the meantime
		return h.m, h.err
	default:
		q.waiters.Remove(place)
		return Message{}, why
	}
}

func (q *Queue) takeNow() (Message, bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.usable(); err != nil {
		return Message{}, false, err
	}
	q.dispatch()
	return q.take()
}

// dispatch does what is due: it ends leases, and hands messages to waiting Pops. The holder
// of mu calls it before it looks at a lease, and after it has made anything deliverable;
// so nobody waits while there is a message. A failed read is told to all.
func (q *Queue) dispatch() {
	q.book.expire(time.Now())
	for first := q.waiters.Front(); first != nil; first = q.waiters.Front() {
		m, ok, err := q.take()
		if !ok && err == nil {
			break
		}
		q.waiters.Remove(first)
		first.Value.(chan handed) <- handed{m, err}
	}
	q.arm()
}

// arm sets the timer to the end of the next lease, if anybody waits for that.
func (q *Queue) arm() {
	next, ok := q.book.leases.Min()
	switch {
	case q.waiters.Len() == 0 || !ok:
		if q.timer != nil {
			q.timer.Stop()
		}
	case q.timer == nil:
		q.timer = time.AfterFunc(time.Until(next.until), q.leaseEnds)
	default:
		q.timer.Reset(time.Until(next.until))
	}
}

func (q *Queue) leaseEnds() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.usable() == nil {
		q.dispatch()
	}
}

// take leases the message that is first, if there is one. The caller holds mu.
func (q *Queue) take() (Message, bool, error) {
	if q.book.ready.Len() == 0 {
		if err := q.readIDs(); err != nil {
			return Message{}, false, err
		}
	}
	m, ok := q.book.lease(time.Now().Add(q.redeliver))
	return m, ok, nil
}

// readIDs reads the next IDs from the tree.
func (q *Queue) readIDs() error {
	start, end, ok := q.book.unread()
	if !ok {
		return nil
	}
	for p, err := range q.tree.Scan(start, end) {
		if err != nil {
			return err
		}
		id, err := decodeID(p.Key)
		if err != nil {
			return err
		}
		q.book.read(id)
		if q.book.ready.Len() == readAhead {
			return nil
		}
	}
	q.book.readAll()
	return nil
}

// read returns a message with its value, and whether it is still there: somebody may have cleared
// the tree, or it was delivered too often.
func (q *Queue) read(m Message) (_ Message, there bool, err error) {
	m.Value, there, err = q.tree.Get(key(m.ID))
	if err == nil && there && q.dead != nil {
		return q.dead.deliver(q, m)
	}
	if err == nil && !there {
		q.mu.Lock()
		defer q.mu.Unlock()
		if d := q.book.leased(m); d != nil {
			q.book.forget(d)
		}
	}
	return m, there, err
}
