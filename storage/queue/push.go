package queue

import (
	"github.com/nexi-lab/nexus-raft/storage"
)

// Push appends a message and returns its ID, which is above those of all messages before it.
// value is copied; a nil one is an empty one. d says what it waits for, as with a
// storage.Tree: with Sync, when it returns nil, the message outlives a crash. Concurrent
// pushes share syncs. Errors are those of storage.Batch.
func (q *Queue) Push(value []byte, d ...storage.Durability) (uint64, error) {
	b := q.s.NewBatch()
	defer b.Close()
	return q.PushWith(b, value, d...)
}

// PushWith is Push in one batch with what b holds already: it commits b, and so all of it
// happens or nothing does. After it, Reset or Close b, whatever it returned. A batch takes
// one message.
func (q *Queue) PushWith(b *storage.Batch, value []byte, d ...storage.Durability) (uint64, error) {
	q.writing.RLock()
	defer q.writing.RUnlock()
	if err := q.usable(); err != nil {
		return 0, q.failed("push to", err)
	}
	id, wait, err := q.publish(b, value, q.s.Syncs(d...))
	if err == nil && wait != nil {
		err = wait()
		q.synced(id, err == nil)
	}
	if err != nil {
		return 0, q.failed("push to", err)
	}
	return id, nil
}

// publish makes a message visible. It returns how to wait for its sync, if that is to be, and
// synced must follow.
func (q *Queue) publish(b *storage.Batch, value []byte, sync bool) (id uint64, wait func() error, err error) {
	q.pushing.Lock()
	defer q.pushing.Unlock()
	if id, err = q.s.GenerateID(); err != nil {
		return 0, nil, err
	}
	if err := b.Set(q.tree, key(id), value); err != nil {
		return 0, nil, err
	}
	if sync {
		wait = b.CommitAsync()
	} else if err := b.Commit(false); err != nil {
		return 0, nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.book.pushed(id, sync)
	q.dispatch()
	return id, wait, nil
}

// synced notes that a message which waited for the disk is there, or failed.
func (q *Queue) synced(id uint64, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.book.synced(id, ok)
	q.dispatch()
}
