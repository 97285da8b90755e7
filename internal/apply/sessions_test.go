package apply

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// tally is a state machine that counts how often it has run a command, and answers with that and the index; one
// that begins with "!" fails, and counts nothing.
type tally struct{}

func (tally) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	n := uint64(1)
	old, ok, err := tx.Get(cmd.Data)
	if err != nil {
		return nil, err
	}
	if ok {
		n += binary.BigEndian.Uint64(old)
	}
	if err := tx.Set(cmd.Data, binary.BigEndian.AppendUint64(nil, n)); err != nil {
		return nil, err
	}
	if cmd.Data[0] == '!' {
		return nil, fmt.Errorf("%w: %s at %d", nexusraft.ErrRefused, cmd.Data, cmd.Index)
	}
	return fmt.Appendf(nil, "%d at %d, %d", n, cmd.Index, cmd.Time), nil
}

// pair is two replicas, which apply the same log.
type pair struct {
	t        rapid.TB
	empty    nexusraft.Reader
	replicas [2]*storage.Overlay
	index    nexusraft.Index
	place    int
	own      bool        // the entry at index is the nodes' own
	joins    func() bool // whether the next command is of the same entry; nil: it is not
	now      int64

	clock, last int64 // of sessions, as the model has it
}

// after is the sessions' clock if one is used now: pauses between uses count a minute at most.
func (p *pair) after() int64 { return p.clock + min(p.now-p.last, int64(time.Minute)) }

func (p *pair) used() { p.clock, p.last = p.after(), p.now }

func newPair(t rapid.TB, empty nexusraft.Reader) *pair {
	return &pair{
		t: t, empty: empty, now: int64(time.Hour), last: int64(time.Hour),
		replicas: [2]*storage.Overlay{storage.NewOverlay(empty), storage.NewOverlay(empty)},
	}
}

// apply applies a command on both; their answers are the same.
func (p *pair) apply(e zone.Envelope) Effects {
	p.t.Helper()
	if p.index > 0 && !p.own && !e.Own && p.joins != nil && p.joins() {
		p.place++
	} else {
		p.index, p.place, p.own = p.index+1, 0, e.Own
	}
	e.Time, e.Place = p.now, p.place
	var all [2]Effects
	for i, base := range p.replicas {
		o, err := Command(Machine{StateMachine: tally{}}, base, p.index, &e)
		if err != nil {
			p.t.Fatal(err)
		}
		all[i] = o
	}
	if one, two := fmt.Sprintf("%+v", all[0]), fmt.Sprintf("%+v", all[1]); one != two {
		p.t.Fatalf("two replicas answer %s and %s", one, two)
	}
	return all[0]
}

func (p *pair) register() uint64 {
	p.t.Helper()
	command, err := proto.Marshal(&pb.NodeCommand{Kind: &pb.NodeCommand_RegisterSession{
		RegisterSession: &pb.RegisterSession{Owner: "a"},
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	answer, ok := system.CutAnswer(p.apply(zone.Envelope{Own: true, Command: command}).Data)
	if id := binary.BigEndian.Uint64(answer); !ok || id != uint64(p.index) {
		p.t.Fatalf("the session of index %d has the ID %d", p.index, id)
	}
	p.used()
	return uint64(p.index)
}

func (p *pair) propose(id, sequence uint64, command string) Effects {
	p.t.Helper()
	return p.apply(zone.Envelope{
		Request: nexusraft.RequestID{Session: id, Sequence: sequence}, Command: []byte(command),
	})
}

// runs returns how often a command has run.
func (p *pair) runs(command string) uint64 {
	p.t.Helper()
	b, ok, err := MachineReader(p.replicas[0]).Get([]byte(command))
	if err != nil {
		p.t.Fatal(err)
	}
	if !ok {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// snapshot makes a replica anew, of all that the other one has.
func (p *pair) snapshot() {
	p.t.Helper()
	p.replicas[1] = storage.NewOverlay(p.empty)
	for pair, err := range p.replicas[0].Scan(nil, nil) {
		if err == nil {
			err = p.replicas[1].Set(bytes.Clone(pair.Key), bytes.Clone(pair.Value))
		}
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *pair) same() {
	p.t.Helper()
	var all [2]strings.Builder
	for i, r := range p.replicas {
		for pair, err := range r.Scan(nil, nil) {
			if err != nil {
				p.t.Fatal(err)
			}
			fmt.Fprintf(&all[i], "%q=%q\n", pair.Key, pair.Value)
		}
	}
	if all[0].String() != all[1].String() {
		p.t.Fatalf("two replicas differ:\n%s\n%s", &all[0], &all[1])
	}
}

// sessionModel is a session as its client may think of it.
type sessionModel struct {
	used int64
	top  uint64
	ran  map[uint64]string // command and answer of each number that has run
}

func described(command string, o Effects, index nexusraft.Index) string {
	return fmt.Sprintf("%s: %s %v at %d", command, o.Data, o.Err, index)
}

// TestCommandTwiceInOneEntry: a command that was proposed again waits with the first attempt, and both come into one
// entry. It runs once, and the second one gets the first one's answer.
func TestCommandTwiceInOneEntry(t *testing.T) {
	p := newPair(t, emptyState(t))
	id := p.register()
	p.joins = func() bool { return true }
	p.apply(zone.Envelope{Command: []byte("x")})
	first, again, next := p.propose(id, 1, "a"), p.propose(id, 1, "a"), p.propose(id, 2, "a")
	if p.index != 2 || p.place != 3 {
		t.Fatalf("the commands are at %d, up to place %d: the test is void", p.index, p.place)
	}
	if string(again.Data) != string(first.Data) || again.First != 2 || first.First != 0 {
		t.Errorf("got %q of %d, then %q of %d", first.Data, first.First, again.Data, again.First)
	}
	if want := fmt.Sprintf("2 at 2, %d", p.now); string(next.Data) != want || p.runs("a") != 2 {
		t.Errorf("the next one gets %q, want %q; the command has run %d times, want 2", next.Data, want, p.runs("a"))
	}
}

// TestSessionsModel: whatever is proposed, again or in another order, on one replica or on one that
// comes of a snapshot, each number of a session runs once at most, and is answered alike each time.
func TestSessionsModel(t *testing.T) {
	empty := emptyState(t)
	commands := []string{"a", "b", "!c"}
	rapid.Check(t, func(t *rapid.T) {
		p, model, ran := newPair(t, empty), map[uint64]*sessionModel{}, map[string]uint64{}
		p.joins = func() bool { return rapid.IntRange(0, 2).Draw(t, "joins") > 0 }
		ids, keeper := []uint64{0, 1 << 40}, p.register()
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			switch rapid.IntRange(0, 15).Draw(t, "step") {
			case 0:
				id := p.register()
				ids, model[id] = append(ids, id), &sessionModel{used: p.clock, ran: map[uint64]string{}}
			case 1: // other sessions are in use meanwhile
				pause := rapid.Int64Range(0, int64(2*time.Minute)).Draw(t, "pause")
				for range rapid.IntRange(0, 70).Draw(t, "pauses") {
					p.now += pause
					p.propose(keeper, 0, "")
					p.used()
				}
			case 2:
				p.snapshot()
			case 3:
				command := rapid.SampledFrom(commands[:2]).Draw(t, "command")
				p.apply(zone.Envelope{Command: []byte(command)})
				ran[command]++
			default:
				proposeOne(t, p, ids, model, ran, rapid.SampledFrom(commands).Draw(t, "command"))
			}
			for _, command := range commands {
				if got := p.runs(command); got != ran[command] {
					t.Fatalf("%s has run %d times, want %d", command, got, ran[command])
				}
			}
		}
		p.same()
	})
}

// proposeOne proposes a command with any number of any session, and compares its answer with the model's.
func proposeOne(
	t *rapid.T, p *pair, ids []uint64, model map[uint64]*sessionModel, ran map[string]uint64, command string,
) {
	id := rapid.SampledFrom(ids).Draw(t, "session")
	m := model[id]
	if m == nil {
		if o := p.propose(id, 1, command); !errors.Is(o.Err, nexusraft.ErrUnknownSession) {
			t.Fatalf("session %d is unknown, and answers %+v", id, o)
		}
		return
	}
	number := rapid.Uint64Range(m.top-min(m.top, 70), m.top+70).Draw(t, "number")
	o := p.propose(id, number, command)
	first, again := m.ran[number]
	switch {
	case p.after()-m.used > int64(time.Hour):
		delete(model, id)
		if !errors.Is(o.Err, nexusraft.ErrUnknownSession) {
			t.Fatalf("session %d has expired, and answers %+v", id, o)
		}
		return
	case number == 0:
		if !errors.Is(o.Err, nexusraft.ErrRefused) {
			t.Fatalf("number 0 is answered %+v", o)
		}
	case number+64 <= m.top:
		if !errors.Is(o.Err, nexusraft.ErrUnknownSession) {
			t.Fatalf("number %d is below the window of %d, and is answered %+v", number, m.top, o)
		}
	case again && !strings.HasPrefix(first, command+":"):
		if !errors.Is(o.Err, nexusraft.ErrRefused) || o.First != 0 {
			t.Fatalf("number %d is %q and is answered to %q with %+v", number, first, command, o)
		}
	case again:
		if got := described(command, o, o.First); got != first {
			t.Fatalf("number %d: got %q, and first %q", number, got, first)
		}
	case o.First != 0 || errors.Is(o.Err, nexusraft.ErrUnknownSession):
		t.Fatalf("number %d is new, and is answered %+v", number, o)
	default:
		m.ran[number], m.top = described(command, o, p.index), max(m.top, number)
		if command[0] != '!' {
			ran[command]++
		}
	}
	p.used()
	m.used = p.clock
}

// Sessions are for the state machine's commands.
func TestSystemCommandsHaveNoNumbers(t *testing.T) {
	p := newPair(t, emptyState(t))
	id := p.register()
	o := p.apply(zone.Envelope{Own: true, Request: nexusraft.RequestID{Session: id, Sequence: 1}, Command: []byte{1}})
	if !errors.Is(o.Err, nexusraft.ErrUnknownSession) {
		t.Errorf("got %+v", o)
	}
}

// A command without a session costs no more than before there were sessions.
func TestCommandsWithoutASessionPayNothing(t *testing.T) {
	base := emptyState(t)
	e := &zone.Envelope{Time: 1, Command: []byte("a")}
	index := nexusraft.Index(0)
	apply := func() {
		index++
		if _, err := Command(Machine{StateMachine: silentMachine{}}, base, index, e); err != nil {
			t.Fatal(err)
		}
	}
	apply()
	if base.Len() != 1 {
		t.Errorf("%d keys were written, want the zone's time", base.Len())
	}
	without, with := newPair(t, base), newPair(t, base)
	for range 100 {
		without.apply(*e)
		with.register()
	}
	base = without.replicas[0]
	before := testing.AllocsPerRun(1000, apply)
	base = with.replicas[0]
	if n := testing.AllocsPerRun(1000, apply); n > before+1 { // the race detector has some of its own, now and then
		t.Errorf("%v allocations a command where there are sessions, and %v where there are none", n, before)
	}
}

// silentMachine does nothing.
type silentMachine struct{}

func (silentMachine) Apply(nexusraft.Tx, nexusraft.Command) ([]byte, error) { return nil, nil }

// FuzzNumbered applies any command with any number, in a session that has some answers: two replicas agree.
func FuzzNumbered(f *testing.F) {
	empty := emptyState(f)
	p := newPair(f, empty)
	id := p.register()
	for number := range uint64(3) {
		p.propose(id, 70*number+1, "a")
	}
	seeded, index := p.replicas[0], p.index
	f.Add(id, uint64(1), []byte("a"), int64(5))
	f.Add(id, uint64(141), []byte("!b"), int64(1)<<60)
	f.Add(id+1, uint64(0), []byte("x"), int64(-1))
	f.Add(uint64(0), uint64(0), []byte("0"), int64(-19))
	f.Fuzz(func(t *testing.T, session, sequence uint64, command []byte, now int64) {
		if len(command) == 0 || session == 0 && sequence == 0 { // that is no number
			return
		}
		p := &pair{t: t, empty: empty, index: index, now: now}
		p.replicas = [2]*storage.Overlay{storage.NewOverlay(seeded), storage.NewOverlay(seeded)}
		first := p.propose(session, sequence, string(command))
		again := p.propose(session, sequence, string(command))
		if first.Err == nil && (again.Err != nil || again.First == 0 || !bytes.Equal(first.Data, again.Data)) {
			t.Errorf("first %+v, again %+v", first, again)
		}
		p.same()
	})
}
