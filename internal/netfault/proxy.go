// Package netfault is a network that fails on demand: a TCP proxy between a client and a
// server whose connections a test cuts, silences, delays and slows down.
//
// Nothing in it waits for a fixed time: what is held back goes on when the test says so, and
// what is delayed has its own moment.
package netfault

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Way is a direction on the path, or both.
type Way int

// The ways.
const (
	Up   Way = 1 << iota // from client to server
	Down                 // from server to client
	Both = Up | Down
)

// Proxy passes connections to one server. Its methods may be called from many goroutines.
type Proxy struct {
	to  string
	lis net.Listener
	wg  sync.WaitGroup

	mu      sync.Mutex
	path    path
	changed chan struct{} // closed, and replaced, when path changes
	links   map[*link]struct{}
	made    int // links, ever
	closed  bool
	keep    bool       // links keep what their clients send
	echoes  []net.Conn // of Repeat
}

// path is how the way from client to server is now.
type path struct {
	stalled Way
	delay   time.Duration // one way
	rate    int           // bytes per second, of each connection and way; 0 for no limit
}

// New returns a proxy to the TCP address to, which listens on a loopback port of its own.
// Close ends it.
func New(to string) (*Proxy, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for a proxy to %s: %w", to, err)
	}
	p := &Proxy{to: to, lis: lis, changed: make(chan struct{}), links: make(map[*link]struct{})}
	p.wg.Go(p.serve)
	return p, nil
}

// Addr is where clients connect, host:port.
func (p *Proxy) Addr() string { return p.lis.Addr().String() }

// Close cuts every connection and returns when all goroutines have ended.
func (p *Proxy) Close() {
	p.lis.Close()
	p.mu.Lock()
	p.closed = true
	for _, c := range p.echoes {
		c.Close()
	}
	p.mu.Unlock()
	p.Cut()
	p.wg.Wait()
}

// Cut resets every connection, at both ends. New ones are taken as before.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.reset()
	}
}

// Lose makes the connections of now half-open for good in a way: what is sent there is
// swallowed, and no end of theirs is told to the other side any more. It is what a peer that
// lost its power leaves behind, or a NAT that has forgotten. New connections are not affected.
func (p *Proxy) Lose(w Way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.lost |= w
	}
	p.announce()
}

// Keep has the connections made from now on keep what their clients send, for Repeat.
func (p *Proxy) Keep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keep = true
}

// Repeat duplicates connections: for each of now that was made after Keep it makes another to
// the server, which says again all that the client has said so far and hears nothing. It lasts
// until the server ends it, or the proxy is closed.
func (p *Proxy) Repeat() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	for l := range p.links {
		server, err := net.Dial("tcp", p.to)
		if err != nil {
			return fmt.Errorf("repeat a connection to %s: %w", p.to, err)
		}
		said := bytes.Clone(l.said)
		p.echoes = append(p.echoes, server)
		p.wg.Go(func() {
			_, _ = server.Write(said) // what is wrong with it, nobody hears either
			_, _ = io.Copy(io.Discard, server)
			server.Close()
		})
	}
	return nil
}

// Stall stops a way: what is sent there waits, first here and then at its sender, and goes
// on after Heal, as TCP sends again what an interrupted path has lost. Ends of connections
// wait too. While anything is stalled, Dial gets no answer.
func (p *Proxy) Stall(w Way) { p.set(func(a *path) { a.stalled |= w }) }

// Delay has every byte take d longer, each way. It changes no rate and no order.
func (p *Proxy) Delay(d time.Duration) { p.set(func(a *path) { a.delay = d }) }

// Throttle lets bytesPerSecond through, on each connection and each way.
func (p *Proxy) Throttle(bytesPerSecond int) { p.set(func(a *path) { a.rate = bytesPerSecond }) }

// Heal ends Stall, Delay and Throttle. A connection that was lost stays so.
func (p *Proxy) Heal() { p.set(func(a *path) { *a = path{} }) }

// Made returns how many connections were taken so far.
func (p *Proxy) Made() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.made
}

// Dial connects to the proxy, whatever the address says. While the path is stalled it has no
// answer until ctx ends, even if the path heals meanwhile: a later Dial gets one.
func (p *Proxy) Dial(ctx context.Context, _ string) (net.Conn, error) {
	if now, _ := p.now(); now.stalled != 0 {
		<-ctx.Done()
		return nil, fmt.Errorf("dial through a stalled path: %w", ctx.Err())
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", p.Addr())
}

func (p *Proxy) set(change func(*path)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.path)
	p.announce()
}

// announce wakes the goroutines that wait for a change. The caller holds mu.
func (p *Proxy) announce() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// now returns how the path is, and what is closed when that changes.
func (p *Proxy) now() (path, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.path, p.changed
}

// serve takes connections.
func (p *Proxy) serve() {
	for {
		client, err := p.lis.Accept()
		if err != nil {
			return // closed
		}
		p.wg.Go(func() { p.connect(client) })
	}
}

// connect carries one connection to its end. A client whose server can't be reached is reset.
func (p *Proxy) connect(client net.Conn) {
	l, err := p.open(client)
	if err != nil {
		reset(client)
		return
	}
	l.run()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}

// open connects to the server. It holds mu, so that Cut and Lose don't miss a connection that
// the server has already seen.
func (p *Proxy) open(client net.Conn) (*link, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	server, err := net.Dial("tcp", p.to)
	if err != nil {
		return nil, err
	}
	l := &link{p: p, client: client, server: server, keep: p.keep, over: make(chan struct{})}
	p.links[l] = struct{}{}
	p.made++
	return l, nil
}
