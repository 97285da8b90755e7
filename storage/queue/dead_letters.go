package queue

import (
	"encoding/binary"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// deliveries is behind the name of the tree that has the counts.
const deliveries = "/deliveries"

// deadLetters counts a queue's deliveries on the disk, and takes what was delivered too often.
//
// The count of a delivery is written before the message is returned, without a sync: it outlives
// the process, which a bad message may end each time, and a power loss costs at most the newest
// counts.
type deadLetters struct {
	max    int
	to     *Queue
	counts *storage.Tree // ID -> how often the message was delivered, 8 bytes, big-endian
}

// newDeadLetters returns nil if the options, which may be nil, have none.
func newDeadLetters(s *storage.Store, o *Options) (*deadLetters, error) {
	switch {
	case o == nil || o.MaxDeliveries == 0 && o.DeadLetters == nil:
		return nil, nil
	case o.MaxDeliveries < 1 || o.DeadLetters == nil:
		return nil, fmt.Errorf("MaxDeliveries is %d and DeadLetters is set: %t; give both, and a positive number",
			o.MaxDeliveries, o.DeadLetters != nil)
	case o.DeadLetters.s != s:
		return nil, fmt.Errorf("%w: DeadLetters is of another store", nexusraft.ErrRefused)
	}
	return &deadLetters{max: o.MaxDeliveries, to: o.DeadLetters}, nil
}

// load opens the tree of counts, and drops those of messages that are gone: the queue may have been
// open without counting meanwhile.
func (x *deadLetters) load(q *Queue) (err error) {
	if x == nil {
		return nil
	}
	if x.counts, err = q.s.Tree(q.name + deliveries); err != nil {
		return err
	}
	var end []byte
	if first, ok, err := q.tree.First(); err != nil {
		return err
	} else if ok {
		end = first.Key
	}
	b := q.s.NewBatch()
	defer b.Close()
	if err := b.DeleteRange(x.counts, nil, end); err != nil {
		return err
	}
	return b.Commit(false)
}

// deliver counts a delivery, or moves the message to the dead letters if it is one too many; then
// it is not there any more.
func (x *deadLetters) deliver(q *Queue, m Message) (_ Message, there bool, err error) {
	before, err := x.count(m.ID)
	if err != nil {
		return m, false, err
	}
	if before >= x.max {
		return m, false, x.bury(q, m)
	}
	q.mu.Lock()
	if d := q.book.leased(m); d != nil {
		d.count = max(d.count, before+1)
		m.Deliveries = d.count
	}
	q.mu.Unlock()
	count := binary.BigEndian.AppendUint64(nil, uint64(before+1))
	err = x.counts.Set(key(m.ID), count, storage.NoSync)
	if err != nil && !errors.Is(err, nexusraft.ErrDiskFull) { // what is popped and acknowledged makes room
		return m, false, err
	}
	return m, true, nil
}

// count returns how often a message was delivered.
func (x *deadLetters) count(id uint64) (int, error) {
	stored, ok, err := x.counts.Get(key(id))
	switch {
	case err != nil || !ok:
		return 0, err
	case len(stored) != 8:
		return 0, fmt.Errorf("%w: the deliveries of message %d are %d bytes, want 8", nexusraft.ErrCorrupt, id, len(stored))
	}
	return int(min(binary.BigEndian.Uint64(stored), 1<<31-1)), nil
}

// bury moves a message to the dead letters, in one batch. After an error it is given back. If the
// disk is full, it stays leased instead, so that those behind it, which make room, are delivered.
// (The move writes the value again, which may be large: the reserve is not for that.)
func (x *deadLetters) bury(q *Queue, m Message) error {
	b := q.s.NewBatch()
	defer b.Close()
	q.writing.RLock()
	defer q.writing.RUnlock()
	lease, err := q.finish(m)
	if errors.Is(err, ErrNotLeased) {
		return nil // it is another one's to deliver now
	}
	if err != nil {
		return err
	}
	if err = q.remove(b, m); err == nil {
		_, err = x.to.PushWith(b, m.Value, storage.NoSync)
	}
	if errors.Is(err, nexusraft.ErrDiskFull) {
		q.leaseAgain(lease)
		return nil
	}
	if err != nil {
		q.restore(lease)
	}
	return err
}
