package node_test

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"testing"
)

// network puts a proxy, a door, before each node of a test. The nodes advertise their
// doors, so all that they say to each other goes through one. A door recognises who calls
// by the address in the handshake, so that each direction between two nodes can be cut.
type network struct {
	t    *testing.T
	wait sync.WaitGroup

	mu     sync.Mutex // guards what follows, and the doors' targets
	change *sync.Cond // a cut or the end
	ended  bool
	doors  map[string]*door // by node name
	cuts   map[way]cut
	calls  map[*call]bool
}

// way is a direction between two nodes, by their names; "" is a caller that has not said
// yet who it is.
type way struct{ from, to string }

type cut int

const (
	open   cut = iota
	broken     // connections are reset, new ones too
	silent     // bytes stay on their way, and arrive when the cut is healed
)

// door is one node's proxy.
type door struct {
	name, address string
	lis           net.Listener
	target        string // "" while the node is down
}

// call is one connection through a door.
type call struct {
	way         way // from is set when the caller is recognised
	caller, own net.Conn
}

func newNetwork(t *testing.T) *network {
	n := &network{t: t, doors: make(map[string]*door), cuts: make(map[way]cut), calls: make(map[*call]bool)}
	n.change = sync.NewCond(&n.mu)
	t.Cleanup(n.close)
	return n
}

// door returns the node's door, which is made when it is first asked for.
func (n *network) door(name string) *door {
	n.t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if d := n.doors[name]; d != nil {
		return d
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		n.t.Fatal(err)
	}
	d := &door{name: name, lis: lis, address: lis.Addr().String()}
	n.doors[name] = d
	n.wait.Go(func() { n.serve(d) })
	return d
}

// move gives the node another address: nobody listens at the old one any more.
func (n *network) move(name string) {
	n.t.Helper()
	n.mu.Lock()
	d := n.doors[name]
	delete(n.doors, name)
	d.lis.Close()
	n.mu.Unlock()
	n.door(name)
}

// lead sets where the door of a node leads to; "" closes it.
func (n *network) lead(name, target string) {
	d := n.door(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	d.target = target
}

func (n *network) close() {
	n.mu.Lock()
	n.ended = true
	for _, d := range n.doors {
		d.lis.Close()
	}
	for c := range n.calls {
		c.close()
	}
	n.change.Broadcast()
	n.mu.Unlock()
	n.wait.Wait()
}

// isolate cuts a node off, in both directions.
func (n *network) isolate(name string, how cut) {
	n.deafen(name, how)
	n.mute(name, how)
}

// deafen keeps all calls from the node.
func (n *network) deafen(name string, how cut) {
	n.cut(way{"", name}, how)
	for _, other := range n.others(name) {
		n.cut(way{other, name}, how)
	}
}

// mute keeps all calls of the node from the others.
func (n *network) mute(name string, how cut) {
	for _, other := range n.others(name) {
		n.cut(way{name, other}, how)
	}
}

func (n *network) others(name string) (names []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for other := range n.doors {
		if other != name {
			names = append(names, other)
		}
	}
	return names
}

func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
	n.change.Broadcast()
}

func (n *network) cut(w way, how cut) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[w] = how
	for c := range n.calls {
		if how == broken && c.way == w {
			c.close()
		}
	}
	n.change.Broadcast()
}

// serve accepts until the door's listener is closed.
func (n *network) serve(d *door) {
	for {
		conn, err := d.lis.Accept()
		if err != nil {
			return
		}
		n.wait.Go(func() { n.carry(d, conn) })
	}
}

// carry is one connection from its beginning to its end.
func (n *network) carry(d *door, caller net.Conn) {
	defer caller.Close()
	n.mu.Lock()
	target := d.target
	n.mu.Unlock()
	if target == "" {
		return
	}
	own, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer own.Close()
	c := &call{way: way{"", d.name}, caller: caller, own: own}
	n.mu.Lock()
	n.calls[c] = true
	ended := n.ended
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.calls, c)
	}()
	if ended {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { n.pump(c, caller, own, n.recognise(d)) })
	both.Go(func() { n.pump(c, own, caller, func([]byte) string { return "" }) })
	both.Wait()
}

// recognise returns a function that is given all that a caller says and returns the
// caller's name once it is known: a handshake has the caller's address in clear.
func (n *network) recognise(own *door) func([]byte) string {
	var said []byte
	return func(b []byte) string {
		if len(said) > 64<<10 {
			return ""
		}
		said = append(said, b...)
		n.mu.Lock()
		defer n.mu.Unlock()
		for name, d := range n.doors {
			if name != own.name && bytes.Contains(said, []byte(d.address)) {
				return name
			}
		}
		return ""
	}
}

func (n *network) pump(c *call, from, to net.Conn, recognise func([]byte) string) {
	defer c.close()
	buffer := make([]byte, 32<<10)
	for {
		read, err := from.Read(buffer)
		if read > 0 {
			if n.pass(c, recognise(buffer[:read])) != nil {
				return
			}
			if _, err := to.Write(buffer[:read]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

var errCut = errors.New("the way is cut")

// pass waits while the call's way is silent.
func (n *network) pass(c *call, caller string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.way.from == "" {
		c.way.from = caller
	}
	for !n.ended && n.cuts[c.way] == silent {
		n.change.Wait()
	}
	if n.ended || n.cuts[c.way] == broken {
		return errCut
	}
	return nil
}

func (c *call) close() {
	_ = c.caller.Close()
	_ = c.own.Close()
}
