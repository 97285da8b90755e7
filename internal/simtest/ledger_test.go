package simtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// ledger is what the committed entries come to, told once more in other words: the registers, and of
// each numbered command whether it runs (I17). It is asked before any member applies the entry.
type ledger struct {
	registers map[string]string
	keys      *keySpace // in their place; nil: the zone has registers
	outcomes  map[position]comesTo

	now         int64 // the zone's time
	clock, last int64 // the sessions', and the zone's time when it was moved on
	sessions    []*remembered
	registered  []uint64                    // all that were
	zones       map[nexusraft.ZoneID]string // names, in the root zone; nil: there are no records of zones
	lastZone    nexusraft.ZoneID
	seen        map[string]int // how often it came to what
}

// remembered is a session that the zone knows. They are in the order of their last use.
type remembered struct {
	id, top uint64
	used    int64
	ran     map[uint64]ranAt
}

type ranAt struct {
	at      position
	command string
}

// comesTo is what a command comes to, or an entry without one.
type comesTo struct {
	first nexusraft.Index // the entry with which it ran before
	data  string
	any   bool // or any other data
	err   error
}

func newLedger() *ledger {
	return &ledger{
		registers: make(map[string]string), outcomes: make(map[position]comesTo), seen: make(map[string]int),
	}
}

// apply takes the next command, or entry without one. Its error is of the simulation.
func (l *ledger) apply(c zone.Committed) (err error) {
	var out comesTo
	at := positionOf(&c)
	switch e := c.Command; {
	case c.ConfChange != nil:
		var leaders int64
		leaders, err = zone.ConfChangeTime(c.ConfChange)
		l.now = max(l.now, leaders)
	case e == nil:
	case e.Own:
		l.now = max(l.now, e.Time)
		out, err = l.own(c.Index, e.Command)
	case e.Request.IsZero():
		l.now = max(l.now, e.Time)
		out = l.run(string(e.Command))
	default:
		out = l.numbered(at, e)
	}
	l.outcomes[at] = out
	return err
}

// run is a command of the state machine that runs.
func (l *ledger) run(command string) comesTo {
	if l.keys != nil {
		var out comesTo
		l.keys, out.data = l.keys.step(command)
		return out
	}
	f := strings.Split(command, " ")
	next, result := transition(l.registers[f[1]], f)
	if f[0] == "must" && result == "no" {
		return comesTo{err: errMust}
	}
	l.registers[f[1]], l.registers[timeKey] = next, strconv.FormatInt(l.now, 10)
	return comesTo{data: result}
}

// own is a command of the nodes.
func (l *ledger) own(index nexusraft.Index, command []byte) (comesTo, error) {
	c := &pb.NodeCommand{}
	if err := proto.Unmarshal(command, c); err != nil {
		return comesTo{}, err
	}
	switch k := c.GetKind().(type) {
	case *pb.NodeCommand_CreateZone:
		return l.createZone(k.CreateZone.GetName()), nil
	case *pb.NodeCommand_DeleteZone:
		id := nexusraft.ZoneID(k.DeleteZone.GetId())
		if _, ok := l.zones[id]; !ok {
			return comesTo{err: nexusraft.ErrRefused}, nil
		}
		delete(l.zones, id)
		return comesTo{data: "own\x00"}, nil
	case *pb.NodeCommand_VerifyState:
		l.seen["states compared"]++
		return comesTo{data: "own\x00"}, nil
	case *pb.NodeCommand_RaiseMachineVersion:
		l.keys = l.keys.raise(k.RaiseMachineVersion.GetVersion())
		return comesTo{data: "own\x00"}, nil
	case *pb.NodeCommand_RegisterSession:
		l.pass()
		l.registered = append(l.registered, uint64(index))
		l.sessions = append(l.sessions, &remembered{id: uint64(index), used: l.clock, ran: make(map[uint64]ranAt)})
		return comesTo{data: string(binary.BigEndian.AppendUint64([]byte("own\x00"), uint64(index)))}, nil
	}
	return comesTo{}, fmt.Errorf("nobody here proposes %v", c)
}

// createZone makes a zone, unless there is one of that name. The answer is its record.
func (l *ledger) createZone(name string) comesTo {
	for _, known := range l.zones {
		if known == name {
			return comesTo{any: true}
		}
	}
	l.lastZone = max(l.lastZone, nexusraft.RootZone) + 1
	l.zones[l.lastZone] = name
	return comesTo{any: true}
}

// How long a session is remembered without use, and how many numbers of it; see node.Session.
const (
	sessionHour    = int64(time.Hour)
	sessionMinute  = int64(time.Minute)
	sessionNumbers = 64
	sessionSweeps  = 4
)

// pass moves the sessions' clock on, and forgets the oldest of those that have expired.
func (l *ledger) pass() {
	if l.last != 0 {
		l.clock += min(l.now-l.last, sessionMinute)
	}
	l.last = l.now
	for range sessionSweeps {
		if len(l.sessions) > 0 && l.expired(l.sessions[0]) {
			l.sessions = l.sessions[1:]
		}
	}
}

func (l *ledger) expired(s *remembered) bool { return l.clock-s.used > sessionHour }

func (l *ledger) find(id uint64) int {
	return slices.IndexFunc(l.sessions, func(s *remembered) bool { return s.id == id })
}

// known returns of each session that was registered whether it is remembered.
func (l *ledger) known() map[uint64]bool {
	known := make(map[uint64]bool)
	for _, id := range l.registered {
		known[id] = l.find(id) >= 0
	}
	return known
}

// top returns the highest number of a session so far; 0 if there is none.
func (l *ledger) top(id uint64) uint64 {
	if i := l.find(id); i >= 0 {
		return l.sessions[i].top
	}
	return 0
}

// numbered is a command that a session has given a number.
func (l *ledger) numbered(at position, e *zone.Envelope) comesTo {
	if l.find(e.Request.Session) < 0 {
		l.seen["session unknown"]++
		return comesTo{err: nexusraft.ErrUnknownSession}
	}
	l.now = max(l.now, e.Time)
	clock, last := l.clock, l.last
	l.pass()
	i := l.find(e.Request.Session)
	if i < 0 || l.expired(l.sessions[i]) {
		if i >= 0 {
			l.sessions = slices.Delete(l.sessions, i, i+1)
		}
		l.clock, l.last = clock, last // that was no use
		l.seen["session unknown"]++
		return comesTo{err: nexusraft.ErrUnknownSession}
	}
	s := l.sessions[i]
	s.used = l.clock
	l.sessions = append(slices.Delete(l.sessions, i, i+1), s)
	return l.once(at, s, e.Request.Sequence, string(e.Command))
}

// once runs a command of a session that is known, unless it has run.
func (l *ledger) once(at position, s *remembered, number uint64, command string) comesTo {
	before, ran := s.ran[number]
	switch {
	case number+sessionNumbers <= s.top:
		l.seen["number forgotten"]++
		return comesTo{err: nexusraft.ErrUnknownSession}
	case ran && before.command != command:
		l.seen["number of another command"]++
		return comesTo{err: nexusraft.ErrRefused}
	case ran:
		l.seen["ran before"]++
		if before.at.index == at.index {
			l.seen["ran before in the same entry"]++
		}
		again := l.outcomes[before.at]
		again.first = before.at.index
		return again
	}
	if number < s.top {
		l.seen["ran after a higher number"]++
	}
	s.top, s.ran[number] = max(s.top, number), ranAt{at, command}
	return l.run(command)
}

// check compares what a member has made of a command, or of an entry without one.
func (l *ledger) check(at position, a *apply.Effects) error {
	if want := l.outcomes[at].first; a.First != want {
		return fmt.Errorf("it says that the command ran before at %d, want %d", a.First, want)
	}
	return l.checkAnswer(at, a.Data, a.Err)
}

// checkAnswer compares an answer to a command.
func (l *ledger) checkAnswer(at position, data []byte, err error) error {
	want := l.outcomes[at]
	same := want.err == nil && err == nil || errors.Is(err, want.err) ||
		err != nil && want.err == errMust && err.Error() == errMust.Error() // as it was kept
	if !same || string(data) != want.data && !want.any {
		return fmt.Errorf("got %q, %v, want %q, %v", data, err, want.data, want.err)
	}
	return nil
}

// sessionOf returns the ID in the answer to a registration.
func sessionOf(data []byte) (id uint64, ok bool) {
	answer, ok := system.CutAnswer(data)
	if !ok || len(answer) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(answer), true
}
