package gate

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// from makes a message to a replica at term 2; the edit adds to it.
func from(sender, to uint64, typ raftpb.MessageType, edit func(*raftpb.Message)) *raftpb.Message {
	m := &raftpb.Message{Type: typ.Enum(), From: new(sender), To: new(to), Term: new(uint64(2))}
	edit(m)
	return m
}

func appends(index, logTerm uint64, entries ...*raftpb.Entry) func(*raftpb.Message) {
	return func(m *raftpb.Message) {
		m.Index, m.LogTerm, m.Commit, m.Entries = new(index), new(logTerm), new(index), entries
	}
}

func entryAt(index, term uint64) *raftpb.Entry {
	return &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Index: new(index), Term: new(term)}
}

func ids(v ...nexusraft.ReplicaID) []nexusraft.ReplicaID { return v }

func at(match nexusraft.Index) Voter { return Voter{Match: match, Following: true} }

func TestReached(t *testing.T) {
	// Replica 1 leads; 6 leads in the last case: its own disk is behind the others.
	full := map[nexusraft.ReplicaID]Voter{1: at(20), 2: at(15), 4: at(12), 5: at(10), 6: at(9)}
	for _, tt := range []struct {
		name   string
		halves [][]nexusraft.ReplicaID
		want   nexusraft.Index
		ok     bool
	}{
		{"no configuration", nil, 0, false},
		{"a member alone", [][]nexusraft.ReplicaID{ids(1)}, 20, true},
		{"two members", [][]nexusraft.ReplicaID{ids(1, 2)}, 15, true},
		{"two members and a witness", [][]nexusraft.ReplicaID{ids(1, 2, 3)}, 15, true},
		{"a member and two witnesses", [][]nexusraft.ReplicaID{ids(1, 3, 7)}, 0, false},
		{"three members and a witness", [][]nexusraft.ReplicaID{ids(1, 2, 3, 4)}, 12, true},
		{"three members and two witnesses", [][]nexusraft.ReplicaID{ids(1, 2, 3, 4, 7)}, 12, true},
		{"four members and a witness", [][]nexusraft.ReplicaID{ids(1, 2, 3, 4, 5)}, 12, true},
		{"a joint configuration", [][]nexusraft.ReplicaID{ids(1, 2, 3), ids(1, 3, 4)}, 12, true},
		{"the other way round", [][]nexusraft.ReplicaID{ids(1, 3, 4), ids(1, 2, 3)}, 12, true},
		{"half of a joint configuration", [][]nexusraft.ReplicaID{ids(1, 2, 3), ids(1, 3, 7)}, 0, false},
		{"a leader that is behind", [][]nexusraft.ReplicaID{ids(2, 3, 6)}, 9, true},
	} {
		got, ok := Voters{Halves: tt.halves, Full: full}.reached(all)
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("%s: got R=%d %v, want %d %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

// TestOneAppendPerTick: however much has piled up, in sync the witness gets no more than one
// append for each tick, with the heartbeats, and degraded all of it at once.
func TestOneAppendPerTick(t *testing.T) {
	const many = 2*maxHeldEntries + 100
	var entries []*raftpb.Entry
	for i := range uint64(many) {
		entries = append(entries, entryAt(12+i, 2))
	}
	piled := from(1, 3, raftpb.MsgApp, appends(11, 2, entries...))
	p := Voters{
		Last: 11 + many, Halves: [][]nexusraft.ReplicaID{ids(1, 2, 3)},
		Full: map[nexusraft.ReplicaID]Voter{1: at(11 + many), 2: at(11 + many)},
	}
	sizes := func(state nexusraft.SyncState) (out []int) {
		g := New(6, 2)
		g.Begin(2, 11)
		g.state = state
		for i := range 6 {
			g.HeardOf(3, 2)
			var msgs []*raftpb.Message
			if i == 0 {
				msgs = []*raftpb.Message{piled}
			}
			f := g.Filter(msgs, p, 11, func(id nexusraft.ReplicaID) bool { return id == 3 })
			n := 0
			for _, m := range f.Messages {
				n += len(m.GetEntries())
			}
			if len(f.Messages) > 1 {
				n = -len(f.Messages)
			}
			out = append(out, n)
			g.Tick(p.Last)
		}
		return out
	}
	// The heartbeat is two ticks, and the first one comes with the second tick.
	if got, want := sizes(nexusraft.InSync), []int{0, 0, -2, 0, 100, 0}; !slices.Equal(got, want) {
		t.Errorf("in sync: got %v entries in each tick (negative: appends at once), want %v", got, want)
	}
	if got, want := sizes(nexusraft.Degraded), []int{-3, 0, 0, 0, 0, 0}; !slices.Equal(got, want) {
		t.Errorf("degraded: got %v entries in each tick (negative: appends at once), want %v", got, want)
	}
}

// TestConfigurationBelowFloor: a change of the voters may put R below what a witness has
// seen; then the gate closes anew, and does not wait for a stall.
func TestConfigurationBelowFloor(t *testing.T) {
	g := New(6, 1)
	g.Begin(2, 11)
	p := Voters{
		Last: 20, Halves: [][]nexusraft.ReplicaID{ids(1, 2, 3)},
		Full: map[nexusraft.ReplicaID]Voter{1: at(20), 2: at(20), 4: at(15)},
	}
	g.floor = 20
	for _, id := range ids(2, 4) {
		g.HeardOf(id, 2)
	}
	expect := func(want nexusraft.SyncState) {
		t.Helper()
		if g.Evaluate(p); g.state != want {
			t.Errorf("got %q, want %q", g.state, want)
		}
	}
	expect(nexusraft.InSync)
	p.Halves = append(p.Halves, ids(1, 3, 4)) // joint
	expect(nexusraft.Closing)
	if got := g.limit(p); got != 20 {
		t.Errorf("got limit %d while it closes, want floor, 20", got)
	}
	p.Full[4] = at(20)
	expect(nexusraft.InSync)
}

// TestSnapshotForAWitness: one beyond the limit does not leave, nor one for a witness that has not
// answered this leadership, and raft hears that it failed; one that leaves is over at once and
// moves floor.
func TestSnapshotForAWitness(t *testing.T) {
	p := Voters{
		Last: 20, Halves: [][]nexusraft.ReplicaID{ids(1, 2, 3)},
		Full: map[nexusraft.ReplicaID]Voter{1: at(20), 2: at(15)},
	}
	for _, tt := range []struct {
		state nexusraft.SyncState
		index uint64
		heard nexusraft.Term // that the witness has answered, 0 for none; the leader's is 2
		leave bool
	}{
		{nexusraft.InSync, 15, 2, true},
		{nexusraft.InSync, 16, 2, false},
		{nexusraft.Closing, 12, 2, true},
		{nexusraft.Closing, 13, 2, false},
		{nexusraft.Degraded, 20, 2, true},
		{nexusraft.Degraded, 20, 0, false},
		{nexusraft.Degraded, 20, 1, false},
	} {
		g := New(6, 1)
		g.Begin(2, 11)
		g.state, g.floor = tt.state, 12
		if tt.heard != 0 {
			g.HeardOf(3, tt.heard)
		}
		g.of(3).add(from(1, 3, raftpb.MsgApp, appends(11, 2, entryAt(12, 2))))
		m := from(1, 3, raftpb.MsgSnap, func(m *raftpb.Message) {
			m.Snapshot = &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{Index: new(tt.index)}}
		})
		f := g.Filter([]*raftpb.Message{m}, p, 11, func(id nexusraft.ReplicaID) bool { return id == 3 })
		if got := len(f.Messages) == 1 && f.Messages[0] == m; got != tt.leave {
			t.Errorf("%s, snapshot at %d, heard in term %d: it leaves: %v, want %v", tt.state, tt.index, tt.heard, got, tt.leave)
		}
		if want := []SnapshotReport{{3, tt.leave}}; !slices.Equal(f.Snapshots, want) {
			t.Errorf("%s, snapshot at %d: got reports %v, want %v", tt.state, tt.index, f.Snapshots, want)
		}
		want := nexusraft.Index(12)
		if tt.leave {
			want = max(12, nexusraft.Index(tt.index))
		}
		if g.floor != want {
			t.Errorf("%s, snapshot at %d, heard in term %d: got floor %d, want %d", tt.state, tt.index, tt.heard, g.floor, want)
		}
	}
}

// TestBackOff: closing is tried again after 10, 20, 40, … ticks, at most 200, and after 10
// again once the zone has been in sync for longer than that.
func TestBackOff(t *testing.T) {
	g := New(6, 1)
	g.Begin(2, 11)
	var waits []int
	for range 8 {
		g.fail(11)
		waits = append(waits, g.retryAt-g.now)
	}
	if want := []int{10, 20, 40, 80, 160, 200, 200, 200}; !slices.Equal(waits, want) {
		t.Errorf("got waits of %v ticks, want %v", waits, want)
	}
	g.enter(nexusraft.InSync, 11)
	for range 201 {
		g.Tick(11)
	}
	g.fail(11)
	if got := g.retryAt - g.now; got != firstBackOffTicks {
		t.Errorf("got a wait of %d ticks after a long time in sync, want %d", got, firstBackOffTicks)
	}
}

// gateModel drives a gate by random events and checks after each what it lets through. It
// keeps its own account of the log and of when which entry was first held.
type gateModel struct {
	g       Gate
	last    nexusraft.Index
	match   map[nexusraft.ReplicaID]nexusraft.Index // of the full replicas; 1 is the leader
	follows map[nexusraft.ReplicaID]bool
	halves  [][]nexusraft.ReplicaID

	told  nexusraft.Index         // up to here raft has sent to the witness
	saw   nexusraft.Index         // up to here the witness was let see
	asked map[nexusraft.Index]int // tick at which raft first sent an entry to the witness
	now   int
	heard int  // tick of the witness's last answer
	deaf  bool // nothing of the witness arrives
}

const gateOpens = 11

func newGateModel(hold, heartbeat int) *gateModel {
	m := &gateModel{
		g: New(hold, heartbeat), last: gateOpens, told: gateOpens - 1, saw: gateOpens - 1,
		match:   map[nexusraft.ReplicaID]nexusraft.Index{1: 10, 2: 10, 4: 10},
		follows: map[nexusraft.ReplicaID]bool{1: true, 2: true, 4: true},
		halves:  [][]nexusraft.ReplicaID{ids(1, 2, 3)},
		asked:   make(map[nexusraft.Index]int), heard: -1,
	}
	m.g.Begin(2, gateOpens)
	return m
}

func (m *gateModel) voters() Voters {
	p := Voters{Last: m.last, Halves: m.halves, Full: make(map[nexusraft.ReplicaID]Voter)}
	for id, match := range m.match {
		p.Full[id] = Voter{Match: match, Following: m.follows[id], Silent: id != 1 && m.g.Silent(id), Gone: m.g.gone[id]}
	}
	return p
}

// round is a Ready: raft sends what is new to the witness, and perhaps a probe.
func (m *gateModel) round(t *rapid.T, probe bool) {
	var msgs []*raftpb.Message
	if m.told < m.last {
		var entries []*raftpb.Entry
		for i := m.told + 1; i <= m.last; i++ {
			entries = append(entries, entryAt(uint64(i), 2))
			m.asked[i] = m.now
		}
		msgs = append(msgs, from(1, 3, raftpb.MsgApp, appends(uint64(m.told), 2, entries...)))
		m.told = m.last
	} else if probe {
		msgs = append(msgs, from(1, 3, raftpb.MsgApp, appends(uint64(m.told), 2)))
	}
	p := m.voters()
	floor, before := m.g.floor, m.g.state
	m.g.Evaluate(p)
	near := func(v Voter) bool { return v.Following && !v.Gone }
	if _, ok := p.reached(near); before == nexusraft.Degraded && m.g.state != before && !ok {
		t.Fatalf("%s with too few followers that replicate", m.g.state)
	}
	f := m.g.Filter(msgs, p, gateOpens, func(id nexusraft.ReplicaID) bool { return id == 3 })
	m.check(t, p, floor, f.Messages)
}

func (m *gateModel) check(t *rapid.T, p Voters, floorBefore nexusraft.Index, out []*raftpb.Message) {
	r, exists := p.reached(all)
	for _, x := range out {
		end := nexusraft.Index(x.GetIndex()) + nexusraft.Index(len(x.GetEntries()))
		if m.g.state == nexusraft.InSync && end > r {
			t.Fatalf("in sync with R=%d, released up to %d", r, end)
		}
		if m.g.state == nexusraft.Closing && end > floorBefore {
			t.Fatalf("closing with floor %d, released up to %d", floorBefore, end)
		}
		m.saw = max(m.saw, end)
	}
	if m.g.state == nexusraft.InSync && (!exists || r < m.g.floor) {
		t.Fatalf("in sync with R=%d (exists: %v) and floor %d", r, exists, m.g.floor)
	}
	if m.g.state != nexusraft.Degraded && m.g.floor < m.saw {
		t.Fatalf("floor %d below the %d that the witness was let see", m.g.floor, m.saw)
	}
	if m.g.state == nexusraft.Closing && m.g.floor != floorBefore {
		t.Fatalf("closing, and floor moved from %d to %d", floorBefore, m.g.floor)
	}
	if m.g.state == nexusraft.Closing && m.g.now-m.g.entered >= m.g.holdTicks {
		t.Fatalf("closing for %d ticks, the hold time is %d", m.g.now-m.g.entered, m.g.holdTicks)
	}
	answers := m.heard >= 0 && m.now-m.heard < max(m.g.holdTicks, 2*m.g.heartbeatTicks)
	if m.g.state == nexusraft.Degraded && answers && m.saw < m.told {
		t.Fatalf("degraded, and (%d, %d] is held", m.saw, m.told)
	}
	if !answers && slices.ContainsFunc(out, func(x *raftpb.Message) bool { return x.GetType() == raftpb.MsgApp }) {
		t.Fatalf("%s: an append leaves for a witness that is not heard", m.g.state)
	}
	if _, enough := p.reached(staying); !enough && m.g.state != nexusraft.Degraded {
		t.Fatalf("%s, and the members that it needs are silent or gone", m.g.state)
	}
	if !exists && m.g.state != nexusraft.Degraded {
		t.Fatalf("%s with fewer full voters than the quorum", m.g.state)
	}
	// An entry that R has reached is on its way at the next heartbeat; it is held for
	// nobody's sake.
	if oldest := m.saw + 1; answers && oldest <= m.told && r < oldest && m.now-m.asked[oldest] > m.g.holdTicks+1 {
		t.Fatalf("%s: entry %d is held for %d ticks, the hold time is %d", m.g.state, oldest, m.now-m.asked[oldest],
			m.g.holdTicks)
	}
}

// TestGateProperties: in sync R >= floor and nothing beyond R leaves; closing nothing
// beyond floor; degraded everything at once; nothing is held for longer than the hold
// time and a tick.
func TestGateProperties(t *testing.T) {
	states := make(map[nexusraft.SyncState]int)
	rapid.Check(t, func(t *rapid.T) {
		m := newGateModel(rapid.IntRange(1, 8).Draw(t, "hold"), rapid.IntRange(1, 3).Draw(t, "heartbeat"))
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { states[m.g.state]++ },
			"propose": func(t *rapid.T) {
				m.last += nexusraft.Index(rapid.IntRange(1, 5).Draw(t, "entries"))
				m.round(t, false)
			},
			"acknowledge": func(t *rapid.T) {
				id := rapid.SampledFrom(ids(1, 2, 4)).Draw(t, "replica")
				behind := rapid.IntRange(0, 3).Draw(t, "behind")
				m.match[id] = max(m.match[id], m.last-min(m.last, nexusraft.Index(behind)))
				m.g.HeardOf(id, 2)
				m.round(t, rapid.Bool().Draw(t, "probe"))
			},
			"healthy ticks": func(t *rapid.T) {
				for range rapid.IntRange(1, 30).Draw(t, "ticks") {
					m.match[1], m.match[2], m.match[4] = m.last, m.last, m.last
					m.answer(2, 4)
					m.tick(t)
				}
			},
			"close behind": func(t *rapid.T) { // the followers are near, and never where the leader is
				for range rapid.IntRange(1, 30).Draw(t, "ticks") {
					near := m.g.LastAt(m.g.holdTicks / 2)
					m.match[1], m.match[2], m.match[4] = m.last, max(m.match[2], near), max(m.match[4], near)
					m.last++
					m.answer(2, 4)
					m.tick(t)
				}
			},
			"tick": func(t *rapid.T) {
				for range rapid.IntRange(1, 4).Draw(t, "ticks") {
					m.tick(t)
				}
			},
			"witness": func(t *rapid.T) {
				m.deaf = rapid.Bool().Draw(t, "deaf")
				m.answer()
				m.round(t, false)
			},
			"fall out": func(t *rapid.T) {
				m.follows[rapid.SampledFrom(ids(2, 4)).Draw(t, "replica")] = rapid.Bool().Draw(t, "follows")
				m.round(t, false)
			},
			"leave": func(t *rapid.T) {
				m.g.Leaving(rapid.SampledFrom(ids(2, 4)).Draw(t, "replica"))
				m.round(t, false)
			},
			"change": func(t *rapid.T) {
				m.halves = rapid.SampledFrom([][][]nexusraft.ReplicaID{
					{ids(1, 2, 3)}, {ids(1, 2, 3)}, {ids(1, 3, 4)}, {ids(1, 2, 3, 4)}, {ids(1, 2, 3), ids(1, 3, 4)}, {ids(1, 3, 6)},
				}).Draw(t, "configuration")
				m.round(t, false)
			},
		})
	})
	for _, s := range []nexusraft.SyncState{nexusraft.Degraded, nexusraft.Closing, nexusraft.InSync} {
		if states[s] == 0 {
			t.Errorf("the gate was never %s: the test says little", s)
		}
	}
}

// answer is what heartbeats bring: of these members, and of the witness unless it is not heard.
func (m *gateModel) answer(members ...nexusraft.ReplicaID) {
	for _, id := range members {
		m.g.HeardOf(id, 2)
	}
	if !m.deaf {
		m.g.HeardOf(3, 2)
		m.heard = m.now
	}
}

func (m *gateModel) tick(t *rapid.T) {
	m.now++
	m.g.Tick(m.last)
	m.round(t, false)
}

// TestValid: each contradiction is found, and nothing is found where there is none.
func TestValid(t *testing.T) {
	leading := func() *Gate {
		g := New(6, 1)
		g.Begin(2, 11)
		g.Tick(12)
		h := g.of(3)
		h.add(from(1, 3, raftpb.MsgApp, appends(11, 2, entryAt(12, 2), entryAt(13, 3))))
		h.conf = []*raftpb.Entry{entryAt(12, 2)}
		return &g
	}
	if err := Valid(leading()); err != nil {
		t.Errorf("nothing is wrong, and it says: %v", err)
	}
	if g := New(6, 1); Valid(&g) != nil {
		t.Errorf("nothing is wrong where nobody leads, and it says: %v", Valid(&g))
	}
	for name, spoil := range map[string]func(*Gate){
		"left over":               func(g *Gate) { g.term = 0 },
		"no state":                func(g *Gate) { g.state = "" },
		"floor below the term":    func(g *Gate) { g.floor = 10 },
		"no opening":              func(g *Gate) { g.opens = 0 },
		"samples":                 func(g *Gate) { g.samples = g.samples[1:] },
		"entered in time to come": func(g *Gate) { g.entered = 2 },
		"back-off too short":      func(g *Gate) { g.backOff = 1 },
		"back-off too long":       func(g *Gate) { g.backOff = maxBackOffTicks + 1 },
		"closing too late":        func(g *Gate) { g.retryAt = 2 * maxBackOffTicks },
		"runs that end too early": func(g *Gate) { g.held[3].last = 14 },
		"runs out of order":       func(g *Gate) { g.held[3].runs[0].last = 13 },
		"a conf change too early": func(g *Gate) { g.held[3].conf[0].Index = new(uint64(11)) },
		"a conf change beyond":    func(g *Gate) { g.held[3].conf[0].Index = new(uint64(14)) },
		"runs of an empty span":   func(g *Gate) { g.held[3].prev = 13 },
	} {
		g := leading()
		spoil(g)
		if Valid(g) == nil {
			t.Errorf("%s: nothing is found", name)
		}
	}
}
