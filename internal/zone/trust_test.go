package zone_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// TestWhoMayStepWhat is I13 as a table: what each kind of sender may send to a member and to a
// witness. All of these messages would be taken from the leader.
func TestWhoMayStepWhat(t *testing.T) {
	senders := map[string]struct {
		id      uint64
		answers bool // nothing else
	}{
		"the leader":                         {1, false},
		"a learner, promoted since":          {4, false},
		"a member that has no record yet":    {7, false},
		"the witness":                        {3, true},
		"the witness, as somebody else":      {10, true},
		"a removed replica":                  {9, true},
		"a stranger":                         {strangers, true},
		"a node that proves to be a witness": {5, true},
	}
	for name, sender := range senders {
		for _, m := range plausible() {
			for _, to := range []uint64{2, 3} {
				if to == sender.id {
					continue
				}
				m := proto.CloneOf(m)
				m.From, m.To, m.Term = new(sender.id), new(to), new(uint64(3))
				t.Run(fmt.Sprintf("%s/%v to %d", name, m.GetType(), to), func(t *testing.T) {
					w := ledZone(t)
					w.nodes[5] = &node{w: w, id: 5, witness: true}
					n := w.nodes[to]
					n.r.SetMembership(n.r.Membership().
						With(record(4, nexusraft.RoleLearner)).With(record(9, nexusraft.RoleMember)).Without(9))
					from := nodeOf(sender.id)
					if sender.id == 10 {
						from = nodeOf(3)
					}
					err := n.r.Step(from, m)
					want := sender.answers && !zone.IsAnswer(m)
					if errors.Is(err, nexusraft.ErrRefused) != want {
						t.Errorf("got %v, want it refused: %t", err, want)
					}
				})
			}
		}
	}
}

// A witness's word for what it was not sent commits nothing: in sync every write is on both
// members.
func TestWitnessAcknowledgesWhatItWasSent(t *testing.T) {
	w := ledZone(t)
	leader := w.nodes[1]
	w.cut[[2]uint64{1, 2}] = true
	if err := w.propose(leader, "x"); err != nil {
		t.Fatal(err)
	}
	w.run(leader)
	before := leader.r.Status()
	if before.Sync != nexusraft.InSync || before.Commit >= before.LastIndex {
		t.Fatalf("the zone is %v, commit %d of %d: the test is void", before.Sync, before.Commit, before.LastIndex)
	}
	ack := from(3, 1, raftpb.MsgAppResp, func(m *raftpb.Message) {
		m.Term, m.Index = new(uint64(before.Term)), new(uint64(before.LastIndex))
	})
	if err := leader.r.Step(nodeOf(3), ack); !errors.Is(err, nexusraft.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", err)
	}
	w.run(leader)
	if after := leader.r.Status(); after.Commit != before.Commit {
		t.Errorf("a witness that was sent nothing has committed index %d", after.Commit)
	}
}

// A follower that was away follows a leader that was admitted meanwhile, if that has proved to be a
// full node, and learns of the change by it.
func TestLeaderWithoutARecord(t *testing.T) {
	w := ledZone(t)
	w.cut[[2]uint64{1, 2}], w.cut[[2]uint64{4, 2}] = true, true
	w.add(4, false, newDisk(nil, nexusraft.Membership{}))
	leader := w.nodes[1]
	must(w.change(leader, zone.ConfChange{Set: []nexusraft.Member{record(4, nexusraft.RoleLearner)}}))
	w.settle(40)
	must(w.change(leader, zone.ConfChange{Set: []nexusraft.Member{record(4, nexusraft.RoleMember)}}))
	w.settle(40)
	must(zone.TransferLeader(leader.r, 4))
	w.run(leader)
	w.settle(5)
	if s := w.nodes[4].r.Status(); s.State != nexusraft.Leader {
		t.Fatalf("the new member is %s: the test is void", s.State)
	}
	follower := w.nodes[2].r
	if _, known := follower.Membership().Replica(4); known {
		t.Fatal("the follower knows of the change: the test is void")
	}
	clear(w.cut)
	w.settle(20)
	if _, known := follower.Membership().Replica(4); !known || follower.Status().Leader != 4 {
		t.Errorf("got leader %v and records %+v, want the follower to have caught up", follower.Status().Leader,
			follower.Membership().Members)
	}
}

// settle lets time go on for all replicas.
func (w *world) settle(ticks int) {
	for range ticks {
		for _, n := range w.sorted() {
			w.tick(n)
		}
		w.stabilize()
	}
}

// Replicas that are just as far apart as the bounds allow elect a leader, whichever is ahead.
func TestElectionAcrossTheBoundOfTerms(t *testing.T) {
	for name, tt := range map[string]struct {
		ahead map[uint64]uint64 // by replica
		votes []uint64          // those that are up
	}{
		"a member was away for long": {
			map[uint64]uint64{1: zone.MaxTermsAhead - 2, 3: zone.MaxTermsAhead - 2},
			[]uint64{1, 2, 3},
		},
		"a member was away, the other one is gone": {
			map[uint64]uint64{1: zone.MaxWitnessBudget - 2, 3: zone.MaxWitnessBudget - 2},
			[]uint64{2, 3},
		},
		"the witness was away for long": {
			map[uint64]uint64{1: zone.MaxTermsAhead - 2, 2: zone.MaxTermsAhead - 2},
			[]uint64{1, 3},
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := ledZone(t)
			for id, by := range tt.ahead {
				n := w.nodes[id]
				n.disk.hard = &raftpb.HardState{Term: new(2 + by), Commit: n.disk.hard.Commit}
				w.stop(n)
				w.start(n)
			}
			for _, n := range w.sorted() {
				if !contains(tt.votes, n.id) {
					w.stop(n)
				}
			}
			w.settle(100)
			leaders := 0
			for _, n := range w.sorted() {
				if n.r != nil && n.r.Status().State == nexusraft.Leader {
					leaders++
				}
			}
			if leaders != 1 {
				t.Errorf("got %d leaders:\n%s", leaders, w.told())
			}
		})
	}
}

func contains(ids []uint64, id uint64) bool {
	for _, x := range ids {
		if x == id {
			return true
		}
	}
	return false
}

// A witness that says a bit more in each of its answers can't carry a member off to where the other
// one does not follow it, and what it has spent comes back.
func TestWitnessTermsHaveABudget(t *testing.T) {
	w := ledZone(t)
	n := w.nodes[1]
	answer := func(by uint64) error {
		return n.r.Step(nodeOf(3), from(3, 1, raftpb.MsgHeartbeatResp,
			func(m *raftpb.Message) { m.Term = new(uint64(n.r.Status().Term) + by) }))
	}
	began := n.r.Status().Term
	var refused error
	for range 100 {
		refused = answer(zone.MaxWitnessBudget / 4)
	}
	if refused == nil || !strings.Contains(refused.Error(), "no election explains") {
		t.Errorf("got %v after 100 large steps, want a refusal", refused)
	}
	if got := n.r.Status().Term - began; got > zone.MaxWitnessBudget {
		t.Errorf("the witness has carried the member off by %d terms, limit %d", got, zone.MaxWitnessBudget)
	}
	if err := n.r.Step(nodeOf(2), from(2, 1, raftpb.MsgAppResp, func(m *raftpb.Message) {
		m.Term = new(uint64(n.r.Status().Term) +
			zone.MaxWitnessBudget)
	})); err != nil {
		t.Errorf("a member's answer counts for less by that: %v", err)
	}
	n.r.Tick()
	if err := answer(zone.WitnessTermsATick); err != nil {
		t.Errorf("a tick later: %v", err)
	}
	if err := answer(1); err == nil {
		t.Error("a tick gives back more than it should")
	}
}

// Answers in made-up names leave nothing behind.
func TestAnswersOfStrangersCostNothing(t *testing.T) {
	n := ledZone(t).nodes[1]
	for id := range uint64(1000) {
		if err := n.r.Step(nodeOf(3), from(strangers+id, 1, raftpb.MsgHeartbeatResp, nil)); err != nil {
			t.Fatal(err)
		}
	}
	for id := range nexusraft.ReplicaID(1000) {
		if n.r.HeardWithin(strangers+id, math.MaxInt) {
			t.Fatalf("replica %d is remembered as heard of", strangers+id)
		}
	}
}

// replicaIn returns a member that knows a zone's records, and believes every node to be full.
func replicaIn(t *testing.T, id nexusraft.ZoneID, self nexusraft.ReplicaID, known nexusraft.Membership) *zone.Replica {
	t.Helper()
	conf := &raftpb.ConfState{}
	for _, m := range known.Members {
		conf.Voters = append(conf.Voters, uint64(m.Replica))
	}
	d := newDisk(conf, known)
	r, err := zone.New(zone.Config{
		Zone: id, Replica: self, Incarnation: 1, Storage: d, Applied: d.applied, Membership: known,
		ElectionTicks: electionTicks, Vouched: func(nexusraft.NodeID) bool { return true },
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// A node that has left a zone comes back to it as another replica, and leads it: a replica that was away believes it,
// whether it knows the node by its earlier replica or by the tombstone of that. In the root zone none comes back.
func TestReturnedNodeIsBelieved(t *testing.T) {
	both := nexusraft.Membership{}.With(record(1, nexusraft.RoleMember)).With(record(2, nexusraft.RoleMember))
	for name, known := range map[string]nexusraft.Membership{
		"by its earlier replica": both,
		"by the tombstone":       both.Without(1),
	} {
		for id, believed := range map[nexusraft.ZoneID]bool{nexusraft.RootZone: false, 2: true} {
			r := replicaIn(t, id, 2, known)
			later := record(11, nexusraft.RoleMember)
			later.Node = nodeOf(1)
			m := &raftpb.Message{
				Type: raftpb.MsgHeartbeat.Enum(), From: new(uint64(later.Replica)), To: new(uint64(2)), Term: new(uint64(7)),
			}
			if err := r.Check(later.Node, m); (err == nil) != believed {
				t.Errorf("%s in zone %v: got %v, want it believed: %v", name, id, err, believed)
			}
			m.From = new(uint64(1))
			if err := r.Check(later.Node, m); known.IsRemoved(1) && err == nil {
				t.Errorf("%s in zone %v: its removed replica is believed", name, id)
			}
		}
	}
}
