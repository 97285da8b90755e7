package integration

import (
	"io"
	"net"
	"sync"
)

// Bridge stands between clients and a member, and breaks connections as a test asks. It stays while its
// member is down.
type Bridge interface {
	Close()
	DropConnections()
	PauseConnections()
	UnpauseConnections()
	Blackhole()
	Unblackhole()
}

// bridge passes bytes between connections that it accepts and those it opens to a member. All methods
// may be called at once.
type bridge struct {
	to  string
	lis net.Listener

	mu     sync.Mutex
	paused chan struct{} // closed while new connections are passed on
	closed chan struct{}
	hole   bool              // bytes are dropped
	conns  map[net.Conn]bool // of both sides, open
	ended  sync.WaitGroup
}

func newBridge(to string) (*bridge, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &bridge{
		to: to, lis: lis, paused: make(chan struct{}), closed: make(chan struct{}),
		conns: make(map[net.Conn]bool),
	}
	close(b.paused)
	b.ended.Go(b.accept)
	return b, nil
}

func (b *bridge) address() string { return b.lis.Addr().String() }

// Close ends the bridge and waits for its goroutines.
func (b *bridge) Close() {
	b.lis.Close()
	close(b.closed)
	b.DropConnections()
	b.ended.Wait()
}

// DropConnections closes those that are open.
func (b *bridge) DropConnections() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for conn := range b.conns {
		conn.Close()
	}
	clear(b.conns)
}

// PauseConnections leaves new connections without an answer, until UnpauseConnections.
func (b *bridge) PauseConnections() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = make(chan struct{})
}

// UnpauseConnections is the end of PauseConnections.
func (b *bridge) UnpauseConnections() {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.paused:
	default:
		close(b.paused)
	}
}

// Blackhole drops what is sent on all connections, which stay open.
func (b *bridge) Blackhole() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hole = true
}

// Unblackhole is the end of Blackhole: streams that lost bytes are closed.
func (b *bridge) Unblackhole() {
	b.DropConnections()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hole = false
}

// accept passes one new connection after the other on.
func (b *bridge) accept() {
	for {
		conn, err := b.lis.Accept()
		if err != nil {
			return
		}
		b.mu.Lock()
		paused := b.paused
		b.mu.Unlock()
		select {
		case <-paused:
			b.ended.Go(func() { b.pass(conn) })
		case <-b.closed:
			conn.Close()
			return
		}
	}
}

// pass passes bytes in both directions until either side ends.
func (b *bridge) pass(client net.Conn) {
	defer client.Close()
	member, err := net.Dial("tcp", b.to)
	if err != nil {
		return
	}
	defer member.Close()
	if !b.add(client, member) {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { b.copy(client, member) })
	b.copy(member, client)
	back.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, client)
	delete(b.conns, member)
}

func (b *bridge) add(conns ...net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case <-b.closed:
		return false
	default:
	}
	for _, conn := range conns {
		b.conns[conn] = true
	}
	return true
}

// copy passes bytes in one direction; its end is that of both.
func (b *bridge) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	for buf := make([]byte, 32<<10); ; {
		n, err := from.Read(buf)
		if b.dropping() {
			io.Copy(io.Discard, from)
			return
		}
		if _, failed := to.Write(buf[:n]); err != nil || failed != nil {
			return
		}
	}
}

func (b *bridge) dropping() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.hole
}
