package witness

import (
	"log/slog"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/transport"
)

// bench is the worker of a witness that does not run: the test drives it, and looks at what
// a crash would leave on the disk as each answer leaves (I3).
type bench struct {
	*worker
	t    *testing.T
	g    *group
	disk *MemFS
	sent []*raftpb.Message

	slots []*raftwire.Waiter // vote requests that came in; their answers leave through these
	early bool               // one was answered before its round was on the disk
}

// The members beside the witness, which is testOrigin's.
const (
	memberA nexusraft.ReplicaID = 1
	memberB nexusraft.ReplicaID = 2
)

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, disk: NewMemFS()}
	members := nexusraft.Membership{Shape: nexusraft.DefaultShape}
	for id, role := range map[nexusraft.ReplicaID]nexusraft.Role{
		memberA: nexusraft.RoleMember,
		memberB: nexusraft.RoleMember, testOrigin.Replica: nexusraft.RoleWitness,
	} {
		members = members.With(nexusraft.Member{
			Replica: id, Node: nexusraft.NodeID(id * 0x10), Address: "127.0.0.1:1",
			Role: role,
		})
	}
	log, err := CreateLog(b.disk, "w", testOrigin, members)
	if err != nil {
		t.Fatal(err)
	}
	err = log.Write(Update{
		Snapshot: &raftpb.Snapshot{Data: members.Encode(), Metadata: &raftpb.SnapshotMetadata{
			Index: new(uint64(10)), Term: new(uint64(1)), ConfState: &raftpb.ConfState{Voters: []uint64{
				1, 2,
				uint64(testOrigin.Replica),
			}},
		}},
		HardState: &raftpb.HardState{Term: new(uint64(1)), Vote: new(uint64(0)), Commit: new(uint64(10))},
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{ElectionTicks: 6, Logger: slog.New(slog.DiscardHandler)}
	b.g, err = newGroup(log, 1, c, func(nexusraft.Membership) {}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	b.worker = newWorker(c, nil, 1, noMinor)
	b.out.Network = b
	b.zones[testOrigin.Zone] = b.g
	b.disk.Before = func(string, string) error {
		for _, s := range b.slots {
			b.early = b.early || len(s.Done()) > 0
		}
		return nil
	}
	return b
}

// promised is what a crash now would leave.
func (b *bench) promised() *Log {
	b.t.Helper()
	log, err := OpenLog(b.disk.CrashClone(nil, 0), "w", testOrigin.Zone)
	if err != nil {
		b.t.Fatalf("open what a crash leaves: %v", err)
	}
	return log
}

// RequestVote implements raftwire.Network: a witness asks for none.
func (b *bench) RequestVote(nexusraft.NodeID, []transport.Vote, func([]transport.VoteResult, error)) {
	b.t.Error("a witness asks for votes")
}

// Send implements raftwire.Network.
func (b *bench) Send(_ nexusraft.NodeID, _ transport.Class, x transport.Message) {
	m := &raftpb.Message{}
	if err := proto.Unmarshal(x.Data, m); err != nil {
		b.t.Fatal(err)
	}
	b.sent = append(b.sent, m)
	on := b.promised().record
	if uint64(on.Term) < m.GetTerm() {
		b.t.Errorf("I3: %v of term %d leaves, on the disk is term %d", m.GetType(), m.GetTerm(), on.Term)
	}
	if m.GetType() == raftpb.MsgAppResp && !m.GetReject() && uint64(on.Last) < m.GetIndex() {
		b.t.Errorf("I3: entry %d is acknowledged, on the disk the log ends at %d", m.GetIndex(), on.Last)
	}
}

// turn has the worker step what came in, and do all that follows.
func (b *bench) turn(in ...driver.Inbound) {
	b.t.Helper()
	b.loop.Inbox().Put(in)
	b.loop.Drain()
	turnOf(b.t, b.worker)
}

// take returns how many messages of a type have left since the last take.
func (b *bench) take(typ raftpb.MessageType) (n int) {
	for _, m := range b.sent {
		if m.GetType() == typ {
			n++
		}
	}
	b.sent = nil
	return n
}

func message(from nexusraft.ReplicaID, typ raftpb.MessageType, term uint64) driver.Inbound {
	return driver.Inbound{Zone: testOrigin.Zone, From: nexusraft.NodeID(from * 0x10), Message: &raftpb.Message{
		Type: typ.Enum(), From: new(uint64(from)), To: new(uint64(testOrigin.Replica)), Term: new(term),
	}}
}

// appends is an append of n entries behind an index.
func appends(from nexusraft.ReplicaID, term, index, logTerm uint64, n int) driver.Inbound {
	in := message(from, raftpb.MsgApp, term)
	in.Message.Index, in.Message.LogTerm, in.Message.Commit = new(index), new(logTerm), new(index)
	for i := range uint64(n) {
		in.Message.Entries = append(in.Message.Entries, &raftpb.Entry{
			Type: raftpb.EntryNormal.Enum(), Term: new(term),
			Index: new(index + i + 1),
		})
	}
	return in
}

// asks is a vote request of a member whose log is as good as any.
func (b *bench) asks(from nexusraft.ReplicaID, term nexusraft.Term, pre bool) (driver.Inbound, *raftwire.Waiter) {
	v := transport.Vote{
		Zone: testOrigin.Zone, Pre: pre, From: from, To: testOrigin.Replica, Term: term, LastIndex: 1000,
		LastTerm: term - 1,
	}
	s := raftwire.NewWaiter(v)
	b.slots = append(b.slots, s)
	return driver.Inbound{Zone: v.Zone, From: nexusraft.NodeID(from * 0x10), Message: s.Message(), Vote: s}, s
}

// answered is the answer that must be there.
func (b *bench) answered(s *raftwire.Waiter) transport.VoteResult {
	b.t.Helper()
	select {
	case r := <-s.Done():
		return r
	default:
		b.t.Fatal("the vote request was not answered")
		return transport.VoteResult{}
	}
}

// Whatever a witness answers, what it promises is on its disk when the answer leaves (I3).
func TestAnswersLeaveAfterTheSync(t *testing.T) {
	b := newBench(t)
	for _, x := range []struct {
		in  driver.Inbound
		typ raftpb.MessageType
	}{
		{appends(memberA, 2, 10, 1, 3), raftpb.MsgAppResp},
		{message(memberA, raftpb.MsgHeartbeat, 3), raftpb.MsgHeartbeatResp},
		{appends(memberB, 4, 11, 2, 3), raftpb.MsgAppResp}, // over what was there
	} {
		b.turn(x.in)
		if b.take(x.typ) != 1 {
			t.Errorf("no %v has left", x.typ)
		}
	}
	b.silence()
	for _, term := range []nexusraft.Term{6, 9} {
		in, slot := b.asks(memberA, term, false)
		b.turn(in)
		if r := b.answered(slot); r.Outcome != transport.VoteGranted || r.Term != term {
			t.Errorf("the answer in term %d is %+v, want the vote", term, r)
		}
		if on := b.promised().record; on.Term != term || on.Vote != memberA {
			t.Errorf("the vote of term %d was granted, on the disk are term %d and vote %v", term, on.Term, on.Vote)
		}
	}
	if b.early {
		t.Error("I3: a vote was answered while its round was still being written")
	}
}

// silence lets an election timeout pass.
func (b *bench) silence() {
	for range 6 {
		b.g.replica.Tick()
		b.turn()
	}
}

// A leader that was deposed and does not know it yet goes on talking. A witness that knows
// better votes once its own leader is silent.
func TestDeposedLeaderRenewsNoLease(t *testing.T) {
	b := newBench(t)
	b.turn(message(memberA, raftpb.MsgHeartbeat, 2))
	b.turn(message(memberB, raftpb.MsgHeartbeat, 3))
	for range 6 {
		b.turn(message(memberA, raftpb.MsgHeartbeat, 2), appends(memberA, 2, 10, 1, 1))
		b.g.replica.Tick()
	}
	in, slot := b.asks(memberA, 4, true)
	b.turn(in)
	if r := b.answered(slot); r.Outcome != transport.VoteGranted {
		t.Errorf("leader %v has been silent for an election timeout, and the answer to a candidate is %+v", memberB, r)
	}
}

// Two requests of one candidate in one round: each answer is to the request of its term.
func TestVoteAnswersTheRequestOfItsTerm(t *testing.T) {
	b := newBench(t)
	older, first := b.asks(memberA, 5, false)
	newer, second := b.asks(memberA, 6, false)
	b.turn(older, newer)
	if r := b.answered(first); r.Outcome == transport.VoteGranted && r.Term != 5 {
		t.Errorf("the request of term 5 is answered %+v", r)
	}
	if r := b.answered(second); r.Outcome != transport.VoteGranted || r.Term != 6 {
		t.Errorf("the request of term 6 is answered %+v, want the vote of term 6", r)
	}
}

// noMinor is what is known of peers that have said nothing.
func noMinor(nexusraft.NodeID) (uint32, bool) { return 0, false }
