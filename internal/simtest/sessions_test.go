package simtest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// sessionCallers are clients with a session each. A command keeps its number until there is an answer,
// at whichever member it takes: answers get lost, and a caller is impatient, so that one command is
// often in the log more than once. Its operation is one call of the history all the same.
type sessionCallers struct {
	s       *sim
	all     []*sessionCaller
	stopped bool
	made    int
}

type sessionCaller struct {
	cs      *sessionCallers
	target  *node
	joining *numbered // registers a session; nil: it has one, or none is asked for
	session uint64    // 0: none
	next    uint64
	open    []*numbered // no answer yet
	done    []*numbered // of this session
	quietTo int64       // nothing new begins before this step
	resting bool        // or until all that is open has ended
}

// numbered is a command with its number, for as long as it takes.
type numbered struct {
	c       *sessionCaller
	e       zone.Envelope
	op      *operation // nil for what is not in the history
	maybe   int        // attempts that may have had an effect
	retryAt int64
	over    bool
}

// sessionOpen is how many commands of a session are under way at most, and sessionSkips how many numbers
// may be between two of them.
const (
	sessionOpen  = 8
	sessionSkips = 3
)

func (cs *sessionCallers) add(n int) {
	for range n {
		cs.all = append(cs.all, &sessionCaller{cs: cs, target: cs.s.nodes[0]})
	}
}

// idle reports whether nothing waits for an answer.
func (cs *sessionCallers) idle() bool {
	return !slices.ContainsFunc(cs.all, func(c *sessionCaller) bool { return c.joining != nil || len(c.open) > 0 })
}

func (cs *sessionCallers) step() {
	for _, c := range cs.all {
		c.step()
	}
}

func (c *sessionCaller) step() {
	s := c.cs.s
	for _, x := range append(slices.Clone(c.open), c.joining) {
		if x != nil && s.now >= x.retryAt {
			x.attempt()
		}
	}
	if c.resting && len(c.open) == 0 {
		c.resting, c.quietTo = false, s.now+int64(s.between(5, 60)*tickSteps)
	}
	switch p := s.rng.IntN(1000); {
	case c.cs.stopped || c.resting || s.now < c.quietTo || c.joining != nil:
	case c.session == 0:
		c.register()
	case p < 8 && c != c.cs.all[0]: // whose commands move the sessions' clock on
		c.resting = true
	case p < 80 && c.room():
		c.begin()
	case p < 150 && len(c.done) > 0:
		c.repeat()
	}
}

// room reports whether the next number may be given: none that is open must leave the session's window.
func (c *sessionCaller) room() bool {
	return len(c.open) == 0 || len(c.open) < sessionOpen && c.next < c.open[0].number()+sessionNumbers-sessionSkips
}

func (c *sessionCaller) register() {
	cs := c.cs
	cs.made++
	b, err := proto.Marshal(&pb.NodeCommand{Kind: &pb.NodeCommand_RegisterSession{
		RegisterSession: &pb.RegisterSession{
			Owner: fmt.Sprintf("caller %d", cs.made), RootZone: cs.s.zone == nexusraft.RootZone,
		},
	}})
	cs.s.must(c.target, "make a registration", err)
	c.joining = &numbered{c: c, e: zone.Envelope{Own: true, Command: b}}
	c.joining.attempt()
}

// begin makes a command up.
func (c *sessionCaller) begin() {
	cs, s := c.cs, c.cs.s
	cs.made++
	key, value := fmt.Sprintf("r%d", s.rng.IntN(registers)), fmt.Sprintf("s%d.", cs.made)
	known := s.oracle.ledger.registers[key]
	command := fmt.Sprintf("append %s %s", key, value)
	switch p := s.rng.IntN(100); {
	case p < 20:
		command = fmt.Sprintf("put %s %s", key, value)
	case p < 35:
		command = fmt.Sprintf("cas %s %s %s", key, known, value)
	case p < 50:
		command = fmt.Sprintf("must %s %s %s", key, known, value)
	}
	x := &numbered{c: c, op: &operation{key: key, command: command, call: s.clients.next()}}
	x.e = zone.Envelope{Request: nexusraft.RequestID{Session: c.session, Sequence: c.next}, Command: []byte(command)}
	c.next += uint64(max(1, s.between(-5, sessionSkips)))
	s.clients.history = append(s.clients.history, x.op)
	c.open = append(c.open, x)
	if s.percent(80) { // or it is late, and a higher number is first
		x.attempt()
	} else {
		x.retryAt = s.now + int64(s.between(1, 2*tickSteps))
	}
}

// repeat hands over what has its answer already, or another command with its number: for nothing.
// Numbers that are about to be forgotten come more often.
func (c *sessionCaller) repeat() {
	s := c.cs.s
	x := c.done[s.rng.IntN(len(c.done))]
	if top := s.oracle.ledger.top(c.session); s.percent(70) && top >= sessionNumbers {
		edge := top - sessionNumbers + uint64(s.between(0, 2))
		if i := slices.IndexFunc(c.done, func(x *numbered) bool { return x.number() == edge }); i >= 0 {
			x = c.done[i]
		}
	}
	again := &numbered{c: c, e: x.e, over: true}
	if s.percent(15) {
		again.e.Command = []byte("append r0 never.")
	}
	again.attempt()
}

func (x *numbered) number() uint64 { return x.e.Request.Sequence }

// attempt hands the command over. It does so again if no answer comes, also while a node has it.
func (x *numbered) attempt() {
	c, s := x.c, x.c.cs.s
	x.retryAt = s.now + int64(s.between(2, 20)*tickSteps)
	if c.target.r == nil {
		c.target, x.retryAt = s.anyMember(), s.now+int64(s.between(1, tickSteps))
		return
	}
	x.count(1)
	c.target.commands = append(c.target.commands, x)
	if s.percent(5) {
		c.target, x.retryAt = s.anyMember(), s.now+int64(s.between(1, tickSteps))
	}
}

func (x *numbered) count(attempts int) {
	if x.maybe += attempts; x.op != nil {
		x.op.sent = x.maybe > 0
	}
}

func (x *numbered) envelope() zone.Envelope { return x.e }

func (x *numbered) left() bool { return false }

// refused ends one attempt. Only where nothing was appended it had no effect.
func (x *numbered) refused(n *node, err error) {
	c, s := x.c, x.c.cs.s
	x.retryAt = s.now + int64(s.between(1, 2*tickSteps))
	switch {
	case errors.Is(err, nexusraft.ErrNotLeader), errors.Is(err, nexusraft.ErrOverloaded),
		errors.Is(err, nexusraft.ErrNoQuorum):
		x.count(-1)
	case !errors.Is(err, nexusraft.ErrUncertain):
		s.fatalf("%s refuses %q: %v", n.name, x.e.Command, err)
	}
	c.target = s.anyMember()
	if n.r == nil {
		return
	}
	if id, _ := n.r.Leader(); s.replica(id) != nil && !s.replica(id).witness {
		c.target = s.replica(id)
	}
}

// applied is an answer, which gets lost at times.
func (x *numbered) applied(_ *node, r nexusraft.Result, err error) {
	c, s := x.c, x.c.cs.s
	if x.over || s.percent(10) {
		return
	}
	x.over = true
	if x == c.joining {
		c.joining = nil
		id, ok := sessionOf(r.Data)
		if !ok || err != nil {
			s.fatalf("a registration is answered by %q, %v", r.Data, err)
		}
		c.session, c.next, c.done = id, 1, nil
		return
	}
	c.open = slices.DeleteFunc(c.open, func(o *numbered) bool { return o == x })
	if errors.Is(err, nexusraft.ErrUnknownSession) {
		c.forgotten()
		return
	}
	c.done = append(c.done, x)
	x.op.output = string(r.Data)
	if err != nil {
		x.op.output = "no"
	}
	x.op.ret = s.clients.next()
	s.eventf("number %d, %q, gives %q", x.number(), x.op.command, x.op.output)
}

// forgotten gives the session up. What was under way may have run, and never will again.
func (c *sessionCaller) forgotten() {
	for _, x := range c.open {
		x.over = true
	}
	c.session, c.open = 0, nil
}

// sessionChaos is chaos with sessions, which expire within a run: a step of time is 15 seconds of the
// leaders' clocks, which differ. The log begins where a few checkpoints are ahead.
func sessionChaos(t *testing.T, seed uint64) *sim {
	s := newSimAt(t, seed, seed%3 == 0, nexusraft.Index(100+seed%100))
	s.stepTime = sessionMinute / 4
	for _, n := range s.nodes {
		n.skew = int64(s.between(0, 80)) * sessionMinute
	}
	s.clients.add(2)
	s.callers.add(3)
	s.partBytes = int(seed % 4 / 3)
	if seed%2 == 0 {
		s.until("in sync for the first time", 400, s.inSync)
	}
	s.faults.on = true
	s.run(250)
	s.faults.stop()
	s.answered() // before a crash ends what waits
	s.recover()
	return s
}

// TestSessionChaos: whatever breaks, a command that has a number runs once, none that was acknowledged is
// lost, what was forgotten is refused, and the members' digests are the same.
func TestSessionChaos(t *testing.T) {
	seen := make(map[string]int)
	forSeeds(t, 30, func(t *testing.T, seed uint64) {
		o := sessionChaos(t, seed).oracle
		for what, n := range o.ledger.seen {
			seen[what] += n
		}
		seen["not the first of its entry"] += o.together
	})
	t.Logf("seen: %v", seen)
	if kinds := len(seen); rareHappens() && kinds < 8 {
		t.Errorf("only %d of 8 kinds of answers were given: %v", kinds, seen)
	}
}
