package worker

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// The admission of the witness that votingWorker knows.
const (
	witnessReplica nexusraft.ReplicaID = 9
	witnessNode    nexusraft.NodeID    = 0x99
)

// outbox is the sender of a worker under test. As a message leaves, it looks at what a crash
// in that moment would leave on the node's disk, and holds I3 against it.
type outbox struct {
	t     *testing.T
	disk  *storage.MemFS
	zone  nexusraft.ZoneID
	slots []*raftwire.Waiter // vote requests that came in; their answers leave through these

	mu    sync.Mutex // guards early: a sync may run in another goroutine
	early bool       // a vote was answered before its round was synced

	sent  []*raftpb.Message // messages that left, vote requests included
	asked func([]transport.VoteResult, error)
}

// votingWorker is an idle worker of a member beside a leader and a witness,
// with a log that begins at index 20.
func votingWorker(t *testing.T) (*idleWorker, *group, *outbox) {
	t.Helper()
	o := &outbox{t: t, disk: storage.NewMemFS(), zone: nexusraft.RootZone}
	w := idleWorkerOn(t, true, errorfs.Wrap(o.disk, errorfs.InjectorFunc(o.onDisk)))
	members := nexusraft.Membership{Shape: nexusraft.DefaultShape}.
		With(nexusraft.Member{Replica: leaderReplica, Node: leaderNode, Address: "127.0.0.1:1", Role: nexusraft.RoleMember}).
		With(nexusraft.Member{Replica: selfReplica, Node: w.ID(), Address: "127.0.0.1:2", Role: nexusraft.RoleMember}).
		With(nexusraft.Member{
			Replica: witnessReplica, Node: witnessNode, Address: "127.0.0.1:3",
			Role: nexusraft.RoleWitness,
		})
	err := w.o.Peering.Admitted(transport.JoinResult{
		Cluster: 1, Zone: nexusraft.RootZone, Replica: selfReplica, Membership: admittedMembers(w),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := host(t, w)
	w.out.Network = o
	m := snapshotAt(t, w, leaderNode, 20)
	m.message.Snapshot.Data = members.Encode()
	m.message.Snapshot.Metadata.ConfState = &raftpb.ConfState{Voters: []uint64{
		uint64(leaderReplica), uint64(selfReplica),
		uint64(witnessReplica),
	}}
	m.offer(t, w)
	w.turnWith(t)
	if h.log.Applied() != 20 || len(o.take(raftpb.MsgAppResp)) == 0 {
		t.Fatalf("the snapshot was not installed and acknowledged: applied %d", h.log.Applied())
	}
	return w, h, o
}

// turnWith has the worker step what came in, and do all that follows.
func (w *idleWorker) turnWith(t *testing.T, in ...driver.Inbound) {
	t.Helper()
	w.ask.Inbox().Put(in)
	for _, x := range w.ask.workers {
		x.loop.Drain()
	}
	w.turns(t)
}

// turns has the workers do all that there is to do, the first one first: what it tells the others they do then.
func (w *idleWorker) turns(t testing.TB) {
	t.Helper()
	for _, x := range w.ask.workers {
		for range x.all { // tests give work to groups without the worker
			continue
		}
		for busy := true; busy; {
			var err error
			if busy, err = x.Turn(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// onDisk is asked before each operation of the disk.
func (o *outbox) onDisk(op errorfs.Op) error {
	if op.Kind != errorfs.OpFileSync && op.Kind != errorfs.OpFileSyncData && op.Kind != errorfs.OpFileWrite {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.slots {
		o.early = o.early || len(s.Done()) > 0
	}
	return nil
}

// promised is what a crash now would leave of term, vote and log.
func (o *outbox) promised() (hs *raftpb.HardState, log *raftlog.Log) {
	o.t.Helper()
	store, err := storage.Open("data", &storage.Options{
		FS:     o.disk.CrashClone(nil, 0),
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		o.t.Fatalf("open what a crash leaves: %v", err)
	}
	o.t.Cleanup(func() { _ = store.Close() })
	tree, err := store.Tree("raft")
	if err == nil {
		log, err = raftlog.Open(tree, o.zone)
	}
	if err != nil {
		o.t.Fatalf("open the log that a crash leaves: %v", err)
	}
	return log.HardState(), log
}

// Send implements raftwire.Network.
func (o *outbox) Send(_ nexusraft.NodeID, _ transport.Class, x transport.Message) {
	m := &raftpb.Message{}
	if err := proto.Unmarshal(x.Data, m); err != nil {
		o.t.Fatal(err)
	}
	o.check(m)
}

// RequestVote implements raftwire.Network.
func (o *outbox) RequestVote(_ nexusraft.NodeID, votes []transport.Vote, done func([]transport.VoteResult, error)) {
	for _, v := range votes {
		o.check(raftwire.NewWaiter(v).Message())
	}
	o.asked = done
}

// check holds a message that leaves against the disk.
func (o *outbox) check(m *raftpb.Message) {
	o.t.Helper()
	o.sent = append(o.sent, m)
	hs, log := o.promised()
	last, err := log.LastIndex()
	if err != nil {
		o.t.Fatal(err)
	}
	bad := func(why string) {
		o.t.Helper()
		o.t.Errorf("I3: %v of term %d leaves, and %s; on the disk: term %d, vote %d, log to %d", m.GetType(), m.GetTerm(),
			why, hs.GetTerm(), hs.GetVote(), last)
	}
	if m.GetType() != raftpb.MsgPreVote && m.GetType() != raftpb.MsgPreVoteResp && m.GetType() != raftpb.MsgReadIndex &&
		hs.GetTerm() < m.GetTerm() {
		bad("its term is not synced")
	}
	switch m.GetType() {
	case raftpb.MsgVote, raftpb.MsgApp, raftpb.MsgHeartbeat:
		if hs.GetVote() != m.GetFrom() {
			bad("the sender's vote for itself is not synced")
		}
		if end := m.GetIndex() + uint64(len(m.GetEntries())); m.GetType() == raftpb.MsgApp &&
			m.GetTo() == uint64(witnessReplica) && end > last {
			bad("it shows a witness more than is synced")
		}
	case raftpb.MsgAppResp:
		if !m.GetReject() && last < m.GetIndex() {
			bad("it acknowledges what is not synced")
		}
	}
}

// take returns the messages of a type that have left since the last take, and forgets all.
func (o *outbox) take(typ raftpb.MessageType) (out []*raftpb.Message) {
	for _, m := range o.sent {
		if m.GetType() == typ {
			out = append(out, m)
		}
	}
	o.sent = nil
	return out
}

// fromLeader is a message of the leader.
func fromLeader(m *raftpb.Message) driver.Inbound {
	m.From, m.To = new(uint64(leaderReplica)), new(uint64(selfReplica))
	return driver.Inbound{Zone: nexusraft.RootZone, From: leaderNode, Message: m}
}

// appendOf is an append of n entries behind an index, of terms that begin with logTerm and go on
// with term.
func appendOf(index, logTerm, term uint64, n int, commit uint64) driver.Inbound {
	m := &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), Term: new(term), Index: new(index), LogTerm: new(logTerm),
		Commit: new(commit),
	}
	for i := range uint64(n) {
		envelope := zone.Envelope{
			Proposal: zone.ProposalID{Replica: leaderReplica, Incarnation: 1, Sequence: index + i + 1},
			Time:     int64(index + i), Command: fmt.Append(nil, "k", index+i),
		}
		m.Entries = append(m.Entries, &raftpb.Entry{
			Type: raftpb.EntryNormal.Enum(), Term: new(term), Index: new(index + i + 1), Data: envelope.Encode(),
		})
	}
	return fromLeader(m)
}

// vote is a candidate's request as it comes in; the context is that of a transfer, which no lease
// stops.
func (o *outbox) vote(v transport.Vote) (driver.Inbound, *raftwire.Waiter) {
	v.Zone, v.From, v.To, v.LastIndex, v.LastTerm = o.zone, leaderReplica, selfReplica, 1000, v.Term-1
	v.Context = []byte("CampaignTransfer")
	s := raftwire.NewWaiter(v)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.slots = append(o.slots, s)
	return driver.Inbound{Zone: o.zone, From: leaderNode, Message: s.Message(), Vote: s}, s
}

// Whatever a node answers, what it promises is on its disk when the answer leaves (I3).
func TestAnswersLeaveAfterTheSync(t *testing.T) {
	w, _, o := votingWorker(t)
	answers := func(typ raftpb.MessageType, in ...driver.Inbound) {
		t.Helper()
		w.turnWith(t, in...)
		if len(o.take(typ)) == 0 {
			t.Errorf("no %v has left", typ)
		}
	}
	answers(raftpb.MsgAppResp, appendOf(20, 2, 2, 3, 20))
	answers(raftpb.MsgAppResp, appendOf(23, 2, 2, 2, 25), appendOf(25, 2, 2, 1, 25))
	answers(raftpb.MsgHeartbeatResp, fromLeader(&raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), Term: new(uint64(4)),
		Commit: new(uint64(25)),
	}))
	answers(raftpb.MsgAppResp, appendOf(25, 2, 5, 4, 25)) // over what was there
}

// A vote that was granted is on the disk when its answer leaves (I3).
func TestVotesLeaveAfterTheSync(t *testing.T) {
	w, _, o := votingWorker(t)
	for _, v := range []transport.Vote{{Term: 6}, {Term: 9, Pre: true}, {Term: 9}} {
		in, slot := o.vote(v)
		w.turnWith(t, appendOf(20, 2, 2, 1, 20), in) // late; it makes a round that writes
		r := answered(t, "vote", slot.Done())
		if r.Outcome != transport.VoteGranted || r.Term != v.Term {
			t.Errorf("the answer to %+v is %+v, want it granted", v, r)
		}
		hs, _ := o.promised()
		if !v.Pre && (hs.GetTerm() != uint64(v.Term) || hs.GetVote() != uint64(leaderReplica)) {
			t.Errorf("the vote of term %d was granted, on the disk are term %d and vote %d", v.Term, hs.GetTerm(), hs.GetVote())
		}
	}
	if o.early {
		t.Error("I3: a vote was answered while its round was still being written")
	}
}

// Two requests of one candidate in one round: each answer is to the request of its term.
func TestVoteAnswersTheRequestOfItsTerm(t *testing.T) {
	w, _, o := votingWorker(t)
	older, first := o.vote(transport.Vote{Term: 6})
	newer, second := o.vote(transport.Vote{Term: 7})
	w.turnWith(t, older, newer)
	if r := answered(t, "first vote", first.Done()); r.Outcome == transport.VoteGranted && r.Term != 6 {
		t.Errorf("the request of term 6 is answered %+v", r)
	}
	if r := answered(t, "second vote", second.Done()); r.Outcome != transport.VoteGranted || r.Term != 7 {
		t.Errorf("the request of term 7 is answered %+v, want the vote of term 7", r)
	}
}

// A candidate asks for votes, and a leader sends, only with term and vote on the disk; a
// witness is shown nothing that is not there (I3).
func TestCandidateAsksAfterTheSync(t *testing.T) {
	w, h, o := votingWorker(t)
	granted := func(pre bool, term uint64) driver.Inbound {
		typ := raftpb.MsgVoteResp
		if pre {
			typ = raftpb.MsgPreVoteResp
		}
		return fromLeader(&raftpb.Message{Type: typ.Enum(), Term: new(term)})
	}
	for !h.group.HasWork() { // the leader is silent
		h.replica.Tick()
	}
	w.turnWith(t)
	asked := o.take(raftpb.MsgPreVote)
	if len(asked) != 2 {
		t.Fatalf("%d requests for a pre-vote, want 2", len(asked))
	}
	w.turnWith(t, granted(true, asked[0].GetTerm()))
	asked = o.take(raftpb.MsgVote)
	if len(asked) != 2 {
		t.Fatalf("%d requests for a vote, want 2", len(asked))
	}
	w.turnWith(t, granted(false, asked[0].GetTerm()))
	if _, self := h.replica.Leader(); !self || len(o.take(raftpb.MsgApp)) == 0 {
		t.Fatal("the node does not lead, or has sent nothing")
	}
	for range 20 { // heartbeats, and what a witness may see
		p := propose.New(h.id)
		p.Command = []byte("k")
		if err := w.put(p); err != nil {
			t.Fatal(err)
		}
		h.tick()
		answer := fromLeader(&raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), Term: asked[0].Term})
		witness := fromLeader(&raftpb.Message{Type: raftpb.MsgHeartbeatResp.Enum(), Term: asked[0].Term})
		witness.From, witness.Message.From = witnessNode, new(uint64(witnessReplica))
		w.turnWith(t, answer, witness)
	}
	var members, witnesses int
	for _, m := range o.take(raftpb.MsgApp) {
		if m.GetTo() == uint64(witnessReplica) {
			witnesses += len(m.GetEntries())
		} else {
			members += len(m.GetEntries())
		}
	}
	if members == 0 || witnesses == 0 {
		t.Errorf("%d entries were sent to the member and %d to the witness, want some to each", members, witnesses)
	}
}

// A read is served by the answer to its own question, or to one that was asked after it came,
// and not before the answer's index is applied.
func TestReadsWaitForTheirOwnIndex(t *testing.T) {
	w, h, o := votingWorker(t)
	w.turnWith(t, appendOf(20, 2, 2, 1, 21)) // there is a leader, and 21 is applied
	o.take(raftpb.MsgAppResp)
	ask := func() *read {
		r := newRead()
		h.group.Read(r, time.Time{})
		w.turnWith(t)
		return r
	}
	question := func() []byte {
		t.Helper()
		asked := o.take(raftpb.MsgReadIndex)
		if len(asked) != 1 {
			t.Fatalf("%d questions to the leader, want 1", len(asked))
		}
		return asked[0].GetEntries()[0].GetData()
	}
	tell := func(context []byte, index uint64) {
		w.turnWith(t, fromLeader(&raftpb.Message{
			Type: raftpb.MsgReadIndexResp.Enum(), Term: new(uint64(2)), Index: new(index),
			Entries: []*raftpb.Entry{{Data: context}},
		}))
	}
	want := func(what string, r *read, served bool) {
		t.Helper()
		if got := len(r.ready) == 1; got != served {
			t.Errorf("%s: served %v, want %v", what, got, served)
		}
	}

	first := ask()
	old := question()
	other := append([]byte(nil), old...)
	binary.BigEndian.PutUint64(other[8:], binary.BigEndian.Uint64(other[8:])+1) // of another life of this node
	tell(other, 21)
	want("an answer to somebody else", first, false)

	for range 20 { // the answer is late; the question is asked again
		for range 4 {
			h.group.Tick()
		}
		w.turnWith(t, fromLeader(&raftpb.Message{Type: raftpb.MsgHeartbeat.Enum(), Term: new(uint64(2))}))
	}
	o.take(raftpb.MsgReadIndex)
	second := ask()
	tell(old, 21)
	want("an answer that was under way before the read came", second, false)

	newer := question()
	tell(newer, 23)
	want("an answer whose index is not applied", second, false)
	w.turnWith(t, appendOf(21, 2, 2, 1, 22))
	want("an index before the answer's", second, false)
	w.turnWith(t, appendOf(22, 2, 2, 1, 23))
	want("the answer's index, applied", first, true)
	want("the answer's index, applied", second, true)
}

// The log above a snapshot that is on its way stays, up to a bound, or its receiver would
// never catch up.
func TestLogAboveASnapshotStays(t *testing.T) {
	w := newIdleWorker(t, false)
	w.o.CompactEntries = 20
	h := host(t, w)
	if err := h.replica.Campaign(); err != nil {
		t.Fatal(err)
	}
	w.turnWith(t)
	write := func(count int) {
		t.Helper()
		for range count {
			p := propose.New(h.id)
			p.Command = []byte("k")
			h.propose([]*propose.Call{p})
			w.turns(t) // without a look at the inbox: there the end of the job waits
			if a := answerOf(t, "proposal", p); a.err != nil {
				t.Fatal(a.err)
			}
		}
	}
	first := func() nexusraft.Index {
		i, err := h.log.FirstIndex()
		if err != nil {
			t.Fatal(err)
		}
		return nexusraft.Index(i)
	}
	write(30)
	at := h.log.Applied()
	h.sendSnapshot(leaderNode, &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: new(uint64(h.self)), To: new(uint64(leaderReplica)),
		Term: new(uint64(2)), Snapshot: &raftpb.Snapshot{},
	})
	if len(h.sending) != 1 {
		t.Fatal("no snapshot is on its way")
	}
	for range 2 * w.o.CompactEntries {
		write(1)
		if got := first(); got > at+1 {
			t.Fatalf("the log begins at %d, the snapshot that is on its way ends at %d", got, at)
		}
	}
}
