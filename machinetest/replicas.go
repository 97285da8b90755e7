// Package machinetest runs a state machine without a cluster, for its tests.
//
// New makes two replicas of a zone, in memory. Apply gives a command to both, as a node does: what a
// refused command has written is dropped, events and notes with it, and time never goes back. Both must
// answer alike and come to the same state. One of them is opened anew from time to time (nexusraft.Opener), as after a
// restart; and what a state machine may only borrow, the command's data and what its reads return, is
// overwritten as soon as it may be. So each test of the state machine is one of its determinism (invariant I4),
// too, and finds memory that is kept too long.
//
//	z := machinetest.New(t, orders{})
//	result, err := z.Apply(nexusraft.Command{Data: place("o1")})
//
// The replicas are for one goroutine.
package machinetest

import (
	"bytes"
	"fmt"
	"iter"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// TB is the part of testing.TB that is needed. Fatalf ends the test.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

// ZoneID is the zone that the replicas are of.
const ZoneID nexusraft.ZoneID = 2

// reopenEvery is after how many commands the second replica is opened anew.
const reopenEvery = 5

// Replicas are two replicas of a zone.
type Replicas struct {
	tb      TB
	machine nexusraft.StateMachine
	all     [2]*replica
	index   nexusraft.Index
	place   int
	shared  bool // the next command may share the entry
	time    int64
	applied int
	version uint32
	notes   []any
}

// New returns replicas that have applied nothing. An Opener's error ends the test.
func New(tb TB, machine nexusraft.StateMachine) *Replicas {
	tb.Helper()
	z := &Replicas{tb: tb, machine: machine, time: 1}
	for i := range z.all {
		z.all[i] = &replica{state: storage.NewOverlay(empty{})}
		begins := system.FoundingDigest()
		z.must(z.all[i].state.Set(begins.Key, begins.Value))
		z.open(z.all[i])
	}
	return z
}

// Apply has both replicas apply a command, and returns what the proposer gets: the result, or the error of a
// command that is refused, which leaves nothing behind. It ends the test where the replicas differ, and where a
// state machine panics.
//
// Of the command Data is copied. With an Index of 0 it gets the next position, and commands come two to an entry,
// unless one is to be alone (nexusraft.Batched): they have the same Index. With an Index it has that one and its
// Place, which must come after the command before; indexes between the last one and a higher one are entries
// of Raft's own. Time 0 is that of the command before; Version is that of SetVersion.
func (z *Replicas) Apply(cmd nexusraft.Command) (result []byte, err error) {
	z.tb.Helper()
	z.put(&cmd)
	z.time = max(z.time, cmd.Time)
	if z.applied++; z.applied%reopenEvery == 0 {
		z.open(z.all[1])
	}
	var answers [len(z.all)]apply.Effects
	for i, r := range z.all {
		answers[i] = z.apply(r, cmd)
	}
	z.index, z.place = cmd.Index, cmd.Place
	z.compare(answers[0], answers[1])
	z.notes = append(z.notes, answers[0].Notes...)
	return answers[0].Data, answers[0].Err
}

// put gives a command its position.
func (z *Replicas) put(cmd *nexusraft.Command) {
	z.tb.Helper()
	if cmd.Index != 0 {
		z.shared = false
		if before := (nexusraft.Command{Index: z.index, Place: z.place}); cmd.Order() <= before.Order() {
			z.tb.Fatalf("machinetest: index %d, place %d, after index %d, place %d", cmd.Index, cmd.Place, z.index, z.place)
		}
		return
	}
	alone := apply.Alone(z.all[0].machine, cmd.Data)
	if z.shared && !alone {
		cmd.Index, cmd.Place, z.shared = z.index, z.place+1, false
		return
	}
	cmd.Index, cmd.Place, z.shared = z.index+1, 0, !alone
}

// apply has a replica apply the entries up to a command.
func (z *Replicas) apply(r *replica, cmd nexusraft.Command) apply.Effects {
	for i := z.index + 1; i < cmd.Index; i++ {
		if _, err := apply.Nothing(r.state, i); err != nil {
			z.tb.Fatalf("machinetest: entry %d: %v", i, err)
		}
	}
	r.calls = 0
	data := bytes.Clone(cmd.Data)
	m := apply.Machine{StateMachine: counted{r}, Version: z.version, Heard: true}
	o, err := apply.Command(m, r.state, cmd.Index, &zone.Envelope{Time: z.time, Place: cmd.Place, Command: data})
	if err != nil {
		z.tb.Fatalf("machinetest: command at %d: %v", cmd.Index, err)
	}
	o.Data = bytes.Clone(o.Data)
	spoil(data)
	return o
}

// compare ends the test if the replicas have answered differently, or have come to different states.
func (z *Replicas) compare(a, b apply.Effects) {
	z.tb.Helper()
	if !bytes.Equal(a.Data, b.Data) || fmt.Sprint(a.Err) != fmt.Sprint(b.Err) {
		z.tb.Fatalf("machinetest: the replicas answer the command at %d with %q, %v and with %q, %v", z.index, a.Data, a.Err,
			b.Data, b.Err)
	}
	first, _, err := system.LoadDigest(z.all[0].state)
	z.must(err)
	second, _, err := system.LoadDigest(z.all[1].state)
	z.must(err)
	if first != second {
		z.tb.Fatalf("machinetest: after the command at %d the replicas' states differ:\n%s\n\nand\n\n%s", z.index,
			strings.Join(z.all[0].dump(), "\n"), strings.Join(z.all[1].dump(), "\n"))
	}
}

// SetVersion sets the zone's version of its state machine, which begins with 0: nexusraft.Versioned.
func (z *Replicas) SetVersion(version uint32) { z.version = version }

// Reader reads the state. It is good until the next command.
func (z *Replicas) Reader() nexusraft.Reader { return apply.MachineReader(z.all[0].state) }

// Dump returns the state, a line for each pair: key and value, quoted.
func (z *Replicas) Dump() []string { return z.all[0].dump() }

// Calls returns how much the last command has read and written: its calls of nexusraft.Tx, and the steps of its
// iterations. What a command costs must be bounded by what is known before it is proposed (invariant I15).
func (z *Replicas) Calls() int { return z.all[0].calls }

// Notes returns what the commands have told, in order (Tx.Note).
func (z *Replicas) Notes() []any { return z.notes }

// Events returns what the commands have published, in order: topic, type and payload (Tx.Publish).
func (z *Replicas) Events() []nexusraft.Event {
	var all []nexusraft.Event
	for sequence := uint64(1); ; sequence++ {
		b, ok, err := z.all[0].state.Get(system.EventKey(sequence))
		z.must(err)
		if !ok {
			return all
		}
		e, err := system.DecodeEvent(b)
		z.must(err)
		all = append(all, nexusraft.Event{Sequence: sequence, Topic: e.Topic, Type: e.Type, Payload: bytes.Clone(e.Payload)})
	}
}

// open has a replica's state machine begin with the state as it is.
func (z *Replicas) open(r *replica) {
	z.tb.Helper()
	r.machine = z.machine
	o, ok := z.machine.(nexusraft.Opener)
	if !ok {
		return
	}
	var err error
	if r.machine, err = o.Open(ZoneID, apply.MachineReader(r.state)); err != nil || r.machine == nil {
		z.tb.Fatalf("machinetest: open: got %v, %v", r.machine, err)
	}
}

func (z *Replicas) must(err error) {
	if err != nil {
		z.tb.Fatalf("machinetest: %v", err)
	}
}

// replica is one of them.
type replica struct {
	machine nexusraft.StateMachine
	state   *storage.Overlay
	calls   int // of the last command
}

func (r *replica) dump() (all []string) {
	for p := range apply.MachineReader(r.state).Scan(nil, nil) {
		all = append(all, fmt.Sprintf("%q %q", p.Key, p.Value))
	}
	return all
}

// empty is a state that has nothing.
type empty struct{}

func (empty) Get([]byte) ([]byte, bool, error) { return nil, false, nil }

func (empty) Scan(_, _ []byte) iter.Seq2[nexusraft.Pair, error] {
	return func(func(nexusraft.Pair, error) bool) {}
}

func (e empty) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return e.Scan(start, end)
}
