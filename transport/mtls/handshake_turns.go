package mtls

import "net"

// turnConn is a connection whose handshake computes only in its turn, which it has but for the time
// in which it waits for the other side. Every caller, known or not, may cost a handshake: with as
// many goroutines at work as there are newcomers, the zones' would hardly get a processor.
type turnConn struct {
	net.Conn

	turns chan struct{} // has room for as many as compute at once
	over  bool          // the handshake is; set before others use the connection
}

// turn waits until a handshake may begin. End must follow.
func (l *Limits) turn(raw net.Conn) *turnConn {
	l.turns <- struct{}{}
	return &turnConn{Conn: raw, turns: l.turns}
}

// end is the handshake's end.
func (c *turnConn) end() {
	c.over = true
	<-c.turns
}

// Read implements net.Conn.
func (c *turnConn) Read(b []byte) (int, error) {
	if c.over {
		return c.Conn.Read(b)
	}
	<-c.turns
	defer func() { c.turns <- struct{}{} }()
	return c.Conn.Read(b)
}

// Write implements net.Conn.
func (c *turnConn) Write(b []byte) (int, error) {
	if c.over {
		return c.Conn.Write(b)
	}
	<-c.turns
	defer func() { c.turns <- struct{}{} }()
	return c.Conn.Write(b)
}
