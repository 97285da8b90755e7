package driver

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// The replicas of a test's zone; their nodes have the same numbers with a 0 behind them.
const (
	self   nexusraft.ReplicaID = 1
	other  nexusraft.ReplicaID = 2
	third  nexusraft.ReplicaID = 3
	before                     = 10 // the index before the log
)

// bench is a driver with a few groups. It is owner, disk and sender of them, and tells what it is
// asked to do, in order.
type bench struct {
	t      testing.TB
	d      *Driver
	groups []*Group
	told   []string

	signals zone.Signals // of the other nodes; nil: zones never sleep
	batches bool         // an entry may have several commands

	held   map[nexusraft.ZoneID]int
	broken error                      // Commit
	fails  map[nexusraft.ZoneID]error // Apply
	quiet  bool

	lease LeaseConfig           // of groups to come
	older bool                  // some voter's program does not keep the promise
	sees  func(*raftpb.Message) // if set, sees what leaves; nil: a write
}

func newBench(t testing.TB, partBytes int) *bench {
	b := &bench{t: t, held: make(map[nexusraft.ZoneID]int), fails: make(map[nexusraft.ZoneID]error)}
	b.d = New(b, b, partBytes)
	return b
}

// owned is one group's owner.
type owned struct {
	*bench
	zone nexusraft.ZoneID
	log  *raft.MemoryStorage
	g    *Group
}

// group adds a zone of so many voters.
func (b *bench) group(voters int) *Group {
	b.t.Helper()
	o := &owned{bench: b, zone: nexusraft.ZoneID(len(b.groups) + 1), log: raft.NewMemoryStorage()}
	members, cs := nexusraft.Membership{Shape: nexusraft.DefaultShape}, &raftpb.ConfState{}
	for i := range voters {
		id := nexusraft.ReplicaID(i + 1)
		members = members.With(nexusraft.Member{
			Replica: id, Node: nexusraft.NodeID(10 * id), Address: "127.0.0.1:1", Role: nexusraft.RoleMember,
		})
		cs.Voters = append(cs.Voters, uint64(id))
	}
	err := o.log.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: new(uint64(before)), Term: new(uint64(1)), ConfState: cs,
	}})
	hs := &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(before))}
	if err := errors.Join(err, o.log.SetHardState(hs)); err != nil {
		b.t.Fatal(err)
	}
	o.g, err = NewGroup(Config{Owner: o, ReadTicks: 20, Lease: b.lease, Config: zone.Config{
		Zone: o.zone, Replica: self, Incarnation: 4, Storage: o.log, Applied: before, Membership: members,
		Signals: b.signals, Batches: func() bool { return b.batches },
	}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.groups = append(b.groups, o.g)
	return o.g
}

// leading is a bench with one group, which leads a zone of its own.
func leading(t testing.TB, partBytes int) (*bench, *Group) {
	t.Helper()
	b := newBench(t, partBytes)
	g := b.group(1)
	if err := g.Replica().Campaign(); err != nil {
		t.Fatal(err)
	}
	b.turns()
	b.told = nil
	return b, g
}

func (b *bench) tell(format string, args ...any) {
	if !b.quiet {
		b.told = append(b.told, fmt.Sprintf(format, args...))
	}
}

// turns makes rounds until there is no work.
func (b *bench) turns() {
	b.t.Helper()
	for busy := true; busy; {
		var err error
		if busy, err = b.d.Turn(b.groups); err != nil {
			b.t.Fatal(err)
		}
		for _, g := range b.groups {
			if err := Valid(g); err != nil {
				b.t.Fatalf("zone %v: %v", g.Zone(), err)
			}
		}
	}
}

// expect compares what was told since the last time.
func (b *bench) expect(want ...string) {
	b.t.Helper()
	if !slices.Equal(b.told, want) {
		b.t.Errorf("got\n  %s\nwant\n  %s", strings.Join(b.told, "\n  "), strings.Join(want, "\n  "))
	}
	b.told = nil
}

func (o *owned) Began(*zone.Work) { o.tell("begin") }

func (o *owned) Apply(c *zone.Committed, _ bool) (Applied, error) {
	o.tell("apply %d", c.Index)
	if err := o.fails[o.zone]; err != nil && c.Command != nil {
		return Applied{}, err
	}
	if c.ConfChange != nil {
		_, _, err := o.g.ApplyConfChange(c.ConfChange)
		return Applied{}, err
	}
	o.held[o.zone] += 10
	if c.Command == nil {
		return Applied{}, nil
	}
	return Applied{Data: c.Command.Command}, nil
}

func (o *owned) Held() int { return o.held[o.zone] }

func (o *owned) Stage(p *Part) error {
	o.tell("stage")
	if p.Work == nil {
		return nil
	}
	if hs := p.Work.HardState; hs != nil {
		return errors.Join(o.log.SetHardState(hs), o.log.Append(p.Work.Append))
	}
	return o.log.Append(p.Work.Append)
}

func (o *owned) Written(*Part) {
	o.held[o.zone] = 0
	o.tell("written")
}

func (o *owned) Refusal(err error) error { return err }

func (o *owned) Ended() error {
	o.tell("ended")
	return nil
}

func (o *owned) Failed(err error) {
	o.tell("failed: %v", err)
	o.g.Stop(err)
}

func (b *bench) Commit(groups []*Group, sync bool) error {
	b.see(nil)
	b.tell("commit of %d, sync %v", len(groups), sync)
	return b.broken
}

func (b *bench) see(m *raftpb.Message) {
	if b.sees != nil {
		b.sees(m)
	}
}

func (b *bench) Send(_ *Group, to nexusraft.NodeID, m *raftpb.Message) {
	b.see(m)
	b.tell("%v to %d", m.GetType(), to)
}

func (b *bench) RequestVotes(to nexusraft.NodeID, votes []VoteRequest) {
	for _, v := range votes {
		b.tell("%v in zone %d to %d", v.Message.GetType(), v.Zone, to)
	}
}

// call is any call that waits; it tells of its end.
type call struct {
	b    *bench
	name string
	left bool
}

func (c *call) Answer(r nexusraft.Result, err error) { c.b.tell("%s: %q, %v", c.name, r.Data, err) }

// at is a call that tells also at which entry its command has run.
type at struct{ *call }

func (c at) Answer(r nexusraft.Result, err error) {
	c.b.tell("%s: %q at %d, %v", c.name, r.Data, r.Index, err)
}
func (c *call) Left() bool { return c.left }

type readCall struct{ *call }

func (c readCall) Serve(err error) { c.b.tell("%s: %v", c.name, err) }
func (c readCall) Gone() bool      { return c.left }

type voteCallOf struct{ *call }

func (c voteCallOf) Answer(a VoteAnswer) {
	switch {
	case a.Response == nil:
		c.b.tell("%s: ignored, %s", c.name, a.Why)
	default:
		c.b.tell("%s: term %d, reject %v", c.name, a.Response.GetTerm(), a.Response.GetReject())
	}
}

func (b *bench) propose(g *Group, commands ...string) {
	var envelopes []zone.Envelope
	var calls []Call
	for _, c := range commands {
		envelopes = append(envelopes, zone.Envelope{Command: []byte(c)})
		calls = append(calls, &call{b: b, name: c})
	}
	Propose(g, envelopes, calls)
}

func message(from nexusraft.ReplicaID, typ raftpb.MessageType, term uint64) *raftpb.Message {
	return &raftpb.Message{Type: typ.Enum(), From: new(uint64(from)), To: new(uint64(self)), Term: new(term)}
}

// step gives a message of a member to a group.
func (b *bench) step(g *Group, m *raftpb.Message, call VoteCall) {
	b.t.Helper()
	if err := g.Step(nexusraft.NodeID(10*m.GetFrom()), m, call); err != nil {
		b.t.Fatal(err)
	}
}

// A proposal is answered once its entry is applied and that is written.
func TestProposalIsAnsweredAfterItsWrite(t *testing.T) {
	b, g := leading(t, 1<<20)
	b.propose(g, "x", "y")
	b.turns()
	b.expect(
		"begin", "stage", "commit of 1, sync true", "written", "ended",
		"begin", "apply 12", "apply 13", "stage", "commit of 1, sync false", "written",
		`x: "x", <nil>`, `y: "y", <nil>`, "ended",
	)
}

// TestCommandsOfOneEntry: what waits together becomes one entry, and each command of it is applied and answered by
// itself. The entry is in one part of its round (I2), however large it is.
func TestCommandsOfOneEntry(t *testing.T) {
	b, g := leading(t, 1) // a part ends with the first entry
	b.batches = true
	propose := func(commands ...string) {
		envelopes, calls := make([]zone.Envelope, len(commands)), make([]Call, len(commands))
		for i, c := range commands {
			envelopes[i] = zone.Envelope{Command: []byte(c), Own: c == "own"}
			if c != "nobody's" {
				calls[i] = at{&call{b: b, name: c}}
			}
		}
		Propose(g, envelopes, calls)
	}
	propose("x", "nobody's", "y", "own", "z")
	b.turns()
	b.expect(
		"begin", "stage", "commit of 1, sync true", "written", "ended",
		"begin", "apply 12", "apply 12", "apply 12", "stage", "commit of 1, sync false", "written",
		`x: "x" at 12, <nil>`, `y: "y" at 12, <nil>`,
		"apply 13", "stage", "commit of 1, sync false", "written", `own: "own" at 13, <nil>`,
		"apply 14", "stage", "commit of 1, sync false", "written", `z: "z" at 14, <nil>`, "ended",
	)
	propose("a", "b")
	g.Stop(errors.New("stopped"))
	why := fmt.Sprintf(": %q at 0, %v: stopped", "", nexusraft.ErrUncertain)
	b.expect("a"+why, "b"+why)
	if g.proposals.valid() != nil || !g.proposals.empty() {
		t.Errorf("%d calls wait", len(g.proposals.calls))
	}
}

// TestEntryIsLost: every command of an entry that is overwritten hears that it never commits, and none that it has run.
func TestEntryIsLost(t *testing.T) {
	b := newBench(t, 1<<20)
	b.batches = true
	g := b.group(3)
	if err := g.Replica().Campaign(); err != nil {
		t.Fatal(err)
	}
	b.turns()
	b.step(g, message(other, raftpb.MsgPreVoteResp, 2), nil)
	b.turns()
	b.step(g, message(other, raftpb.MsgVoteResp, 2), nil)
	b.turns()
	b.propose(g, "x", "y", "z")
	b.turns()
	b.told = nil
	m := message(third, raftpb.MsgApp, 3)
	m.Index, m.LogTerm, m.Commit = new(uint64(before)), new(uint64(1)), new(uint64(before+2))
	for i := range uint64(2) {
		m.Entries = append(m.Entries, &raftpb.Entry{
			Type: raftpb.EntryNormal.Enum(), Term: new(uint64(3)), Index: new(before + 1 + i),
		})
	}
	b.step(g, m, nil)
	b.turns()
	lost := func(c string) string { return fmt.Sprintf("%s: %q, %v", c, "", nexusraft.ErrNotLeader) }
	b.expect(
		"begin", "apply 11", "apply 12", "stage", "commit of 1, sync true", "written", "MsgAppResp to 30",
		lost("x"), lost("y"), lost("z"), "ended",
	)
}

// A follower's acknowledgement leaves after the sync, a leader's append before it (I3).
func TestWhatLeavesWhen(t *testing.T) {
	b := newBench(t, 1<<20)
	g := b.group(2)
	m := message(other, raftpb.MsgApp, 2)
	m.Index, m.LogTerm, m.Commit = new(uint64(before)), new(uint64(1)), new(uint64(before+1))
	m.Entries = []*raftpb.Entry{{Type: raftpb.EntryNormal.Enum(), Term: new(uint64(2)), Index: new(uint64(before + 1))}}
	b.step(g, m, nil)
	b.turns()
	b.expect(
		"begin", "apply 11", "stage", "commit of 1, sync true", "written", "MsgAppResp to 20", "ended",
	)
	for !g.HasWork() {
		g.Tick()
	}
	b.turns()
	b.expect("begin", "stage", "commit of 1, sync false", "written", "MsgPreVote in zone 1 to 20", "ended")
	b.step(g, message(other, raftpb.MsgPreVoteResp, 3), nil)
	b.turns()
	b.expect("begin", "stage", "commit of 1, sync true", "written", "MsgVote in zone 1 to 20", "ended")
	b.step(g, message(other, raftpb.MsgVoteResp, 3), nil)
	b.turns()
	b.expect("begin", "MsgApp to 20", "stage", "commit of 1, sync true", "written", "ended")
}

// The vote requests of all groups for one node leave together, and after every group's write.
func TestVoteRequestsOfARoundLeaveTogether(t *testing.T) {
	b := newBench(t, 1<<20)
	for range 2 {
		if err := b.group(3).Replica().Campaign(); err != nil {
			t.Fatal(err)
		}
	}
	b.turns()
	b.expect(
		"begin", "begin", "stage", "stage", "commit of 2, sync false", "written", "written",
		"MsgPreVote in zone 1 to 20", "MsgPreVote in zone 2 to 20",
		"MsgPreVote in zone 1 to 30", "MsgPreVote in zone 2 to 30", "ended", "ended",
	)
}

// A vote is answered after the sync, in its own term; raft's silence is answered, too.
func TestVotesAreAnsweredAfterTheSync(t *testing.T) {
	b := newBench(t, 1<<20)
	g := b.group(3)
	ask := func(from nexusraft.ReplicaID, term uint64) {
		m := message(from, raftpb.MsgVote, term)
		m.Index, m.LogTerm = new(uint64(before)), new(uint64(1))
		b.step(g, m, voteCallOf{&call{b: b, name: fmt.Sprintf("%d in %d", from, term)}})
	}
	ask(other, 5)
	ask(third, 5)
	ask(other, 6)
	b.expect("2 in 5: ignored, a newer request has come")
	b.turns()
	b.expect(
		"begin", "stage", "commit of 1, sync true", "written", "3 in 5: term 5, reject true",
		"2 in 6: term 6, reject false", "ended",
	)
	ask(third, 4)
	b.turns()
	b.expect("commit of 0, sync false", "3 in 4: ignored, term 4 is over, this replica is at 6")
}

// A request that is refused takes nobody's place.
func TestRefusedVoteTakesNoPlace(t *testing.T) {
	b := newBench(t, 1<<20)
	g := b.group(2)
	b.step(g, message(other, raftpb.MsgVote, 2), voteCallOf{&call{b: b, name: "honest"}})
	if err := g.Step(77, message(other, raftpb.MsgVote, 2), voteCallOf{&call{b: b, name: "forged"}}); err == nil {
		t.Error("a request in another node's name was taken")
	}
	if len(b.told) != 1 || !strings.HasPrefix(b.told[0], "forged: ignored") {
		t.Errorf("got %q, want the forged request ignored and nothing else", b.told)
	}
}

// An answer to another term's request does not fill the slot of the newer one, whose candidate
// would count it.
func TestAnswerToAnotherTermsVote(t *testing.T) {
	for _, tt := range []struct {
		name   string
		typ    raftpb.MessageType
		term   uint64
		reject bool
		fills  bool
	}{
		{"a vote of the term before", raftpb.MsgVoteResp, 5, false, false},
		{"a vote", raftpb.MsgVoteResp, 6, false, true},
		{"a rejection of the term before", raftpb.MsgVoteResp, 5, true, false},
		{"a pre-vote for the term before", raftpb.MsgPreVoteResp, 5, false, false},
		{"a pre-vote", raftpb.MsgPreVoteResp, 6, false, true},
		{"a pre-vote's rejection, in the voter's own term", raftpb.MsgPreVoteResp, 3, true, true},
	} {
		b := newBench(t, 1<<20)
		g := b.group(2)
		pre := tt.typ == raftpb.MsgPreVoteResp
		g.votes = []voteSlot{{from: other, pre: pre, term: 6, call: voteCallOf{&call{b: b, name: "x"}}}}
		g.answerVote(&raftpb.Message{
			Type: tt.typ.Enum(), From: new(uint64(self)), To: new(uint64(other)), Term: new(tt.term), Reject: new(tt.reject),
		})
		if filled := len(b.told) == 1; filled != tt.fills || filled == (len(g.votes) == 1) {
			t.Errorf("%s: it fills the slot: %v, want %v; %d slots left", tt.name, filled, tt.fills, len(g.votes))
		}
	}
}

// A read is served once its index is applied, and that is written.
func TestReadWaitsForItsIndex(t *testing.T) {
	b := newBench(t, 1<<20)
	g := b.group(2)
	b.step(g, message(other, raftpb.MsgHeartbeat, 2), nil)
	b.turns()
	b.told = nil
	g.Read(readCall{&call{b: b, name: "read"}}, time.Time{})
	b.turns()
	b.expect("begin", "stage", "commit of 1, sync false", "written", "MsgReadIndex to 20", "ended")
	m := message(other, raftpb.MsgReadIndexResp, 2)
	m.Index = new(uint64(before + 2))
	m.Entries = []*raftpb.Entry{{Data: g.reads.asked[0].context}}
	b.step(g, m, nil)
	b.turns()
	b.expect("begin", "stage", "commit of 1, sync false", "written", "ended")
	for i := range uint64(2) {
		m := message(other, raftpb.MsgApp, 2)
		m.Index, m.LogTerm, m.Commit = new(before+i), new(min(i+1, 2)), new(before+i+1)
		m.Entries = []*raftpb.Entry{{Type: raftpb.EntryNormal.Enum(), Term: new(uint64(2)), Index: new(before + i + 1)}}
		b.step(g, m, nil)
		b.turns()
		want := []string{
			"begin", fmt.Sprintf("apply %d", before+i+1), "stage", "commit of 1, sync true", "written", "MsgAppResp to 20",
			"read: <nil>", "ended",
		}
		if i == 0 { // not yet
			want = slices.Delete(want, 6, 7)
		}
		b.expect(want...)
	}
}

// What much is applied of is written in parts, each answered after its own; conf changes are synced
// in whichever part they are, and what had to wait leaves after the last one (I3, I15).
func TestPartsOfARound(t *testing.T) {
	b, g := leading(t, 20)
	b.propose(g, "p", "q", "r")
	learner := nexusraft.Member{Replica: third, Node: 30, Address: "127.0.0.1:3", Role: nexusraft.RoleLearner}
	change := zone.ConfChange{Set: []nexusraft.Member{learner}}
	if err := ProposeConfChange(g, change, &call{b: b, name: "change"}); err != nil {
		t.Fatal(err)
	}
	b.turns()
	b.told = b.told[:min(len(b.told), 20)] // the learner gets the log after that
	b.expect(
		"begin", "stage", "commit of 1, sync true", "written", "ended",
		"begin", "apply 12", "apply 13", "stage", "commit of 1, sync true", "written", `p: "p", <nil>`, `q: "q", <nil>`,
		"apply 14", "apply 15", "stage", "commit of 1, sync true", "written", `r: "r", <nil>`, `change: "", <nil>`,
	)
}

// After a write that failed nothing leaves, and nobody is answered but by Stop (I9).
func TestNothingLeavesAfterAFailedWrite(t *testing.T) {
	b := newBench(t, 1<<20)
	g, leader := b.group(3), b.group(1)
	if err := leader.Replica().Campaign(); err != nil {
		t.Fatal(err)
	}
	b.turns()
	b.told = nil
	b.propose(leader, "x")
	b.step(g, message(other, raftpb.MsgHeartbeat, 2), nil)
	b.step(g, message(third, raftpb.MsgPreVote, 9), voteCallOf{&call{b: b, name: "vote"}})
	g.Read(readCall{&call{b: b, name: "read"}}, time.Time{})
	b.broken = errors.New("the disk is gone")
	if _, err := b.d.Turn(b.groups); !errors.Is(err, b.broken) {
		t.Errorf("the turn ended with %v, want %v", err, b.broken)
	}
	b.expect("begin", "begin", "stage", "stage", "commit of 2, sync true")
	g.Stop(b.broken)
	leader.Stop(b.broken)
	b.expect(
		"read: the disk is gone", "vote: ignored, the disk is gone",
		`x: "", nexusraft: outcome unknown: the disk is gone`,
	)
}

// A group whose state machine fails leaves nothing behind, and the others go on.
func TestGroupFailsAlone(t *testing.T) {
	b := newBench(t, 1<<20)
	for range 2 {
		if err := b.group(1).Replica().Campaign(); err != nil {
			t.Fatal(err)
		}
	}
	b.turns()
	b.fails[1] = &GroupError{errors.New("it panicked")}
	b.propose(b.groups[0], "bad")
	b.propose(b.groups[1], "good")
	if _, err := b.d.Turn(b.groups); err != nil {
		t.Fatal(err)
	}
	b.told = nil
	if _, err := b.d.Turn(b.groups); err != nil {
		t.Fatal(err)
	}
	b.expect(
		"begin", "begin", "apply 12", "failed: it panicked", `bad: "", nexusraft: outcome unknown: it panicked`,
		"apply 12", "stage", "commit of 1, sync false", "written", `good: "good", <nil>`, "ended",
	)
	if b.groups[0].HasWork() {
		t.Error("a group that was stopped has work")
	}
}

// A turn without work asks the disk: it may have died of another one's write.
func TestIdleTurnAsksTheDisk(t *testing.T) {
	b := newBench(t, 1<<20)
	b.group(1)
	b.broken = errors.New("the disk is gone")
	if _, err := b.d.Turn(b.groups); !errors.Is(err, b.broken) {
		t.Errorf("got %v, want %v", err, b.broken)
	}
}

// A refusal is heard by the call, and nothing waits after it.
func TestRefusedProposals(t *testing.T) {
	b := newBench(t, 1<<20)
	g := b.group(2)
	b.propose(g, "x")
	err := ProposeConfChange(g, zone.ConfChange{}, nil)
	b.expect(`x: "", nexusraft: not leader`)
	if err == nil || !g.proposals.empty() {
		t.Errorf("a conf change that nobody waits for: %v; nothing waits: %v", err, g.proposals.empty())
	}
}

// Nobody but the driver makes rounds, or gives a replica what waits for one. The step machine's own
// tests may take single steps, and make no round either.
func TestOnlyTheDriverMakesRounds(t *testing.T) {
	makes := regexp.MustCompile(
		`(replica|\br|Replica\(\))\.(Ready|Advance|Tick|Step|Read|Propose|ProposeConfChange|ApplyConfChange)\(`)
	ends := regexp.MustCompile(`\.Advance\(`)
	seen := 0
	for pattern, never := range map[string]*regexp.Regexp{
		"../../node/*.go": makes, "../worker/*.go": makes, "../../witness/*.go": makes, "../simtest/*_test.go": makes,
		"../zone/*_test.go": ends,
	} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") != strings.HasSuffix(pattern, "_test.go") {
				continue
			}
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			seen++
			if call := never.Find(source); call != nil {
				t.Errorf("%s calls %s…): that is the driver's", file, call)
			}
		}
	}
	if seen < 30 {
		t.Errorf("looked at %d files only", seen)
	}
}

// pending does what a map does.
func TestPendingIsAMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var p pending
	model := make(map[uint64]Call)
	for range 20_000 {
		if rng.IntN(2) == 0 || p.last == 0 {
			var c Call
			if rng.IntN(8) > 0 {
				c = &call{left: rng.IntN(2) == 0}
			}
			if s := p.add(c); c != nil {
				model[s] = c
			}
		} else {
			s := p.last - min(p.last, uint64(rng.IntN(40))) + uint64(rng.IntN(3))
			if want := model[s] != nil && !model[s].Left(); p.wanted(s) != want {
				t.Fatalf("%d is wanted: %v, want %v", s, !want, want)
			}
			if got := p.take(s); got != model[s] {
				t.Fatalf("%d: got %v, want %v", s, got, model[s])
			}
			delete(model, s)
		}
		n := 0
		for range p.all() {
			n++
		}
		if err := p.valid(); err != nil || n != len(model) {
			t.Fatalf("%d calls wait, want %d; %v", n, len(model), err)
		}
	}
}

// BenchmarkProposals is what the driver and the step machine cost for each command.
func BenchmarkProposals(b *testing.B) {
	for _, batches := range []bool{false, true} {
		b.Run(fmt.Sprintf("batches %t", batches), func(b *testing.B) { benchmarkProposals(b, batches) })
	}
}

func benchmarkProposals(b *testing.B, batches bool) {
	w, g := leading(b, 1<<20)
	w.quiet, w.batches = true, batches
	const together = 100
	envelopes, calls := make([]zone.Envelope, together), make([]Call, together)
	for i := range calls {
		envelopes[i].Command, calls[i] = []byte("command"), &call{b: w}
	}
	b.ReportAllocs()
	for i := 0; i < b.N; i += together {
		Propose(g, envelopes, calls)
		w.turns()
	}
}

// TestSyncOfAnyGroup: a write of several groups is synced if any of them must be, whichever it is.
func TestSyncOfAnyGroup(t *testing.T) {
	for _, first := range []bool{true, false} {
		b := newBench(t, 1<<20)
		must, other := b.group(3), b.group(3)
		if !first {
			must, other = other, must
		}
		for _, g := range b.groups {
			b.step(g, message(third, raftpb.MsgHeartbeat, 2), nil)
		}
		b.turns()
		b.told = nil
		b.step(must, message(third, raftpb.MsgHeartbeat, 3), nil) // of a new term
		b.step(other, message(third, raftpb.MsgHeartbeat, 2), nil)
		b.turns()
		if !slices.Contains(b.told, "commit of 2, sync true") {
			t.Errorf("the first one must be synced, %t: %q", first, b.told)
		}
	}
}

// TestRefusedBatch: every call of a batch that raft refuses hears of it.
func TestRefusedBatch(t *testing.T) {
	b := newBench(t, 1<<20)
	g := b.group(2)
	b.propose(g, "x", "y", "z")
	if len(b.told) != 3 || !g.proposals.empty() {
		t.Errorf("three calls were told %q", b.told)
	}
}

// TestPreVoteAndVoteInOneTurn: each of one candidate's requests gets the answer of its own kind.
func TestPreVoteAndVoteInOneTurn(t *testing.T) {
	b := newBench(t, 1<<20)
	g := b.group(3)
	got := make(map[raftpb.MessageType]raftpb.MessageType)
	for _, typ := range []raftpb.MessageType{raftpb.MsgPreVote, raftpb.MsgVote} {
		m := message(other, typ, 5)
		m.Index, m.LogTerm = new(uint64(before)), new(uint64(1))
		b.step(g, m, answerTo(func(a VoteAnswer) { got[typ] = a.Response.GetType() }))
	}
	b.turns()
	want := map[raftpb.MessageType]raftpb.MessageType{
		raftpb.MsgPreVote: raftpb.MsgPreVoteResp, raftpb.MsgVote: raftpb.MsgVoteResp,
	}
	if !maps.Equal(got, want) {
		t.Errorf("the answers are %v, want %v", got, want)
	}
}

// answerTo is a VoteCall.
type answerTo func(VoteAnswer)

func (f answerTo) Answer(a VoteAnswer) { f(a) }
