package queue

import (
	"container/list"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// ErrNotLeased: the time to acknowledge the message is over, or it was acknowledged or given
// back. Nothing was written. Unless it was acknowledged, it was or will be delivered again.
var ErrNotLeased = errors.New("queue: message is not leased")

const defaultRedeliver = 30 * time.Second

// Options are the choices of a Queue. The zero value of each field is its default.
type Options struct {
	// Redeliver is how long a popped message is leased to its consumer; 30 s by default. If it
	// is not acknowledged until then, it is delivered again.
	Redeliver time.Duration

	// MaxDeliveries is how often a message is delivered, crashes of the process included; a
	// message that would be delivered once more goes to DeadLetters instead, on a full disk once there
	// is room. It needs DeadLetters; 0, and no DeadLetters, is without end.
	MaxDeliveries int

	// DeadLetters takes, with a new ID, what was delivered too often. It is another open queue of the
	// same store; close it after this one.
	DeadLetters *Queue
}

// Message is a message that was popped. Its ID and Deliveries tell which lease it has, of the
// Queue that it was popped from. Its slice is the caller's.
type Message struct {
	ID         uint64
	Value      []byte
	Deliveries int // this one included; since the queue was opened, or ever with Options.MaxDeliveries
}

// Queue is an open queue. Its methods may be called from any goroutine.
type Queue struct {
	s         *storage.Store
	tree      *storage.Tree
	name      string
	redeliver time.Duration
	dead      *deadLetters  // nil: there are none
	done      chan struct{} // closed by Close

	// writing is held, shared, by calls that write, and by Close.
	writing sync.RWMutex

	// pushing is held from the choice of an ID until the message is visible, so that both
	// come in the same order. It is taken before mu.
	pushing sync.Mutex

	mu      sync.Mutex // guards what follows; it is not held during a write
	book    book
	waiters list.List   // of chan handed; in the order of their calls, see dispatch
	timer   *time.Timer // nil until it is needed, see arm
}

// opening tells an open queue; the channel, which its store is Done with, tells the store.
type opening struct {
	store <-chan struct{}
	name  string
}

// opened holds the openings of all queues that are open.
var opened sync.Map

// Open returns the queue of that name, creating it if there is none. o may be nil. The
// store's tree of that name must not be written otherwise. A queue is open once: a second Open
// gets nexusraft.ErrRefused until Close. Close it before the store.
func Open(s *storage.Store, name string, o *Options) (*Queue, error) {
	redeliver := defaultRedeliver
	if o != nil && o.Redeliver != 0 {
		redeliver = o.Redeliver
	}
	if redeliver < 0 {
		return nil, fmt.Errorf("open queue %q: Redeliver is %v, must be positive", name, redeliver)
	}
	dead, err := newDeadLetters(s, o)
	if err != nil {
		return nil, fmt.Errorf("open queue %q: %w", name, err)
	}
	q := &Queue{s: s, name: name, redeliver: redeliver, dead: dead, done: make(chan struct{}), book: newBook()}
	if _, open := opened.LoadOrStore(q.opening(), nil); open {
		return nil, fmt.Errorf("%w: open queue %q: it is open already; share it, or close it first", nexusraft.ErrRefused,
			name)
	}
	if err := q.load(); err != nil {
		opened.Delete(q.opening())
		return nil, fmt.Errorf("open queue %q: %w", name, err)
	}
	return q, nil
}

// load finds out what is in the tree.
func (q *Queue) load() (err error) {
	if q.tree, err = q.s.Tree(q.name); err != nil {
		return err
	}
	if err := q.dead.load(q); err != nil {
		return err
	}
	last, ok, err := q.tree.Last()
	if err != nil || !ok {
		return err
	}
	q.book.limit, err = decodeID(last.Key)
	q.book.visible = q.book.limit
	return err
}

// Close ends the queue: calls that wait for a message, and those that begin later, return
// nexusraft.ErrClosed. For those that are writing it waits. The store stays open, and what was not
// acknowledged stays in it. A second Close does nothing.
func (q *Queue) Close() {
	q.writing.Lock()
	defer q.writing.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.usable() != nil {
		return
	}
	close(q.done)
	if q.timer != nil {
		q.timer.Stop()
	}
	opened.Delete(q.opening())
}

func (q *Queue) opening() opening { return opening{q.s.Done(), q.name} }

// usable returns why the queue can't be used. It holds for as long as writing or mu is held.
func (q *Queue) usable() error {
	select {
	case <-q.done:
		return nexusraft.ErrClosed
	default:
		return nil
	}
}

// failed says what an operation failed at.
func (q *Queue) failed(verb string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s queue %q: %w", verb, q.name, err)
}

// Len returns the number of messages that are not acknowledged, leased ones included. It counts
// them: it reads them all.
func (q *Queue) Len() (int, error) {
	q.mu.Lock()
	err, start := q.usable(), q.book.lowest()
	q.mu.Unlock()
	n := 0
	if err == nil {
		for _, err = range q.tree.Scan(key(start), nil) {
			n++
		}
	}
	if err != nil {
		return 0, q.failed("count", err)
	}
	return n, nil
}

// key is where a message is stored.
func key(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func decodeID(key []byte) (uint64, error) {
	if len(key) != 8 {
		return 0, fmt.Errorf("%w: the tree has key %q, which is no message's", nexusraft.ErrCorrupt, key)
	}
	return binary.BigEndian.Uint64(key), nil
}
