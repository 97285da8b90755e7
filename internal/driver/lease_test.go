package driver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// TestLeaseCountsFromItsQuestion: however long the answer takes.
func TestLeaseCountsFromItsQuestion(t *testing.T) {
	f := newFarLeader(6)
	f.r.lease = newLease(LeaseConfig{Length: 10 * time.Second, Clock: f.time})
	f.r.lease.kept = func() bool { return true }
	l := f.r.lease
	for range 3 { // a read that has waited for its question for a while makes the lease no older
		f.tick()
	}
	x := f.read()
	if l.Holds() {
		t.Fatal("there is a lease before any question")
	}
	if got, err := f.await(t, x); err != nil || !l.Holds() {
		t.Fatalf("no lease after an answer that took %d ticks, %v", got, err)
	}
	asked := *l.asked.Load()
	for f.time().Sub(asked) < 10*time.Second {
		if !l.Holds() {
			t.Fatalf("the lease is over %v after its question", f.time().Sub(asked))
		}
		f.tick()
	}
	if l.Holds() {
		t.Errorf("the lease holds %v after its question", f.time().Sub(asked))
	}
	if taken := asked.Sub(time.Unix(3, 0)); taken < 0 || taken > time.Second {
		t.Errorf("the lease counts from %v after the read came, want the question", taken)
	}

	x = f.read()
	f.tick()
	l.end()
	if _, err := f.await(t, x); err != nil || l.Holds() {
		t.Errorf("%v, a lease from a question of before its end: %t", err, l.Holds())
	}
}

// TestWallClockEndsALease: the monotonic clock of a suspended machine may stand still.
func TestWallClockEndsALease(t *testing.T) {
	now := time.Now()
	l := newLease(LeaseConfig{Length: time.Minute, Clock: func() time.Time { return now }})
	l.kept = func() bool { return true }
	l.grant(l.ask())
	if !l.Holds() {
		t.Fatal("there is no lease")
	}
	if now = now.Round(0).Add(time.Hour); l.Holds() {
		t.Error("the lease holds an hour later")
	}
}

// leaseBench is a bench whose groups may have leases of a minute, by a clock that stands still.
func leaseBench(t *testing.T) *bench {
	b := newBench(t, 1<<20)
	now := time.Now()
	b.lease = LeaseConfig{
		Length: time.Minute, Clock: func() time.Time { return now },
		Keeps: func(nexusraft.NodeID) bool { return !b.older },
	}
	return b
}

// TestLeaseOfOneVoter: it is granted by the answer to a read, names what the state needs, and ends with each change
// of the replicas.
func TestLeaseOfOneVoter(t *testing.T) {
	b := leaseBench(t)
	g := b.group(1)
	read := func() {
		g.Read(renewal{}, time.Time{})
		b.turns()
	}
	if read(); g.Lease().Holds() {
		t.Error("a replica that does not lead has a lease")
	}
	if err := g.Replica().Campaign(); err != nil {
		t.Fatal(err)
	}
	if b.turns(); g.Lease().Holds() {
		t.Error("there is a lease before a question of this term")
	}
	b.older = true
	if read(); g.Lease().Holds() {
		t.Error("there is a lease, and a voter's program does not keep the promise")
	}
	b.older = false
	if read(); !g.Lease().Holds() {
		t.Fatal("there is no lease")
	}
	b.propose(g, "x")
	b.turns()
	if index, held := g.Lease().Index(); index != before+2 || !held {
		t.Errorf("got index %d, %t, want %d", index, held, before+2)
	}
	learner := nexusraft.Member{Replica: third, Node: 30, Address: "127.0.0.1:3", Role: nexusraft.RoleLearner}
	change := zone.ConfChange{Set: []nexusraft.Member{learner}}
	if err := ProposeConfChange(g, change, &call{b: b, name: "change"}); err != nil {
		t.Fatal(err)
	}
	if b.turns(); g.Lease().Holds() {
		t.Error("the lease outlives a change of the replicas")
	}
	if read(); !g.Lease().Holds() {
		t.Error("there is no lease after the change")
	}
	g.Stop(nexusraft.ErrClosed)
	if g.Lease().Holds() {
		t.Error("the lease outlives its group")
	}
}

// TestLeaseIsRenewed while there are reads by it, and not else.
func TestLeaseIsRenewed(t *testing.T) {
	b := leaseBench(t)
	g := b.group(1)
	if err := g.Replica().Campaign(); err != nil {
		t.Fatal(err)
	}
	b.turns()
	g.Read(renewal{}, time.Time{})
	b.turns()
	for _, used := range []bool{false, true, false} {
		if used {
			g.Lease().Index()
		}
		sequence := g.reads.contexts.sequence
		g.Tick()
		b.turns()
		if asked := g.reads.contexts.sequence > sequence; asked != used {
			t.Errorf("with a read: %t; asked: %t", used, asked)
		}
	}
}

// leadingTwo is a group of two voters that leads in term 2, and confirmRead answers the reads that it was asked.
func leadingTwo(t *testing.T, b *bench) (g *Group, confirmRead func()) {
	t.Helper()
	g = b.group(2)
	if err := g.Replica().Campaign(); err != nil {
		t.Fatal(err)
	}
	b.turns()
	for _, typ := range []raftpb.MessageType{raftpb.MsgPreVoteResp, raftpb.MsgVoteResp} {
		b.step(g, message(other, typ, 2), nil)
		b.turns()
	}
	m := message(other, raftpb.MsgAppResp, 2)
	m.Index = new(uint64(before + 1))
	b.step(g, m, nil)
	b.turns()
	if !g.Replica().TermApplied() {
		t.Fatal("it does not lead")
	}
	reads := uint64(0)
	return g, func() {
		g.Read(renewal{}, time.Time{})
		b.turns()
		reads++
		m := message(other, raftpb.MsgHeartbeatResp, 2)
		m.Context = binary.LittleEndian.AppendUint64(nil, reads)
		b.step(g, m, nil)
		b.turns()
	}
}

// TestLeaseEndsBeforeTheWorldHears: what helps to elect another leader leaves after the lease has ended.
func TestLeaseEndsBeforeTheWorldHears(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *bench, *Group){
		"a higher term": func(_ *testing.T, b *bench, g *Group) {
			b.step(g, message(other, raftpb.MsgAppResp, 9), nil)
		},
		"a transfer": func(t *testing.T, _ *bench, g *Group) {
			if err := zone.TransferLeader(g.Replica(), other); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := leaseBench(t)
			g, confirmRead := leadingTwo(t, b)
			if confirmRead(); !g.Lease().Holds() {
				t.Fatal("there is no lease")
			}
			b.sees = func(*raftpb.Message) {
				if g.Lease().Holds() {
					t.Error("something leaves, or is written, while the lease holds")
				}
			}
			end(t, b, g)
			b.turns()
			b.sees = nil
			if confirmRead(); g.Lease().Holds() {
				t.Error("there is a lease again")
			}
		})
	}
}

// TestNoLeaseInAJointConfiguration: there is one again once it is left.
func TestNoLeaseInAJointConfiguration(t *testing.T) {
	b := leaseBench(t)
	g, confirmRead := leadingTwo(t, b)
	var change zone.ConfChange
	for _, id := range []nexusraft.ReplicaID{third, third + 1} {
		change.Set = append(change.Set, nexusraft.Member{
			Replica: id, Node: nexusraft.NodeID(10 * id), Address: "127.0.0.1:3", Role: nexusraft.RoleLearner,
		})
	}
	if err := ProposeConfChange(g, change, &call{b: b, name: "change"}); err != nil {
		t.Fatal(err)
	}
	b.turns()
	for i, joint := range []bool{true, false} { // the next entry leaves it
		index := uint64(before + 2 + i)
		m := message(other, raftpb.MsgAppResp, 2)
		m.Index = new(index)
		b.step(g, m, nil)
		b.turns()
		confirmRead()
		if g.Replica().Joint() != joint || g.Lease().Holds() == joint {
			t.Errorf("after entry %d: joint %t, a lease %t; want joint %t, and a lease otherwise", index, g.Replica().Joint(),
				g.Lease().Holds(), joint)
		}
	}
}

// TestLeaseKnowsWhatIsTold: a read by the lease sees each entry whose commit others may know.
func TestLeaseKnowsWhatIsTold(t *testing.T) {
	b := leaseBench(t)
	g, confirmRead := leadingTwo(t, b)
	confirmRead()
	told := 0
	b.sees = func(m *raftpb.Message) {
		index, held := g.Lease().Index()
		if held && m != nil && nexusraft.Index(m.GetCommit()) > index {
			t.Errorf("%v tells that %d is committed, a read needs %d", m.GetType(), m.GetCommit(), index)
		}
		if m.GetCommit() == before+2 && g.Replica().Applied() < before+2 {
			told++
		}
	}
	b.propose(g, "x")
	b.turns()
	m := message(other, raftpb.MsgAppResp, 2)
	m.Index = new(uint64(before + 2))
	b.step(g, m, nil)
	b.turns()
	if told == 0 {
		t.Error("nothing has told of the entry before it was applied: the test says nothing")
	}
}

// TestPromiseOutlivesTheLeader: a voter that has heard of a leader gives no vote for an election timeout, also when
// raft has forgotten that leader.
func TestPromiseOutlivesTheLeader(t *testing.T) {
	for _, typ := range []raftpb.MessageType{raftpb.MsgVote, raftpb.MsgPreVote} {
		t.Run(fmt.Sprint(typ), func(t *testing.T) {
			b := newBench(t, 1<<20)
			g := b.group(3)
			ask := func(term uint64, context string) {
				m := message(third, typ, term)
				m.Index, m.LogTerm, m.Context = new(uint64(before)), new(uint64(1)), []byte(context)
				b.told = nil
				b.step(g, m, voteCallOf{&call{b: b, name: "vote"}})
				b.turns()
			}
			answers := func() (n int) {
				for _, told := range b.told {
					if strings.HasPrefix(told, "vote: term ") && strings.HasSuffix(told, ", reject false") {
						n++
					}
				}
				return n
			}
			b.step(g, message(other, raftpb.MsgHeartbeat, 2), nil)
			m := message(third, raftpb.MsgPreVoteResp, 5) // late, and takes the leader away
			m.Reject = new(true)
			b.step(g, m, nil)
			b.turns()
			if leader, _ := g.Replica().Leader(); leader != 0 || g.Replica().Term() != 5 {
				t.Fatalf("in term %d it follows %d", g.Replica().Term(), leader)
			}
			for range 5 {
				g.Tick()
				if err := g.Replica().Campaign(); !errors.Is(err, nexusraft.ErrRefused) {
					t.Fatalf("it stands for election: %v", err)
				}
				for _, term := range []uint64{5, 6} {
					if ask(term, ""); answers() != 0 {
						t.Fatalf("it votes in term %d: %q", term, b.told)
					}
				}
			}
			if ask(6, "CampaignTransfer"); answers() != 1 {
				t.Errorf("for a transfer: %q", b.told)
			}
			g.Tick()
			if ask(7, ""); answers() != 1 {
				t.Errorf("after an election timeout: %q", b.told)
			}
		})
	}
}

// lateHost is a Host whose worker takes long for something between taking a tick and taking its inbox, once.
type lateHost struct {
	emptyHost
	room func()
	tick func()
}

func (h *lateHost) Room() bool                            { h.room(); return true }
func (h *lateHost) Tick(map[nexusraft.NodeID]zone.Signal) { h.tick() }
func (h *lateHost) Turn() (bool, error)                   { return false, nil }
func (h *lateHost) Propose()                              {}
func (h *lateHost) Stop(error)                            {}

// A voter counts an election timeout in ticks from a leader's message on. However late its worker takes those, it
// has not counted to the end before the lease that rests on the message is over.
func TestLeaseIsNotLongerThanTheTicks(t *testing.T) {
	const tick, electionTicks = 50 * time.Millisecond, 6
	lease := LeaseLength(electionTicks, tick, 0)
	for late := time.Duration(0); late < 4*tick; late += tick / 10 {
		for phase := time.Duration(0); phase < 2*tick; phase += tick / 10 {
			synctest.Test(t, func(t *testing.T) {
				start, silence, counted := time.Now(), -1, make(chan time.Time, 1)
				h := &lateHost{
					room: func() {
						if time.Since(start) == tick {
							time.Sleep(late)
						}
					},
					tick: func() {
						if silence >= 0 {
							silence++
						}
						if silence == electionTicks {
							counted <- time.Now()
						}
					},
				}
				w := NewWorker(h, NewBacklog(Bounds{100, 1 << 20, 100}, 1), slog.New(slog.DiscardHandler))
				stop, ended := make(chan struct{}), make(chan error)
				go func() {
					ticker := time.NewTicker(tick)
					defer ticker.Stop()
					ended <- w.Run(ticker.C, stop)
				}()
				time.Sleep(tick + phase)
				asked := time.Now()
				if err := w.Inbox().Call(func(error) { silence = 0 }); err != nil { // it is heard
					t.Fatal(err)
				}
				if got := (<-counted).Sub(asked); got < lease {
					t.Errorf("held up for %v, asked %v after a tick: a voter has waited for %v, and the lease is of %v", late, phase,
						got, lease)
				}
				close(stop)
				<-ended
			})
		}
	}
}
