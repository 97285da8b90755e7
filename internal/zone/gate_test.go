package zone

import (
	"fmt"
	"slices"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func ids(v ...nexusraft.ReplicaID) []nexusraft.ReplicaID { return v }

func at(match nexusraft.Index) voter { return voter{match: match, following: true} }

func TestReached(t *testing.T) {
	// Replica 1 leads; 6 leads in the last case: its own disk is behind the others.
	full := map[nexusraft.ReplicaID]voter{1: at(20), 2: at(15), 4: at(12), 5: at(10), 6: at(9)}
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
		got, ok := look{halves: tt.halves, full: full}.reached(all)
		if ok != tt.ok || ok && got != tt.want {
			t.Errorf("%s: got R=%d %v, want %d %v", tt.name, got, ok, tt.want, tt.ok)
		}
	}
}

// TestOneAppendPerHeartbeat: however much has piled up, in sync the witness gets one
// append in a heartbeat, and degraded all of it at once.
func TestOneAppendPerHeartbeat(t *testing.T) {
	const many = maxHeldEntries + 100
	var entries []*pb.Entry
	for i := range uint64(many) {
		entries = append(entries, entryAt(12+i, 2))
	}
	piled := from(1, 3, pb.MsgApp, appends(11, 2, entries...))
	l := look{last: 11 + many, halves: [][]nexusraft.ReplicaID{ids(1, 2, 3)}, full: map[nexusraft.ReplicaID]voter{1: at(11 + many), 2: at(11 + many)}}
	sizes := func(state nexusraft.SyncState) (out []int) {
		g := newGate(6, 2)
		g.begin(2, 11)
		g.state = state
		for i := range 6 {
			var msgs []*pb.Message
			if i == 0 {
				msgs = []*pb.Message{piled}
			}
			f := g.filter(msgs, l, 11, func(id nexusraft.ReplicaID) bool { return id == 3 })
			n := 0
			for _, m := range f.messages {
				n += len(m.GetEntries())
			}
			if len(f.messages) > 1 {
				n = -len(f.messages)
			}
			out = append(out, n)
			g.tick(l.last)
		}
		return out
	}
	// The heartbeat is two ticks, and the first one comes with the second tick.
	if got, want := sizes(nexusraft.InSync), []int{0, 0, maxHeldEntries, 0, many - maxHeldEntries, 0}; !slices.Equal(got, want) {
		t.Errorf("in sync: got %v entries in each tick, want %v", got, want)
	}
	if got, want := sizes(nexusraft.Degraded), []int{-2, 0, 0, 0, 0, 0}; !slices.Equal(got, want) {
		t.Errorf("degraded: got %v entries in each tick (negative: appends at once), want %v", got, want)
	}
}

// TestConfigurationBelowFloor: a change of the voters may put R below what a witness has
// seen; then the gate closes anew, and does not wait for a stall.
func TestConfigurationBelowFloor(t *testing.T) {
	g := newGate(6, 1)
	g.begin(2, 11)
	l := look{last: 20, halves: [][]nexusraft.ReplicaID{ids(1, 2, 3)}, full: map[nexusraft.ReplicaID]voter{1: at(20), 2: at(20), 4: at(15)}}
	g.floor = 20
	expect := func(want nexusraft.SyncState) {
		t.Helper()
		if g.evaluate(l); g.state != want {
			t.Errorf("got %q, want %q", g.state, want)
		}
	}
	expect(nexusraft.InSync)
	l.halves = append(l.halves, ids(1, 3, 4)) // joint
	expect(nexusraft.Closing)
	if got := g.limit(l); got != 20 {
		t.Errorf("got limit %d while it closes, want floor, 20", got)
	}
	l.full[4] = at(20)
	expect(nexusraft.InSync)
}

// TestSnapshotForAWitness: one beyond the limit does not leave, and raft hears that it
// failed; one that leaves is over at once and moves floor.
func TestSnapshotForAWitness(t *testing.T) {
	l := look{last: 20, halves: [][]nexusraft.ReplicaID{ids(1, 2, 3)}, full: map[nexusraft.ReplicaID]voter{1: at(20), 2: at(15)}}
	for _, tt := range []struct {
		state nexusraft.SyncState
		index uint64
		leave bool
	}{
		{nexusraft.InSync, 15, true},
		{nexusraft.InSync, 16, false},
		{nexusraft.Closing, 12, true},
		{nexusraft.Closing, 13, false},
		{nexusraft.Degraded, 20, true},
	} {
		g := newGate(6, 1)
		g.begin(2, 11)
		g.state, g.floor = tt.state, 12
		g.of(3).add(from(1, 3, pb.MsgApp, appends(11, 2, entryAt(12, 2))))
		m := from(1, 3, pb.MsgSnap, func(m *pb.Message) {
			m.Snapshot = &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: new(tt.index)}}
		})
		f := g.filter([]*pb.Message{m}, l, 11, func(id nexusraft.ReplicaID) bool { return id == 3 })
		if got := len(f.messages) == 1 && f.messages[0] == m; got != tt.leave {
			t.Errorf("%s, snapshot at %d: it leaves: %v, want %v", tt.state, tt.index, got, tt.leave)
		}
		if want := []snapshotReport{{3, tt.leave}}; !slices.Equal(f.snapshots, want) {
			t.Errorf("%s, snapshot at %d: got reports %v, want %v", tt.state, tt.index, f.snapshots, want)
		}
		if want := max(12, nexusraft.Index(tt.index)); tt.leave && g.floor != want {
			t.Errorf("%s, snapshot at %d: got floor %d, want %d", tt.state, tt.index, g.floor, want)
		}
	}
}

// TestBackOff: closing is tried again after 10, 20, 40, … ticks, at most 200, and after 10
// again once the zone has been in sync for longer than that.
func TestBackOff(t *testing.T) {
	g := newGate(6, 1)
	g.begin(2, 11)
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
		g.tick(11)
	}
	g.fail(11)
	if got := g.retryAt - g.now; got != firstBackOffTicks {
		t.Errorf("got a wait of %d ticks after a long time in sync, want %d", got, firstBackOffTicks)
	}
}

// gateModel drives a gate by random events and checks after each what it lets through. It
// keeps its own account of the log and of when which entry was first held.
type gateModel struct {
	g       gate
	last    nexusraft.Index
	match   map[nexusraft.ReplicaID]nexusraft.Index // of the full replicas; 1 is the leader
	follows map[nexusraft.ReplicaID]bool
	halves  [][]nexusraft.ReplicaID

	told  nexusraft.Index         // up to here raft has sent to the witness
	saw   nexusraft.Index         // up to here the witness was let see
	asked map[nexusraft.Index]int // tick at which raft first sent an entry to the witness
	now   int
}

const gateOpens = 11

func newGateModel(hold, heartbeat int) *gateModel {
	m := &gateModel{
		g: newGate(hold, heartbeat), last: gateOpens, told: gateOpens - 1, saw: gateOpens - 1,
		match:   map[nexusraft.ReplicaID]nexusraft.Index{1: 10, 2: 10, 4: 10},
		follows: map[nexusraft.ReplicaID]bool{1: true, 2: true, 4: true},
		halves:  [][]nexusraft.ReplicaID{ids(1, 2, 3)},
		asked:   make(map[nexusraft.Index]int),
	}
	m.g.begin(2, gateOpens)
	return m
}

func (m *gateModel) look() look {
	l := look{last: m.last, halves: m.halves, full: make(map[nexusraft.ReplicaID]voter)}
	for id, match := range m.match {
		l.full[id] = voter{match: match, following: m.follows[id], gone: m.g.gone[id]}
	}
	return l
}

// round is a Ready: raft sends what is new to the witness, and perhaps a probe.
func (m *gateModel) round(t *rapid.T, probe bool) {
	var msgs []*pb.Message
	if m.told < m.last {
		var entries []*pb.Entry
		for i := m.told + 1; i <= m.last; i++ {
			entries = append(entries, entryAt(uint64(i), 2))
			m.asked[i] = m.now
		}
		msgs = append(msgs, from(1, 3, pb.MsgApp, appends(uint64(m.told), 2, entries...)))
		m.told = m.last
	} else if probe {
		msgs = append(msgs, from(1, 3, pb.MsgApp, appends(uint64(m.told), 2)))
	}
	l := m.look()
	floor, before := m.g.floor, m.g.state
	m.g.evaluate(l)
	near := func(v voter) bool { return v.following && !v.gone }
	if _, ok := l.reached(near); before == nexusraft.Degraded && m.g.state != before && !ok {
		t.Fatalf("%s with too few followers that replicate", m.g.state)
	}
	f := m.g.filter(msgs, l, gateOpens, func(id nexusraft.ReplicaID) bool { return id == 3 })
	m.check(t, l, floor, f.messages)
}

func (m *gateModel) check(t *rapid.T, l look, floorBefore nexusraft.Index, out []*pb.Message) {
	r, exists := l.reached(all)
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
	if m.g.state == nexusraft.Degraded && m.saw < m.told {
		t.Fatalf("degraded, and (%d, %d] is held", m.saw, m.told)
	}
	if !exists && m.g.state != nexusraft.Degraded {
		t.Fatalf("%s with fewer full voters than the quorum", m.g.state)
	}
	// An entry that R has reached is on its way at the next heartbeat; it is held for
	// nobody's sake.
	if oldest := m.saw + 1; oldest <= m.told && r < oldest && m.now-m.asked[oldest] > m.g.holdTicks+1 {
		t.Fatalf("%s: entry %d is held for %d ticks, the hold time is %d", m.g.state, oldest, m.now-m.asked[oldest], m.g.holdTicks)
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
				m.g.heardOf(id)
				m.round(t, rapid.Bool().Draw(t, "probe"))
			},
			"healthy ticks": func(t *rapid.T) {
				for range rapid.IntRange(1, 30).Draw(t, "ticks") {
					m.match[1], m.match[2], m.match[4] = m.last, m.last, m.last
					m.tick(t)
				}
			},
			"close behind": func(t *rapid.T) { // the followers are near, and never where the leader is
				for range rapid.IntRange(1, 30).Draw(t, "ticks") {
					near := m.g.lastAt(m.g.holdTicks / 2)
					m.match[1], m.match[2], m.match[4] = m.last, max(m.match[2], near), max(m.match[4], near)
					m.last++
					m.tick(t)
				}
			},
			"tick": func(t *rapid.T) {
				for range rapid.IntRange(1, 4).Draw(t, "ticks") {
					m.tick(t)
				}
			},
			"fall out": func(t *rapid.T) {
				m.follows[rapid.SampledFrom(ids(2, 4)).Draw(t, "replica")] = rapid.Bool().Draw(t, "follows")
				m.round(t, false)
			},
			"leave": func(t *rapid.T) {
				m.g.leaving(rapid.SampledFrom(ids(2, 4)).Draw(t, "replica"))
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

func (m *gateModel) tick(t *rapid.T) {
	m.now++
	m.g.tick(m.last)
	m.round(t, false)
}

// TestLeavingMemberIsNotWaitedFor, and waited for again once it is heard of.
func TestLeavingMemberIsNotWaitedFor(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	expect := func(when string, want nexusraft.SyncState) {
		t.Helper()
		if got, _ := n.r.Sync(); got != want {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
	}
	w.cut[[2]uint64{1, 2}] = true
	_, err := w.propose(n, "x")
	must(err)
	w.run(n)
	w.stabilize()
	expect("with an entry held", nexusraft.InSync)
	if got := n.r.Status().Commit; got != 11 {
		t.Fatalf("got commit %d, want 11: the entry is held", got)
	}
	active := func() bool {
		rows := n.r.Status().Replicas
		i := slices.IndexFunc(rows, func(s nexusraft.ReplicaStatus) bool { return s.Replica == 2 })
		return rows[i].Active
	}
	if !active() {
		t.Error("the member is not active before it says good-bye")
	}
	n.r.ReportLeaving(2)
	if active() { // nobody would hand the leadership to it
		t.Error("the member is active after it has said good-bye")
	}
	w.run(n)
	w.stabilize()
	expect("after the member said good-bye", nexusraft.Degraded)
	if got := n.r.Status().Commit; got != 12 {
		t.Errorf("got commit %d, want 12 without a tick", got)
	}
	clear(w.cut)
	for range 3 * firstBackOffTicks {
		w.tick(n)
		w.stabilize()
	}
	expect("after it came back", nexusraft.InSync)
}

func TestStatusOfTheGate(t *testing.T) {
	w := ledZone(t)
	s := w.nodes[1].r.Status()
	if got := fmt.Sprintf("%s since %d", s.Sync, s.SyncIndex); got != "in sync since 11" {
		t.Errorf("got %q, want in sync since 11", got)
	}
	if s := w.nodes[2].r.Status(); s.Sync != nexusraft.SyncUnknown || s.Replicas != nil {
		t.Errorf("got %q and %d replicas on a follower, want neither", s.Sync, len(s.Replicas))
	}
}
