package witness

import (
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
	w, out := newWorker(c, 1, noMinor), &outbox{t: t}
	w.out.Network = out
	errRemoved := func(z nexusraft.ZoneID) error { return errors.Join(nexusraft.ErrFenced, errors.New("removed")) }
	var groups []*group
	for _, z := range zones {
		r, err := newRecord(identityRecord{Node: 0x30, Cluster: 1}, x.zones[z])
		must(err)
		logs, err := createLogs(f, "d", []record{r})
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
	log, err := OpenLog(f.CrashClone(nil, 0), "d", 2)
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
	again := newWorker(Config{ElectionTicks: 6, Logger: slog.New(slog.DiscardHandler)}, 2, noMinor)
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

// TestRoundIsWrittenSideBySide: the logs of a round's zones are synced together, a bounded number at a time,
// and no vote leaves before all of them are on the disk (I3).
func TestRoundIsWrittenSideBySide(t *testing.T) {
	zones := make([]nexusraft.ZoneID, 3*maxWrites)
	for i := range zones {
		zones[i] = nexusraft.ZoneID(i + 2)
	}
	f := NewMemFS()
	w, _ := zoneGroups(t, f, zones...)
	granted := askAll(w, zones, 4)
	var arrived, running, most atomic.Int64
	together, failed := make(chan struct{}), make(chan struct{})
	fail := sync.OnceFunc(func() { close(failed) })
	f.Before = func(step, name string) error {
		if n := granted.Load(); n > 0 {
			t.Errorf("%s %s: %d votes have left", step, name, n)
		}
		switch step {
		case "create":
			for now := running.Add(1); ; {
				if old := most.Load(); now <= old || most.CompareAndSwap(old, now) {
					return nil
				}
			}
		case "sync":
			defer running.Add(-1)
			if arrived.Add(1) == maxWrites {
				for range 10_000 { // room for those that are too many
					runtime.Gosched()
				}
				close(together)
			}
			select {
			case <-together:
			case <-failed:
				return errors.New("the logs are not synced together")
			case <-time.After(patience):
				fail()
				return errors.New("the logs are not synced together")
			}
		}
		return nil
	}
	turnOf(t, w)
	if n, at := granted.Load(), most.Load(); n != int64(len(zones)) || at != maxWrites {
		t.Errorf("%d votes of %d, %d files at once, want %d", n, len(zones), at, maxWrites)
	}
	crashed := f.CrashClone(nil, 0)
	for _, z := range zones {
		log, err := OpenLog(crashed, "d", z)
		must(err)
		if r := log.record; r.Term != 4 || r.Vote != replicaIn(z, 1) {
			t.Errorf("zone %v: on the disk are term %d and vote %v", z, r.Term, r.Vote)
		}
	}
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
	var written []string
	f.Before = func(step, name string) error {
		if step == "sync" {
			written = append(written, zoneIn(name))
		}
		return nil
	}
	commit := heartbeat(2, 2)
	commit.Commit = new(first)
	step(2, commit)
	granted := askAll(w, []nexusraft.ZoneID{3}, 4)
	turnOf(t, w)
	if got := w.zones[2].log.record.Commit; granted.Load() != 1 || !slices.Equal(written, []string{zoneIn(logName(3))}) ||
		uint64(got) != first {
		t.Errorf("%d votes; written %q; zone 2 is committed up to %d, want %d", granted.Load(), written, got, first)
	}
}

// zoneIn is a log file's name without its slot.
func zoneIn(name string) string {
	base := filepath.Base(name)
	return strings.TrimSuffix(strings.TrimSuffix(base, ".a"), ".b")
}

// TestFailedWriteOfOneZone: if one log of a round can't be written nothing of the round leaves (I9).
func TestFailedWriteOfOneZone(t *testing.T) {
	f := NewMemFS()
	zones := []nexusraft.ZoneID{2, 3, 4, 5, 6}
	w, out := zoneGroups(t, f, zones...)
	granted := askAll(w, zones, 4)
	failure := errors.New("the disk is broken")
	f.Before = func(step, name string) error {
		if step == "sync" && zoneIn(name) == logName(5) {
			return failure
		}
		return nil
	}
	busy, err := w.Turn()
	if busy || !errors.Is(err, failure) || !strings.Contains(err.Error(), nexusraft.ZoneID(5).String()) {
		t.Errorf("got %t, %v", busy, err)
	}
	w.Stop(err)
	if n := granted.Load(); n != 0 || len(out.sent) != 0 {
		t.Errorf("%d votes and %d messages have left", n, len(out.sent))
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
