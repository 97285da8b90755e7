package transport

import (
	"slices"
	"sync"
)

// queue holds what waits for one peer, a bounded list for each class. Any goroutine puts,
// the sender takes.
type queue struct {
	maxMessages, maxBytes int                       // of each class
	wake                  [Append + 1]chan struct{} // of each class, capacity 1: something was put

	mu      sync.Mutex
	classes [Append + 1]list
}

// list is a FIFO of messages.
type list struct {
	msgs  []Message
	bytes int
}

func newQueue(maxMessages, maxBytes int) *queue {
	q := &queue{maxMessages: maxMessages, maxBytes: maxBytes}
	for i := range q.wake {
		q.wake[i] = make(chan struct{}, 1)
	}
	return q
}

// put adds a message, or returns false if its class is full.
func (q *queue) put(class Class, m Message) bool {
	q.mu.Lock()
	l := &q.classes[class]
	fits := len(l.msgs) < q.maxMessages && l.bytes+len(m.Data) <= q.maxBytes
	if fits {
		l.msgs = append(l.msgs, m)
		l.bytes += len(m.Data)
	}
	q.mu.Unlock()
	if fits {
		signal(q.wake[class])
	}
	return fits
}

// take returns what goes into the next frame of some classes, in their order; nil if nothing
// waits. A frame of one class alone may be larger: nothing urgent waits behind it.
func (q *queue) take(classes []Class) []Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	limit := frameClassBytes
	if len(classes) == 1 {
		limit = maxFrameBytes
	}
	var frame []Message
	for _, class := range classes {
		msgs, bytes := q.classes[class].take(maxFrameMessages/len(classes), limit)
		if frame == nil {
			frame = msgs
		} else {
			frame = append(frame, msgs...)
		}
		if bytes > limit { // one big message; two would not fit in a frame
			break
		}
	}
	return frame
}

// take removes messages from the front, up to both limits but at least one. It returns
// them and their bytes.
func (l *list) take(maxMessages, maxBytes int) ([]Message, int) {
	n, bytes := 0, 0
	for n < min(len(l.msgs), maxMessages) && (n == 0 || bytes+len(l.msgs[n].Data) <= maxBytes) {
		bytes += len(l.msgs[n].Data)
		n++
	}
	if n == 0 {
		return nil, 0
	}
	taken := slices.Clone(l.msgs[:n])
	clear(l.msgs[:n]) // the array lives on; what was sent must not
	l.msgs = l.msgs[n:]
	l.bytes -= bytes
	return taken, bytes
}

// clear drops everything and returns how many messages that was.
func (q *queue) clear() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for i := range q.classes {
		n += len(q.classes[i].msgs)
		q.classes[i] = list{}
	}
	return n
}

// len returns how many messages wait.
func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for i := range q.classes {
		n += len(q.classes[i].msgs)
	}
	return n
}

// signal leaves a token in a channel of capacity 1, if there is none.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
