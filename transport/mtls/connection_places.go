package mtls

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/nexi-lab/nexus-raft/internal/budget"
)

// kind is which places a connection takes.
type kind int

const (
	kindHandshake kind = iota
	kindAnonymous      // where others are known
	kindPlain          // no caller is known: the server has no TLS
	kindClient
	kindNode
)

// connection is what Limits know of one.
type connection struct {
	limits    *Limits
	raw       net.Conn
	address   string
	caller    Caller        // what its certificate names; set before it is settled
	gone      chan struct{} // closed once its place is given back
	slow      *rate.Limiter // of what an anonymous caller sends
	anonymous atomic.Bool   // it is an anonymous caller's
	refusals  atomic.Int64  // of an anonymous caller's calls
	unread    atomic.Int64  // calls whose request is being read

	// Guarded by Limits.mu, and the key by bytesMu, too.
	kind     kind
	key      string    // of the address or the principal
	idle     time.Time // since when nothing is asked; when it was accepted, before
	calls    int       // under way
	watches  int       // of these, anonymous callers' Health.Watch
	doubtful int       // of these, anonymous callers' and refused ones

	bytesMu sync.Mutex     // guards what follows
	reading map[*call]bool // true: it has all the time
	bytes   int64          // of requests that are being read, taken from requests
	patient int            // of reading, those that have all the time
	leaked  time.Time      // while there are any: since when leak has given nothing back

	answersMu sync.Mutex                  // guards answers
	answers   map[*budget.Answer]struct{} // on their way out; nil once the connection has ended
}

func newConnection(l *Limits, raw net.Conn) *connection {
	address := addressKey(raw.RemoteAddr())
	return &connection{
		limits: l, raw: raw, address: address, key: address, idle: time.Now(), gone: make(chan struct{}),
		slow:    rate.NewLimiter(budget.AnonymousBytesPerSecond, budget.AnonymousBurstBytes),
		reading: make(map[*call]bool), answers: make(map[*budget.Answer]struct{}),
	}
}

// accept takes a place for a connection whose handshake begins: a newcomer always gets one, and the
// oldest of the address that has most gives way. It returns nil if there is none all the same.
func (l *Limits) accept(raw net.Conn) *connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.count(kindHandshake, "") >= l.places.Handshakes {
		l.counters.Refused(budget.Handshakes)
		if !l.giveWay(func(c *connection) bool { return c.kind == kindHandshake }) {
			return nil
		}
	}
	c := newConnection(l, raw)
	l.open[c] = struct{}{}
	return c
}

// accepted returns the connection of a handshake that begins, which accept has seen if the server's
// listener is limited. One that gave way meanwhile has no second place.
func (l *Limits) accepted(raw net.Conn) (*connection, error) {
	if a, ok := raw.(acceptedConn); ok {
		select {
		case <-a.c.gone:
			return nil, net.ErrClosed
		default:
			return a.c, nil
		}
	}
	if c := l.accept(raw); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("%d handshakes are under way, which is the limit", l.places.Handshakes)
}

// settle gives a connection whose handshake is done a place of a kind, or says why there is none.
// Idle connections of the same kind give way.
func (l *Limits) settle(c *connection, k kind, key string) error {
	l.sweep(time.Now())
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, open := l.open[c]; !open {
		return errors.New("the handshake was given up for newer ones")
	}
	return l.move(c, k, key)
}

func (l *Limits) move(c *connection, k kind, key string) error {
	each, all, cause := l.bounds(k)
	same := func(o *connection) bool { return o != c && o.kind == k && o.key == key }
	if l.count(k, key) >= each && !l.giveWay(same) {
		l.counters.Refused(cause)
		return fmt.Errorf("%d connections of %s are open and used, which is the limit", each, key)
	}
	if l.count(k, "") >= all && !l.giveWay(func(o *connection) bool { return o != c && o.kind == k }) {
		// The places of nodes are kept for them, and no limit: a node takes a caller's, then.
		if k == kindNode && l.count(kindNode, key)+l.count(kindClient, key) < each {
			return l.move(c, kindClient, key)
		}
		l.counters.Refused(cause)
		return fmt.Errorf("%d connections of this kind are open and used, which is the limit", all)
	}
	if k != kindNode && l.callers() >= l.places.Callers && !l.giveWayAmongCallers(c) {
		l.counters.Refused(budget.Connections)
		return fmt.Errorf("%d connections are open and used, which is the limit", l.places.Callers)
	}
	c.rename(k, key)
	c.idle = time.Now()
	return nil
}

// bounds are those of one principal or address, and of all of a kind.
func (l *Limits) bounds(k kind) (each, all int, cause budget.Cause) {
	switch k {
	case kindAnonymous:
		return l.places.AnonymousOfAddress, l.places.Anonymous, budget.AnonymousConnections
	case kindPlain:
		return l.places.CallersOfAddress, l.places.Callers, budget.ConnectionsOfPrincipal
	case kindNode:
		return max(l.places.Nodes/2, 4), l.places.Nodes, budget.ConnectionsOfPrincipal
	default:
		return l.places.CallersOfPrincipal, l.places.Callers, budget.ConnectionsOfPrincipal
	}
}

// giveWayAmongCallers closes an anonymous caller's connection before any other.
func (l *Limits) giveWayAmongCallers(newcomer *connection) bool {
	return l.giveWay(func(c *connection) bool { return c != newcomer && c.kind == kindAnonymous }) ||
		l.giveWay(func(c *connection) bool { return c != newcomer && (c.kind == kindPlain || c.kind == kindClient) })
}

// giveWay closes one connection among those that may be: of the key that has most of them the one
// that is idle for longest. One with nothing but anonymous callers' Health.Watch counts as idle,
// one whose handshake is under way, too.
func (l *Limits) giveWay(may func(*connection) bool) bool {
	has := make(map[string]int)
	for c := range l.open {
		if may(c) {
			has[c.key]++
		}
	}
	var victim *connection
	for c := range l.open {
		if may(c) && c.calls == c.watches && (victim == nil || before(c, victim, has)) {
			victim = c
		}
	}
	if victim == nil {
		return false
	}
	if victim.kind != kindHandshake {
		l.counters.Refused(budget.IdleConnections)
	}
	l.end(victim)
	return true
}

// before reports whether a gives way before b.
func before(a, b *connection, has map[string]int) bool {
	return cmp.Or(cmp.Compare(has[b.key], has[a.key]), cmp.Compare(a.calls, b.calls), a.idle.Compare(b.idle)) < 0
}

// end gives back a connection's place and closes it. mu is held.
func (l *Limits) end(c *connection) {
	l.forget(c)
	c.raw.Close() // not what is encrypted on it, which could wait for its reader
}

// forget gives back what a connection has, once.
func (l *Limits) forget(c *connection) {
	if _, open := l.open[c]; !open {
		return
	}
	delete(l.open, c)
	close(c.gone)
	c.rename(c.kind, c.key)
	c.endAnswers()
}

// leave gives back the place of a connection that is closed.
func (c *connection) leave() {
	c.limits.mu.Lock()
	defer c.limits.mu.Unlock()
	c.limits.forget(c)
}

// count returns how many connections of a kind are open, of one key if it is not "".
func (l *Limits) count(k kind, key string) (n int) {
	for c := range l.open {
		if c.kind == k && (key == "" || c.key == key) {
			n++
		}
	}
	return n
}

func (l *Limits) callers() (n int) {
	for c := range l.open {
		if c.kind == kindAnonymous || c.kind == kindPlain || c.kind == kindClient {
			n++
		}
	}
	return n
}

// sweep makes clients whose certificate says nothing any more anonymous callers, and closes
// anonymous callers that have asked nothing for long. It runs when a new connection has come, once
// a second at most: until then they hold nothing that others need, and they are never more than
// their places.
func (l *Limits) sweep(now time.Time) {
	if !l.sweeps.Allow() {
		return
	}
	revoked := l.revoked()
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		if c.kind == kindClient && revoked[c.caller.Client] {
			c.rename(kindAnonymous, c.address)
		}
		if c.kind == kindAnonymous && c.calls == 0 && now.Sub(c.idle) > budget.IdleTimeout {
			l.counters.Refused(budget.IdleConnections)
			l.end(c)
		}
	}
}

// revoked returns the clients with a certificate that says nothing any more. Known is asked without
// the lock.
func (l *Limits) revoked() map[string]bool {
	names := make(map[string]bool)
	l.mu.Lock()
	for c := range l.open {
		if c.kind == kindClient && c.caller.Client != "" {
			names[c.caller.Client] = false
		}
	}
	l.mu.Unlock()
	for name := range names {
		names[name] = !l.o.Known(name)
	}
	return names
}

// rename gives a connection another kind and key. Bytes that are being read count from the start
// again. Limits.mu is held.
func (c *connection) rename(k kind, key string) {
	c.bytesMu.Lock()
	defer c.bytesMu.Unlock()
	c.requests().Leave(c.key, c.bytes)
	c.bytes, c.kind, c.key = 0, k, key
	c.anonymous.Store(k == kindAnonymous)
}
