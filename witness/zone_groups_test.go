package witness

import (
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/transport"
)

// outbox is a raftwire.Network that keeps what is sent.
type outbox struct {
	t    *testing.T
	sent []*raftpb.Message
}

func (o *outbox) RequestVote(nexusraft.NodeID, []transport.Vote, func([]transport.VoteResult, error)) {
	o.t.Error("a witness asks for votes")
}

func (o *outbox) Send(_ nexusraft.NodeID, _ transport.Class, x transport.Message) {
	m := &raftpb.Message{}
	must(proto.Unmarshal(x.Data, m))
	o.sent = append(o.sent, m)
}

// zoneGroups are groups of zones which the witness founds, on a worker that the test drives.
func zoneGroups(t *testing.T, f FS, zones ...nexusraft.ZoneID) (*worker, *outbox) {
	t.Helper()
	x := newTable(0x30)
	for range slices.Max(zones) {
		x.create(true)
	}
	c := Config{ElectionTicks: 6, Logger: slog.New(slog.DiscardHandler)}
	j, err := openJournal(f, "d", nil, nil)
	must(err)
	w, out := newWorker(c, j, 1, noMinor), &outbox{t: t}
	w.out.Network = out
	errRemoved := func(z nexusraft.ZoneID) error { return errors.Join(nexusraft.ErrFenced, errors.New("removed")) }
	var groups []*group
	for _, z := range zones {
		r, err := newRecord(identityRecord{Node: 0x30, Cluster: 1}, x.zones[z])
		must(err)
		logs, err := j.create([]record{r})
		must(err)
		g, err := newGroup(logs[0], 1, c, func(nexusraft.Membership) {}, nil, errRemoved, nil)
		must(err)
		groups = append(groups, g)
	}
	w.host(groups)
	turnOf(t, w)
	return w, out
}

// turnOf has the worker make rounds until no zone has work.
func turnOf(t *testing.T, w *worker) {
	t.Helper()
	for busy := true; busy; {
		var err error
		if busy, err = w.Turn(); err != nil {
			t.Fatalf("turn: %v", err)
		}
	}
}

func heartbeat(z nexusraft.ZoneID, term uint64) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(replicaIn(z, 1))), To: new(uint64(replicaIn(z, 3))),
		Term: new(term),
	}
}

// voteRequest is a member's, whose log is as good as any.
func voteRequest(z nexusraft.ZoneID, term uint64) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgVote.Enum(), From: new(uint64(replicaIn(z, 1))), To: new(uint64(replicaIn(z, 3))),
		Term: new(term), Index: new(uint64(20)), LogTerm: new(term - 1),
	}
}

// TestRoundsAskTheZonesThatWereTouched: a round costs nothing for the zones that nothing has come for.
func TestRoundsAskTheZonesThatWereTouched(t *testing.T) {
	w, out := zoneGroups(t, NewMemFS(), 2, 3, 4, 5)
	asked := func() (zones []nexusraft.ZoneID) {
		_, err := w.active.Turn(w.driver, func(g *driver.Group) { zones = append(zones, g.Zone()) })
		must(err)
		return zones
	}
	if got := asked(); len(got) != 0 {
		t.Errorf("after a round: %v", got)
	}
	for range 2 {
		for _, z := range []nexusraft.ZoneID{4, 2} {
			g, err := w.Group(z)
			must(err)
			must(g.Step(0x10, heartbeat(z, 3), nil))
		}
	}
	if got := asked(); !slices.Equal(got, []nexusraft.ZoneID{4, 2}) {
		t.Errorf("after messages for zones 4 and 2: %v", got)
	}
	w.Tick(nil)
	turnOf(t, w)
	if len(out.sent) != 4 || w.zones[2].log.record.Term != 3 || w.zones[3].log.record.Term != 1 {
		t.Errorf("after the round: %d answers", len(out.sent))
	}
	w.Tick(nil)
	if got := asked(); len(got) != 0 {
		t.Errorf("after a tick in which nothing happens: %v", got)
	}
}

// TestRemovedFromOneZone: a witness that is removed from a zone other than the root zone takes no part in
// it any more, before and after a restart, and goes on with the others.
func TestRemovedFromOneZone(t *testing.T) {
	f := NewMemFS()
	w, out := zoneGroups(t, f, 2, 3)
	g, err := w.Group(2)
	must(err)
	removal := (&raftpb.ConfChangeV2{Changes: []*raftpb.ConfChangeSingle{{
		Type: raftpb.ConfChangeRemoveNode.Enum(), NodeId: new(uint64(replicaIn(2, 3))),
	}}})
	data, err := proto.Marshal(removal)
	must(err)
	m := heartbeat(2, 2)
	m.Type, m.Index, m.LogTerm = raftpb.MsgApp.Enum(), new(uint64(zone.FoundingIndex)), new(uint64(zone.FoundingTerm))
	m.Commit = new(uint64(zone.FoundingIndex) + 1)
	m.Entries = []*raftpb.Entry{{
		Type: raftpb.EntryConfChangeV2.Enum(), Term: new(uint64(2)), Index: new(uint64(zone.FoundingIndex) + 1), Data: data,
	}}
	must(g.Step(0x10, m, nil))
	turnOf(t, w)
	if len(out.sent) != 1 || out.sent[0].GetType() != raftpb.MsgAppResp || out.sent[0].GetReject() {
		t.Errorf("the leader that removes it got %v", out.sent)
	}
	if !w.zones[2].log.Membership().IsRemoved(replicaIn(2, 3)) {
		t.Fatalf("the removal is not applied: %+v", w.zones[2].log.Membership())
	}
	onDisk, err := openJournal(f.CrashClone(nil, 0), "d", []nexusraft.ZoneID{2, 3}, nil)
	must(err)
	log, err := onDisk.open(2)
	must(err)
	if got := log.Applied(); got < zone.FoundingIndex {
		t.Errorf("on the disk the log is applied up to %d", got)
	}
	check := func(w *worker) {
		t.Helper()
		if _, err := w.Group(2); !errors.Is(err, nexusraft.ErrFenced) {
			t.Errorf("zone 2: got %v, want ErrFenced", err)
		}
		for range 20 {
			w.Tick(nil)
			turnOf(t, w)
		}
		if _, err := w.Group(3); err != nil || len(w.zones) != 2 {
			t.Errorf("zone 3: %v, of %d zones", err, len(w.zones))
		}
	}
	check(w)
	again := newWorker(Config{ElectionTicks: 6, Logger: slog.New(slog.DiscardHandler)}, w.journal, 2, noMinor)
	var groups []*group
	for _, z := range []nexusraft.ZoneID{2, 3} {
		g, err := newGroup(w.zones[z].log, 2, Config{ElectionTicks: 6, Logger: slog.New(slog.DiscardHandler)},
			func(nexusraft.Membership) {}, nil, func(nexusraft.ZoneID) error { return nexusraft.ErrFenced }, nil)
		must(err)
		groups = append(groups, g)
	}
	again.out.Network = out
	again.host(groups)
	turnOf(t, again)
	check(again)
	again.drop([]nexusraft.ZoneID{2, 7})
	if _, err := again.Group(2); err == nil || errors.Is(err, nexusraft.ErrFenced) || len(again.zones) != 1 {
		t.Errorf("zone 2, deleted: got %v", err)
	}
}

// TestDroppedZoneAnswersItsVotes: a vote request that waits when its zone is deleted is answered, and the
// rounds after that ask the zone no more.
func TestDroppedZoneAnswersItsVotes(t *testing.T) {
	w, _ := zoneGroups(t, NewMemFS(), 2)
	g, err := w.Group(2)
	must(err)
	var answers []string
	must(g.Step(0x10, voteRequest(2, 4), answerFunc(func(a driver.VoteAnswer) { answers = append(answers, a.Why) })))
	w.drop([]nexusraft.ZoneID{2})
	turnOf(t, w)
	if len(answers) != 1 || !strings.Contains(answers[0], "was deleted") {
		t.Errorf("it was answered %q", answers)
	}
}

// askAll steps a vote request of a term in each zone, and returns how many votes are granted.
func askAll(w *worker, zones []nexusraft.ZoneID, term uint64) (granted *atomic.Int64) {
	granted = new(atomic.Int64)
	for _, z := range zones {
		g, err := w.Group(z)
		must(err)
		must(g.Step(0x10, voteRequest(z, term), answerFunc(func(a driver.VoteAnswer) {
			if a.Response != nil && !a.Response.GetReject() {
				granted.Add(1)
			}
		})))
	}
	return granted
}

// TestRoundIsOneWrite: all zones of a round are stored by one sync, and no vote leaves before (I3).
func TestRoundIsOneWrite(t *testing.T) {
	zones := make([]nexusraft.ZoneID, 100)
	for i := range zones {
		zones[i] = nexusraft.ZoneID(i + 2)
	}
	f := NewMemFS()
	w, _ := zoneGroups(t, f, zones...)
	granted := askAll(w, zones, 4)
	steps := make(map[string]int)
	f.Before = func(step, name string) error {
		if n := granted.Load(); n > 0 {
			t.Errorf("%s %s: %d votes have left", step, name, n)
		}
		steps[step]++
		return nil
	}
	turnOf(t, w)
	if n := granted.Load(); n != int64(len(zones)) || !maps.Equal(steps, map[string]int{"write": 1, "sync": 1}) {
		t.Errorf("%d votes of %d, by the steps %v", n, len(zones), steps)
	}
	crashed, err := openJournal(f.CrashClone(nil, 0), "d", zones, nil)
	must(err)
	for _, z := range zones {
		log, err := crashed.open(z)
		must(err)
		if r := log.record; r.Term != 4 || r.Vote != replicaIn(z, 1) {
			t.Errorf("zone %v: on the disk are term %d and vote %v", z, r.Term, r.Vote)
		}
	}
}

// TestRootZoneIsWrittenWithTheOthers: the root zone's log and the journal are synced together, and nothing
// leaves before both are on the disk (I3).
func TestRootZoneIsWrittenWithTheOthers(t *testing.T) {
	for name, failing := range map[string]string{"": "", "the root zone's": logPrefix, "the others'": "zones."} {
		t.Run("fails: "+name, func(t *testing.T) {
			f := NewMemFS()
			w, _ := zoneGroups(t, f, 2, 3)
			root := hostRoot(t, w, f)
			granted := askAll(w, []nexusraft.ZoneID{root, 2, 3}, 4)
			failure := errors.New("the disk is broken")
			var together sync.WaitGroup
			together.Add(2)
			f.Before = func(step, name string) error {
				if n := granted.Load(); n > 0 {
					t.Errorf("%s %s: %d votes have left", step, name, n)
				}
				if step != "sync" {
					return nil
				}
				together.Done()
				together.Wait() // hangs if one waits for the other
				if failing != "" && strings.HasPrefix(filepath.Base(name), failing) {
					return failure
				}
				return nil
			}
			_, err := w.Turn()
			if want := int64(3); failing == "" && (err != nil || granted.Load() != want) {
				t.Errorf("%d votes of %d, %v", granted.Load(), want, err)
			}
			if failing != "" && (!errors.Is(err, failure) || granted.Load() != 0) {
				t.Errorf("%d votes have left, %v", granted.Load(), err)
			}
			w.Stop(nexusraft.ErrClosed)
		})
	}
}

// hostRoot has a worker host the root zone, whose log has files of its own.
func hostRoot(t *testing.T, w *worker, f FS) nexusraft.ZoneID {
	t.Helper()
	z := nexusraft.RootZone
	o := Origin{Cluster: 1, Node: 0x30, Zone: z, Replica: replicaIn(z, 3)}
	log, err := CreateLog(f, "d", o, nexusraft.Membership{})
	must(err)
	members := nexusraft.Membership{Shape: nexusraft.DefaultShape, Members: []nexusraft.Member{
		{Replica: replicaIn(z, 1), Node: 0x10, Address: "127.0.0.1:1", Role: nexusraft.RoleMember},
		{Replica: replicaIn(z, 2), Node: 0x20, Address: "127.0.0.1:1", Role: nexusraft.RoleMember},
		{Replica: o.Replica, Node: o.Node, Address: "127.0.0.1:1", Role: nexusraft.RoleWitness},
	}}
	log.record = foundingRecord(o, members)
	c := Config{ElectionTicks: 6, Logger: slog.New(slog.DiscardHandler)}
	g, err := newGroup(log, 1, c, func(nexusraft.Membership) {}, nil, func(nexusraft.ZoneID) error { return nil }, nil)
	must(err)
	w.host([]*group{g})
	turnOf(t, w)
	return z
}

// TestRoundWritesWhatMustBeSynced: a round of several zones writes the logs of those that promise something,
// and the commit positions of the others are kept in memory, for the next write of their log.
func TestRoundWritesWhatMustBeSynced(t *testing.T) {
	f := NewMemFS()
	w, _ := zoneGroups(t, f, 2, 3)
	entry := func(z nexusraft.ZoneID, commit uint64, es ...*raftpb.Entry) *raftpb.Message {
		m := heartbeat(z, 2)
		m.Type, m.Index, m.LogTerm = raftpb.MsgApp.Enum(), new(uint64(zone.FoundingIndex)), new(uint64(zone.FoundingTerm))
		m.Commit, m.Entries = new(commit), es
		return m
	}
	step := func(z nexusraft.ZoneID, m *raftpb.Message) {
		g, err := w.Group(z)
		must(err)
		must(g.Step(0x10, m, nil))
	}
	first := uint64(zone.FoundingIndex) + 1
	step(2, entry(2, first-1, &raftpb.Entry{Type: raftpb.EntryNormal.Enum(), Term: new(uint64(2)), Index: new(first)}))
	turnOf(t, w)
	commit := heartbeat(2, 2)
	commit.Commit = new(first)
	step(2, commit)
	granted := askAll(w, []nexusraft.ZoneID{3}, 4)
	turnOf(t, w)
	onDisk, err := openJournal(f.CrashClone(nil, 0), "d", []nexusraft.ZoneID{2, 3}, nil)
	must(err)
	second, err := onDisk.open(2)
	must(err)
	third, err := onDisk.open(3)
	must(err)
	if got := w.zones[2].log.record.Commit; granted.Load() != 1 || uint64(got) != first {
		t.Errorf("%d votes; zone 2 is committed up to %d, want %d", granted.Load(), got, first)
	}
	if a, b := second.record, third.record; uint64(a.Last) != first || uint64(a.Commit) != first-1 || b.Term != 4 {
		t.Errorf("on the disk zone 2 is committed up to %d of %d, and zone 3 has term %d", a.Commit, a.Last, b.Term)
	}
}

// TestFailedWriteOfARound: nothing of it leaves, and the journal is not used again (I9).
func TestFailedWriteOfARound(t *testing.T) {
	f := NewMemFS()
	zones := []nexusraft.ZoneID{2, 3, 4, 5, 6}
	w, out := zoneGroups(t, f, zones...)
	granted := askAll(w, zones, 4)
	failure := errors.New("the disk is broken")
	f.Before = func(step, _ string) error {
		if step == "sync" {
			return failure
		}
		return nil
	}
	busy, err := w.Turn()
	if busy || !errors.Is(err, failure) || !strings.Contains(err.Error(), w.journal.path(w.journal.used)) {
		t.Errorf("got %t, %v", busy, err)
	}
	w.Stop(err)
	if n := granted.Load(); n != 0 || len(out.sent) != 0 {
		t.Errorf("%d votes and %d messages have left", n, len(out.sent))
	}
	f.Before = func(step, name string) error {
		t.Errorf("%s %s after a sync that failed", step, name)
		return nil
	}
	if err := w.journal.put([]zoneContent{{zone: 2}}); !errors.Is(err, failure) {
		t.Errorf("after that: got %v", err)
	}
}

type answerFunc func(driver.VoteAnswer)

func (f answerFunc) Answer(a driver.VoteAnswer) { f(a) }

func TestZoneListIsKept(t *testing.T) {
	for _, want := range []zoneList{nil, {2}, {2, 3, 4, 300, 1 << 40, ^nexusraft.ZoneID(0)}} {
		b, err := json.Marshal(want)
		must(err)
		var got zoneList
		if err := json.Unmarshal(b, &got); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: got %v, %v, want %v", b, got, err, want)
		}
	}
	all := make(zoneList, nexusraft.MaxZones)
	for i := range all {
		all[i] = nexusraft.ZoneID(7 * (i + 1))
	}
	if b, err := json.Marshal(all); err != nil || len(b) > 140_000 {
		t.Errorf("all zones take %d bytes, %v", len(b), err)
	}
	for _, bad := range []string{`"AA=="`, `"gA=="`, `"x"`, `7`, `"////////////////AQ=="`} {
		var got zoneList
		if err := json.Unmarshal([]byte(bad), &got); err == nil {
			t.Errorf("%s: read as %v", bad, got)
		}
	}
}

// TestMemFSRemove: a removal may be taken back by a crash until its directory is synced.
func TestMemFSRemove(t *testing.T) {
	f := NewMemFS()
	_, err := createSlots(f, "d", "x", []byte("1"))
	must(err)
	must(removeSlots(f, "d", "x"))
	if len(f.contents()) != 0 || len(f.CrashClone(nil, 0).contents()) != 2 {
		t.Errorf("removed: %d files, after a crash %d", len(f.contents()), len(f.CrashClone(nil, 0).contents()))
	}
	must(f.SyncDir("d"))
	if n := len(f.CrashClone(nil, 0).contents()); n != 0 {
		t.Errorf("removed and synced: after a crash %d files", n)
	}
	must(removeSlots(f, "d", "x")) // nothing is there
}
