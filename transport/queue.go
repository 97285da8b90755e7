package transport

import "sync"

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
	msgs  []Message // those before head were taken; nothing of them is left
	head  int
	bytes int
}

func (l *list) len() int { return len(l.msgs) - l.head }

// push adds a message. The array is used again once half of it was taken, so that it
// grows to twice what ever waits.
func (l *list) push(m Message) {
	if len(l.msgs) == cap(l.msgs) && l.head > len(l.msgs)/2 {
		n := copy(l.msgs, l.msgs[l.head:])
		clear(l.msgs[n:])
		l.msgs, l.head = l.msgs[:n], 0
	}
	l.msgs = append(l.msgs, m)
	l.bytes += len(m.Data)
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
	fits := l.len() < q.maxMessages && l.bytes+len(m.Data) <= q.maxBytes
	if fits {
		l.push(m)
	}
	q.mu.Unlock()
	if fits {
		signal(q.wake[class])
	}
	return fits
}

// take appends to frame what goes into the next frame of some classes, in their order; nothing if
// nothing waits. A frame of one class alone may be larger: nothing urgent waits behind it.
func (q *queue) take(frame []Message, classes []Class) []Message {
	q.mu.Lock()
	defer q.mu.Unlock()
	limit := frameClassBytes
	if len(classes) == 1 {
		limit = maxFrameBytes
	}
	for _, class := range classes {
		var bytes int
		frame, bytes = q.classes[class].take(frame, maxFrameMessages/len(classes), limit)
		if bytes > limit { // one big message; two would not fit in a frame
			break
		}
	}
	return frame
}

// take moves messages from the front to the end of frame, up to both limits but at least one if
// there is any. It returns frame and their bytes.
func (l *list) take(frame []Message, maxMessages, maxBytes int) ([]Message, int) {
	waiting := l.msgs[l.head:]
	n, bytes := 0, 0
	for n < min(len(waiting), maxMessages) && (n == 0 || bytes+len(waiting[n].Data) <= maxBytes) {
		bytes += len(waiting[n].Data)
		n++
	}
	frame = append(frame, waiting[:n]...)
	clear(waiting[:n]) // the array lives on; what was sent must not
	l.head += n
	l.bytes -= bytes
	if l.len() == 0 {
		l.msgs, l.head = l.msgs[:0], 0
	}
	return frame, bytes
}

// clear drops everything and returns how many messages that was.
func (q *queue) clear() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := 0
	for i := range q.classes {
		n += q.classes[i].len()
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
		n += q.classes[i].len()
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
