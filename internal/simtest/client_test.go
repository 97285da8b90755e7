package simtest

import (
	"errors"
	"fmt"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// clients are closed loops: each has one operation at a time, sends it to the member that
// it believes to lead, and goes elsewhere when it is told that nothing was appended. An
// operation without an answer is uncertain: it stays open to the end of the history.
type clients struct {
	s       *sim
	all     []*client
	stopped bool
	pause   int64 // nothing new begins before this step
	stamp   int64 // orders calls and returns
	made    int
	history []*operation
}

type client struct {
	all    *clients
	target *node
	op     *operation
	nextAt int64
}

// operation is one call, from its first attempt to its answer.
type operation struct {
	c       *client
	key     string
	command string // "" for a read
	known   bool   // output is, though nobody was told
	rev     int64  // of a read of a key space; 0: the newest
	own     bool   // it is a command of the nodes: the raise of the state machine's version

	call, ret int64 // stamps; ret is 0 while it is open
	output    string
	deadline  int64 // steps; then its client stops waiting
	retryAt   int64 // when it is to be sent, 0: it is with a node
	sent      bool  // some attempt may have had an effect
	over      bool  // its client waits no more
}

const (
	registers     = 4
	patienceTicks = 25
)

func (cs *clients) add(n int) {
	for range n {
		cs.all = append(cs.all, &client{all: cs, target: cs.s.nodes[0]})
	}
}

func (cs *clients) next() int64 {
	cs.stamp++
	return cs.stamp
}

func (cs *clients) step() {
	cs.s.leases.step()
	for _, c := range cs.all {
		c.step()
	}
}

func (c *client) step() {
	s := c.all.s
	switch op := c.op; {
	case op == nil && !c.all.stopped && s.now >= max(c.nextAt, c.all.pause):
		c.begin()
	case op == nil:
	case s.now >= op.deadline:
		op.abandon()
	case op.retryAt != 0 && s.now >= op.retryAt:
		op.attempt()
	}
}

// begin makes an operation up.
func (c *client) begin() {
	cs, s := c.all, c.all.s
	cs.made++
	if s.keys {
		c.beginKeys()
		return
	}
	op := cs.operation(c, fmt.Sprintf("r%d", s.rng.IntN(registers)))
	value := fmt.Sprintf("%d.", cs.made)
	switch p := s.rng.IntN(100); {
	case p < 30:
	case p < 60:
		op.command = fmt.Sprintf("put %s %s", op.key, value)
	case p < 80:
		op.command = fmt.Sprintf("append %s %s", op.key, value)
	default:
		op.command = fmt.Sprintf("cas %s %s %s", op.key, s.oracle.ledger.registers[op.key], value)
	}
	op.attempt()
}

// operation puts a new call in the history.
func (cs *clients) operation(c *client, key string) *operation {
	op := &operation{c: c, key: key, call: cs.next(), deadline: cs.s.now + patienceTicks*tickSteps}
	cs.history = append(cs.history, op)
	c.op = op
	return op
}

// attempt sends the operation to a node.
func (op *operation) attempt() {
	s, n := op.c.all.s, op.c.target
	op.retryAt = 0
	if n.r == nil {
		op.elsewhere(nil)
		return
	}
	if op.command != "" {
		op.sent = true
		n.commands = append(n.commands, op)
		return
	}
	n.later(func(n *node) { n.read(op) })
	op.retryAt = s.now + 10*tickSteps // a read may be asked for again
}

// elsewhere has the operation tried again: at the node that the last one believes to lead,
// or at any.
func (op *operation) elsewhere(n *node) {
	s := op.c.all.s
	op.sent = false
	op.retryAt = s.now + int64(s.between(1, 2*tickSteps))
	op.c.target = s.anyMember()
	if n == nil || n.r == nil {
		return
	}
	if id, _ := n.r.Leader(); s.replica(id) != nil && !s.replica(id).witness {
		op.c.target = s.replica(id)
	}
}

func (op *operation) envelope() zone.Envelope {
	return zone.Envelope{Own: op.own, Command: []byte(op.command)}
}

func (op *operation) left() bool { return op.over }

// applied is the answer to a command. None of those that have no number fails.
func (op *operation) applied(n *node, r nexusraft.Result, err error) {
	n.s.must(n, op.command, err)
	op.finish(string(r.Data))
}

// refused ends one attempt with an error of the node.
func (op *operation) refused(n *node, err error) {
	switch {
	case op.over:
	case errors.Is(err, nexusraft.ErrNotLeader), errors.Is(err, nexusraft.ErrOverloaded),
		errors.Is(err, nexusraft.ErrNoQuorum):
		op.elsewhere(n)
	case errors.Is(err, nexusraft.ErrUncertain), errors.Is(err, nexusraft.ErrZoneNotFound):
		op.abandon()
	default:
		n.s.fatalf("%s refuses %q: %v", n.name, op.command, err)
	}
}

// finish is the answer.
func (op *operation) finish(output string) {
	if op.over {
		return
	}
	op.output, op.ret = output, op.c.all.next()
	op.c.all.s.eventf("%q on %s gives %q", op.command, op.key, output)
	op.end()
}

// abandon is the end of a client's patience. A read, or what was never appended, is as if
// it had not been; anything else stays open.
func (op *operation) abandon() {
	op.c.all.s.eventf("%q on %s gets no answer", op.command, op.key)
	op.c.target = op.c.all.s.anyMember()
	op.end()
}

func (op *operation) end() {
	op.over = true
	op.c.op, op.c.nextAt = nil, op.c.all.s.now+int64(op.c.all.s.between(1, 3*tickSteps))
}

// open reports whether the operation may have an effect that nobody was told of.
func (op *operation) open() bool { return op.ret == 0 && op.sent }

func (op *operation) fields() []string { return strings.Split(op.command, " ") }
