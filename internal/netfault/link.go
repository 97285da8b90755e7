package netfault

import (
	"io"
	"net"
	"sync"
	"time"
)

// How much a link holds of what is under way: enough for a delay at a good rate, and little
// enough that a sender soon notices a stalled path.
const (
	pieceBytes = 16 << 10
	maxPieces  = 64
)

// link is one connection through the proxy. Each way has a reader and a writer, so that a
// delay changes no rate.
type link struct {
	p              *Proxy
	client, server net.Conn
	keep           bool
	lost           Way    // guarded by p.mu
	said           []byte // by the client, if keep; guarded by p.mu

	once sync.Once
	over chan struct{} // closed when the connection is over
}

// piece is what was read at once.
type piece struct {
	data []byte // nil for the end
	due  time.Time
}

// run returns when the connection is over and its goroutines have ended.
func (l *link) run() {
	var wg sync.WaitGroup
	l.carry(&wg, Up, l.client, l.server)
	l.carry(&wg, Down, l.server, l.client)
	wg.Wait()
}

func (l *link) carry(wg *sync.WaitGroup, w Way, from, to net.Conn) {
	pieces := make(chan piece, maxPieces)
	wg.Go(func() { l.read(w, from, pieces) })
	wg.Go(func() { l.write(w, to, pieces) })
}

// read takes what one end sends, and says at last that it has ended.
func (l *link) read(w Way, from io.Reader, pieces chan<- piece) {
	for {
		if _, ok := l.await(w); !ok {
			return
		}
		buf := make([]byte, pieceBytes)
		n, err := from.Read(buf)
		now, _ := l.p.now()
		if l.keep && w == Up {
			l.remember(buf[:n])
		}
		x := piece{data: buf[:n], due: time.Now().Add(now.delay)}
		if n == 0 && err != nil {
			x.data = nil
		}
		select {
		case pieces <- x:
		case <-l.over:
			return
		}
		if x.data == nil {
			return
		}
	}
}

func (l *link) remember(said []byte) {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	l.said = append(l.said, said...)
}

// write gives pieces to the other end, each when it is due. A piece without data ends both.
func (l *link) write(w Way, to io.Writer, pieces <-chan piece) {
	var busy time.Time // until then the rate is used up
	for {
		var x piece
		select {
		case x = <-pieces:
		case <-l.over:
			return
		}
		now, ok := l.await(w)
		if !ok || !l.until(x.due) || !l.until(busy) {
			return
		}
		if now, ok = l.await(w); !ok {
			return
		}
		switch {
		case l.isLost(w):
			continue
		case x.data == nil:
			l.reset()
			return
		}
		if now.rate > 0 {
			busy = time.Now().Add(time.Duration(len(x.data)) * time.Second / time.Duration(now.rate))
		}
		if _, err := to.Write(x.data); err != nil && !l.isLost(w) {
			l.reset()
			return
		}
	}
}

// await waits while a way is stalled; false says that the connection is over.
func (l *link) await(w Way) (path, bool) {
	for {
		now, changed := l.p.now()
		if now.stalled&w == 0 {
			return now, true
		}
		select {
		case <-changed:
		case <-l.over:
			return path{}, false
		}
	}
}

// until waits for a moment; false says that the connection is over.
func (l *link) until(due time.Time) bool {
	t := time.NewTimer(time.Until(due))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.over:
		return false
	}
}

func (l *link) isLost(w Way) bool {
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	return l.lost&w != 0
}

// reset ends the connection at both ends, without a word.
func (l *link) reset() {
	l.once.Do(func() {
		close(l.over)
		reset(l.client)
		reset(l.server)
	})
}

// reset closes a connection so that its other end sees it broken, not ended.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // an error is that it has ended already
	}
	c.Close()
}
