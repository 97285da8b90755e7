package witness

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

func TestWitnessAcknowledgesAppends(t *testing.T) {
	f := NewMemFS()
	m, w := joined(t, f)
	m.follow(w, 2)

	x := m.message(raftpb.MsgApp, 2)
	x.Index, x.LogTerm, x.Commit, x.Entries = new(uint64(10)), new(uint64(1)), new(uint64(11)), testEntries(11, 2, 2)
	if got := m.exchange(w, x, raftpb.MsgAppResp); got.GetIndex() != 12 || got.GetReject() {
		t.Errorf("append answered by %v, want an acknowledgement of 12", got)
	}
	if got := m.exchange(w, m.message(raftpb.MsgHeartbeat, 2), raftpb.MsgHeartbeatResp); got.GetTerm() != 2 {
		t.Errorf("heartbeat answered by %v", got)
	}
	log, err := OpenLog(f.CrashClone(nil, 0), "d", testOrigin.Zone)
	if err != nil {
		t.Fatal(err)
	}
	if last, _ := log.LastIndex(); last != 12 {
		t.Errorf("acknowledged up to 12, a crash leaves a log that ends at %d", last)
	}
	st := w.zone()
	if st.Role != nexusraft.RoleWitness || st.State != nexusraft.Follower || st.Applied != 11 || st.FirstIndex != 12 {
		t.Errorf("status: %+v", st)
	}
}

// TestWitnessVotesWhenTheLeaseIsGone: not while it has heard of its leader within an
// election timeout, and at once after that.
func TestWitnessVotesWhenTheLeaseIsGone(t *testing.T) {
	m, w := joined(t, NewMemFS())
	m.follow(w, 2)
	candidate := newFakeMember(t, 2)
	ask := transport.Vote{Term: 3, LastIndex: 10, LastTerm: 1}

	w.tick(5)
	got, err := candidate.vote(w, ask)
	if err != nil || got.Outcome != transport.VoteIgnored || got.LeaseTicksLeft != 1 || got.LastIndex != 10 ||
		got.LastTerm != 1 || got.Term != 2 || !strings.Contains(got.Why, "leader") {
		t.Errorf("before the lease is gone: %+v, %v", got, err)
	}
	w.tick(1)
	pre := ask
	pre.Pre = true
	if got, err = candidate.vote(w, pre); err != nil || got.Outcome != transport.VoteGranted || got.Term != 3 {
		t.Errorf("pre-vote: %+v, %v; want it granted with the request's term", got, err)
	}
	if got, err = candidate.vote(w, ask); err != nil || got.Outcome != transport.VoteGranted || got.Term != 3 {
		t.Errorf("vote: %+v, %v; want it granted", got, err)
	}
	ask.Term, ask.LastIndex = 4, 9
	if got, err = candidate.vote(w, ask); err != nil || got.Outcome != transport.VoteRejected {
		t.Errorf("vote for a log that lacks an entry: %+v, %v; want it rejected", got, err)
	}
	ask.Term = 1
	if got, err = candidate.vote(w, ask); err != nil || got.Outcome != transport.VoteIgnored ||
		!strings.Contains(got.Why, "term 1") {
		t.Errorf("vote of a term that is over: %+v, %v; want it ignored with the reason", got, err)
	}
}

func TestWitnessKeepsItsVote(t *testing.T) {
	f := NewMemFS()
	m, w := joined(t, f)
	ask := transport.Vote{Term: 7, LastIndex: 10, LastTerm: 1}
	if got, err := m.vote(w, ask); err != nil || got.Outcome != transport.VoteGranted {
		t.Fatalf("first vote: %+v, %v", got, err)
	}
	crashed := f.CrashClone(nil, 0)
	w.stopInOrder()

	w = start(t, Config{Dir: "d", FS: crashed}).awaitReady()
	other := newFakeMember(t, 2)
	if got, err := m.vote(w, ask); err != nil || got.Outcome != transport.VoteIgnored || got.LeaseTicksLeft != 6 {
		t.Errorf("a candidate after the start: %+v, %v; want no answer for an election timeout", got, err)
	}
	w.tick(6)
	if got, err := other.vote(w, ask); err != nil || got.Outcome != transport.VoteRejected {
		t.Errorf("a second candidate of the term: %+v, %v; want it rejected", got, err)
	}
	if got, err := m.vote(w, ask); err != nil || got.Outcome != transport.VoteGranted {
		t.Errorf("the first candidate once more: %+v, %v; want it granted", got, err)
	}
}

// TestWitnessNeverLeads: not after any silence, not when it is asked to (I11).
func TestWitnessNeverLeads(t *testing.T) {
	m, w := joined(t, NewMemFS())
	m.follow(w, 2)
	m.send(w, m.message(raftpb.MsgTimeoutNow, 2))
	m.exchange(w, m.message(raftpb.MsgHeartbeat, 2), raftpb.MsgHeartbeatResp) // the one before has arrived
	for range 200 {
		w.tick(10)
		if st := w.zone(); st.State != nexusraft.Follower || st.Term != 2 {
			t.Fatalf("state %v, term %d; want follower, 2", st.State, st.Term)
		}
	}
	for {
		select {
		case <-m.votes:
			t.Fatal("the witness has asked for a vote")
		case x := <-m.fromW:
			if typ := x.GetType(); typ != raftpb.MsgAppResp && typ != raftpb.MsgHeartbeatResp {
				t.Fatalf("the witness has sent %v", typ)
			}
			continue
		default:
		}
		break
	}
}

// TestWitnessStopsWhenTheDiskFails: the error ends Run, and no vote and no
// acknowledgement leaves that the disk does not hold (I3, I9).
func TestWitnessStopsWhenTheDiskFails(t *testing.T) {
	broken := syscall.ENOSPC
	for _, step := range []string{"write", "sync"} {
		t.Run(step, func(t *testing.T) {
			f := NewMemFS()
			var failing atomic.Bool
			f.Before = func(s, name string) error {
				if failing.Load() && s == step && zoneFile(name) {
					return broken
				}
				return nil
			}
			m, w := joined(t, f)
			m.follow(w, 2)
			failing.Store(true)
			x := m.message(raftpb.MsgApp, 2)
			x.Index, x.LogTerm, x.Entries = new(uint64(10)), new(uint64(1)), testEntries(11, 2)
			m.send(w, x)
			if err := w.awaitEnd(); !errors.Is(err, broken) || !strings.Contains(err.Error(), "zone-") {
				t.Errorf("Run: got %v, want the disk's error, with the file's name", err)
			}
			for {
				select {
				case got := <-m.fromW:
					if got.GetType() == raftpb.MsgAppResp && got.GetIndex() > 10 {
						t.Fatalf("acknowledged what is not on the disk: %v", got)
					}
					continue
				default:
				}
				break
			}
		})
	}
	t.Run("vote", func(t *testing.T) {
		f := NewMemFS()
		var failing atomic.Bool
		f.Before = func(s, name string) error {
			if failing.Load() && s == "sync" && zoneFile(name) {
				return broken
			}
			return nil
		}
		m, w := joined(t, f)
		failing.Store(true)
		if got, err := m.vote(w, transport.Vote{Term: 7}); err == nil {
			t.Errorf("vote: got %+v, want an error", got)
		}
		if err := w.awaitEnd(); !errors.Is(err, broken) {
			t.Errorf("Run: got %v, want the disk's error", err)
		}
	})
}

func TestWitnessRefusesMessagesForOthers(t *testing.T) {
	m, w := joined(t, NewMemFS())
	m.follow(w, 2)
	stranger := m.message(raftpb.MsgApp, 9)
	stranger.From = new(uint64(2)) // the record gives replica 2 to another node
	m.send(w, stranger)
	m.exchange(w, m.message(raftpb.MsgHeartbeat, 2), raftpb.MsgHeartbeatResp)
	if st := w.zone(); st.Term != 2 || st.Commit != 10 {
		t.Errorf("term %d, commit %d; want 2 and 10", st.Term, st.Commit)
	}
	v := transport.Vote{Zone: 99, From: 1, To: 3, Term: 3}
	rs, err := w.Witness.handler().RequestVote(t.Context(), m.id.Node, []transport.Vote{v})
	if err != nil || len(rs) != 1 || rs[0].Outcome != transport.VoteIgnored || !strings.Contains(rs[0].Why, "no replica") {
		t.Errorf("vote in an unknown zone: %+v, %v", rs, err)
	}
	if st, err := w.Status(t.Context()); err != nil || len(st.Zones) != 1 || !st.Healthy || st.DiskBytes == 0 ||
		!st.Witness {
		t.Errorf("status: %+v, %v", st, err)
	}
}

// TestWitnessThatForgot: one whose log ends before what its leader knows it to have has lost it.
func TestWitnessThatForgot(t *testing.T) {
	m, w := joined(t, NewMemFS())
	m.follow(w, 2)
	beyond := m.message(raftpb.MsgHeartbeat, 2)
	beyond.Commit = new(uint64(1000))
	m.send(w, beyond)
	if err := w.awaitEnd(); !errors.Is(err, nexusraft.ErrCorrupt) ||
		!strings.Contains(err.Error(), "has lost what was synced") {
		t.Errorf("it ended with %v, want ErrCorrupt that says so", err)
	}
}

// TestWitnessRefusesLowerIncarnations: also after a restart (I5).
func TestWitnessRefusesLowerIncarnations(t *testing.T) {
	f := NewMemFS()
	m, w := joined(t, f)
	m.follow(w, 2)
	old := m.id
	old.Incarnation--
	for range 2 {
		if err := w.Witness.handler().Hello(old); !errors.Is(err, nexusraft.ErrFenced) ||
			!strings.Contains(err.Error(), "incarnation 4") {
			t.Errorf("got %v, want ErrFenced that names the incarnation", err)
		}
		again := m.id
		again.Boot++
		if err := w.Witness.handler().Hello(again); !errors.Is(err, nexusraft.ErrFenced) {
			t.Errorf("another opening with the same number: got %v, want ErrFenced", err)
		}
		later := m.id
		later.Incarnation++
		later.Earlier = []nexusraft.Boot{99}
		if err := w.Witness.handler().Hello(later); !errors.Is(err, nexusraft.ErrFenced) {
			t.Errorf("a later opening that does not remember this one: got %v, want ErrFenced", err)
		}
		self := w.peering.Self()
		if err := w.Witness.handler().Hello(self); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("a copy of itself: got %v, want ErrRefused", err)
		}
		w.stopInOrder()
		w = start(t, Config{Dir: "d", FS: f}).awaitReady()
	}
}

func TestWitnessLearnsANewAddress(t *testing.T) {
	f := NewMemFS()
	m, w := joined(t, f)
	m.follow(w, 2)
	w.stopInOrder()

	moved := newFakeMember(t, 1) // the same node at another address
	moved.id.Incarnation = m.id.Incarnation + 1
	w = start(t, Config{Dir: "d", FS: f}).awaitReady()
	moved.await("answer at the new address", func() bool {
		// One that went to the old address is lost; a leader's heartbeats don't end.
		moved.send(w, moved.message(raftpb.MsgHeartbeat, 2))
		return len(moved.fromW) > 0
	})
}
