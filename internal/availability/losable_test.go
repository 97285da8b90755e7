package availability

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// situation is a zone as a survey finds it. At first all is well: n1 leads, n2 and w1 follow.
type situation struct {
	zone    nexusraft.ZoneStatus // the leader's view
	answers []client.Answer
}

func newSituation(members ...nexusraft.Member) *situation {
	s := &situation{zone: nexusraft.ZoneStatus{
		Zone: 1, Leader: 1, Term: 5, Commit: 100, Applied: 100, LastIndex: 100, Sync: nexusraft.InSync, SyncIndex: 90,
		Membership: nexusraft.Membership{Shape: nexusraft.DefaultShape},
	}}
	for _, m := range members {
		s.zone.Membership = s.zone.Membership.With(m)
		s.zone.Replicas = append(s.zone.Replicas, nexusraft.ReplicaStatus{Member: m, Match: 100, Active: true})
	}
	for i, m := range members {
		z := nexusraft.ZoneStatus{
			Zone: 1, Replica: m.Replica, Role: m.Role, State: nexusraft.Follower, Leader: 1, Term: 5,
			Applied: 100, Membership: s.zone.Membership,
		}
		if i == 0 {
			z = s.zone
			z.Replica, z.Role, z.State = m.Replica, m.Role, nexusraft.Leader
		}
		s.answers = append(s.answers, client.Answer{Address: m.Address, Status: nexusraft.NodeStatus{
			Cluster: 7, Node: m.Node, Name: m.Name, Address: m.Address, Healthy: true, Zones: []nexusraft.ZoneStatus{z},
		}})
	}
	return s
}

var (
	n1 = nexusraft.Member{Replica: 1, Node: 0xa1, Name: "n1", Address: "h1:1", Role: nexusraft.RoleMember}
	n2 = nexusraft.Member{Replica: 2, Node: 0xa2, Name: "n2", Address: "h2:1", Role: nexusraft.RoleMember}
	n3 = nexusraft.Member{Replica: 3, Node: 0xa3, Name: "n3", Address: "h3:1", Role: nexusraft.RoleMember}
	w1 = nexusraft.Member{Replica: 9, Node: 0xc1, Name: "w1", Address: "hw:1", Role: nexusraft.RoleWitness}
)

func learner(m nexusraft.Member) nexusraft.Member {
	m.Role = nexusraft.RoleLearner
	return m
}

// reborn is n2 after its disk was lost: a new node with its old command line.
func reborn() nexusraft.Member {
	m := learner(n2)
	m.Replica, m.Node = 4, 0xb2
	return m
}

func (s *situation) leader() *nexusraft.ZoneStatus { return &s.answers[0].Status.Zones[0] }

// dies is a node that answers nobody, neither the leader nor us.
func (s *situation) dies(i int) *situation {
	s.unheard(i)
	return s.unreachable(i)
}

// unheard is a node that the leader does not hear.
func (s *situation) unheard(i int) *situation {
	s.leader().Replicas[i].Active = false
	return s
}

// unreachable is a node that does not answer here.
func (s *situation) unreachable(i int) *situation {
	s.answers[i] = client.Answer{Address: s.answers[i].Address, Err: errors.New("refused")}
	return s
}

// expired is a node that runs, and whose certificate nobody believes any more.
func (s *situation) expired(i int) *situation {
	s.dies(i)
	s.answers[i].Err = errors.New(`client: hw:1: connection error: desc = "transport: authentication handshake ` +
		`failed: nexusraft: refused: the certificate of nexus-raft://5902f57faa06782d/node/00000000000000c1 expired ` +
		`240h0m3s ago; renew it, or correct the clock of this machine if that is wrong"`)
	return s
}

func (s *situation) gate(state nexusraft.SyncState) *situation {
	s.leader().Sync = state
	return s
}

func (s *situation) behind(i int, entries nexusraft.Index) *situation {
	s.leader().Replicas[i].Match -= entries
	return s
}

func (s *situation) problem(i int, text string) *situation {
	s.answers[i].Status.Healthy, s.answers[i].Status.Problem = false, text
	return s
}

// linked gives each node that answers an account of its links with the others. Those in cut, as
// pairs of indexes, are not open.
func (s *situation) linked(cut ...[2]int) *situation {
	for i := range s.answers {
		if s.answers[i].Err != nil {
			continue
		}
		for j, m := range s.zone.Membership.Members {
			if i == j {
				continue
			}
			p := nexusraft.PeerStatus{Node: m.Node, Address: m.Address, Reached: true, Heard: s.answers[j].Err == nil}
			if slices.Contains(cut, [2]int{i, j}) || s.answers[j].Err != nil {
				p.Reached, p.Error = false, "connection refused"
			}
			if slices.Contains(cut, [2]int{j, i}) {
				p.Heard = false
			}
			s.answers[i].Status.Peers = append(s.answers[i].Status.Peers, p)
		}
	}
	return s
}

// stopped is a node whose replica of the zone has stopped.
func (s *situation) stopped(i int) *situation {
	s.unheard(i)
	s.answers[i].Status.Zones = nil
	return s.problem(i, "zone 1 has stopped on this node: apply panicked")
}

// leaderless is a zone in which nobody leads; the answers name a leader all the same if
// that is not 0.
func (s *situation) leaderless(named nexusraft.ReplicaID) *situation {
	for i, a := range s.answers {
		if a.Err != nil {
			continue
		}
		z := a.Status.Zones[0]
		z.State, z.Leader, z.Replicas, z.Sync = nexusraft.Follower, named, nil, nexusraft.SyncUnknown
		s.answers[i].Status.Zones = []nexusraft.ZoneStatus{z}
	}
	return s
}

func (s *situation) overtaken() *situation {
	for i := range s.answers[1:] {
		s.answers[i+1].Status.Zones[0].Term, s.answers[i+1].Status.Zones[0].Leader = 6, 0
	}
	return s
}

func TestAssess(t *testing.T) {
	for name, tc := range map[string]struct {
		s    *situation
		want string // a line that ends in \ goes on in the next one
	}{
		"all is well": {newSituation(n1, n2, w1), `
can lose any one of n1, n2, w1`},
		"a witness beside three members": {newSituation(n1, n2, n3, w1), `
can lose any one of n1, n2, n3, w1
do: remove witness w1: 3 members lose as many of them without it: nexus-raft member remove 00000000000000c1 \
--endpoints h1:1`},
		"all links work": {newSituation(n1, n2, w1).linked(), `
can lose any one of n1, n2, w1`},
		"the follower is dead, its links with it": {newSituation(n1, n2, w1).dies(1).linked(), `
can NOT lose n1, w1: n2 is silent
do: start n2 again (h2:1); if its disk is lost, start it on an empty directory with --join h1:1`},
		"the witness can't call the follower": {newSituation(n1, n2, w1).linked([2]int{2, 1}), `
can lose n2 or w1
can NOT lose n1: n2 and w1 have no link that works both ways
link: n2 can call w1, but w1 can't call n2: this link works one way only, which counts as cut; check \
firewalls between them, and that h2:1 is an address of n2 that w1 reaches: connection refused`},
		"the witness can't call the leader": {newSituation(n1, n2, w1).unheard(2).linked([2]int{2, 0}), `
can NOT lose n1, n2: w1 is silent
do: w1 answers here, but its leader does not hear it: check the network between it (hw:1) and h1:1
link: n1 can call w1, but w1 can't call n1: this link works one way only, which counts as cut; check \
firewalls between them, and that h1:1 is an address of n1 that w1 reaches: connection refused`},
		"the leader can't call the witness, which can't be asked": {
			newSituation(n1, n2, w1).unheard(2).linked([2]int{0, 2}).unreachable(2), `
can NOT lose n1, n2: w1 is silent
do: start w1 again (hw:1); if its disk is lost: nexus-raft member remove 00000000000000c1 --endpoints h1:1, \
then start it on an empty directory with --join
link: w1 can call n1, but n1 can't call w1: this link works one way only, which counts as cut; check \
firewalls between them, and that hw:1 is an address of w1 that n1 reaches: connection refused`,
		},
		"follower and witness don't reach each other": {newSituation(n1, n2, w1).linked([2]int{2, 1}, [2]int{1, 2}), `
can lose n2 or w1
can NOT lose n1: n2 and w1 have no link that works both ways
link: n2 (h2:1) and w1 (hw:1) can't call each other: check the network between them: connection refused`},
		"nobody leads, since links are broken": {
			newSituation(n1, n2, w1).leaderless(0).linked([2]int{1, 0}, [2]int{2, 0}, [2]int{2, 1}), `
can NOT lose n1, n2, w1: no node leads the zone
do: ask again in a second or two: an election may be under way
link: n1 can call n2, but n2 can't call n1: this link works one way only, which counts as cut; check \
firewalls between them, and that h1:1 is an address of n1 that n2 reaches: connection refused
link: n1 can call w1, but w1 can't call n1: this link works one way only, which counts as cut; check \
firewalls between them, and that h1:1 is an address of n1 that w1 reaches: connection refused
link: n2 can call w1, but w1 can't call n2: this link works one way only, which counts as cut; check \
firewalls between them, and that h2:1 is an address of n2 that w1 reaches: connection refused`,
		},
		"the follower is dead": {newSituation(n1, n2, w1).dies(1).gate(nexusraft.Degraded), `
can NOT lose n1, w1: n2 is silent
do: start n2 again (h2:1); if its disk is lost, start it on an empty directory with --join h1:1`},
		"the follower is dead, and no write has shown it": {newSituation(n1, n2, w1).dies(1), `
can NOT lose n1, w1: n2 is silent
do: start n2 again (h2:1); if its disk is lost, start it on an empty directory with --join h1:1`},
		"the leader does not hear the follower": {newSituation(n1, n2, w1).unheard(1).gate(nexusraft.Degraded), `
can NOT lose n1, w1: n2 is silent
do: n2 answers here, but its leader does not hear it: check the network between it (h2:1) and h1:1`},
		"the follower does not answer here, but to the leader": {newSituation(n1, n2, w1).unreachable(1), `
can lose any one of n1, n2, w1`},
		"the witness is dead": {newSituation(n1, n2, w1).dies(2), `
can NOT lose n1, n2: w1 is silent
do: start w1 again (hw:1); if its disk is lost: nexus-raft member remove 00000000000000c1 --endpoints h1:1, \
then start it on an empty directory with --join`},
		"the witness's certificate has expired": {newSituation(n1, n2, w1).expired(2), `
can NOT lose n1, n2: w1 is silent
do: wait: w1 (hw:1) runs, and its certificate has expired; it gets a new one from the first member that it \
reaches; if it does not, its log says why: nexus-raft token create --role witness, and start it again with \
--token-file`},
		"nobody leads, and the witness's certificate has expired": {
			newSituation(n1, n2, w1).unreachable(1).expired(2).leaderless(0), `
can NOT lose n1, n2, w1: no node leads the zone: 1 of 3 voters answer, and 2 are needed
do: wait: w1 (hw:1) runs, and its certificate has expired; it gets a new one from the first member that it \
reaches; if it does not, its log says why: nexus-raft token create --role witness, and start it again with \
--token-file
do: start n2 (h2:1) again: what was acknowledged last may be there alone`,
		},
		"degraded": {newSituation(n1, n2, w1).gate(nexusraft.Degraded).behind(1, 40), `
can lose n2
can NOT lose n1, w1: n2 is 40 entries behind, and the zone is degraded
do: wait: the zone is degraded, and will be in sync by itself once its members have the same log`},
		"closing": {newSituation(n1, n2, w1).gate(nexusraft.Closing), `
can lose n2
can NOT lose n1, w1: n2 is 0 entries behind, and the zone is closing
do: wait: the zone is closing, and will be in sync by itself once its members have the same log`},
		"a wiped member is back": {newSituation(n1, n2, w1, reborn()).dies(1).gate(nexusraft.Degraded), `
can NOT lose n1, w1: n2 is silent
do: n2 has come back with an empty disk, as a learner; give it its place again: nexus-raft member replace \
00000000000000a2 00000000000000b2 --endpoints h1:1`},
		"a learner could take a silent member's place": {
			newSituation(n1, n2, w1, learner(n3)).dies(1).gate(nexusraft.Degraded), `
can NOT lose n1, w1: n2 is silent
do: start n2 (00000000000000a2) again, or, if its disk is lost, put learner n3 in its place: nexus-raft \
member replace 00000000000000a2 00000000000000a3 --endpoints h1:1`,
		},
		"a learner is silent, too": {newSituation(n1, n2, w1, learner(n3)).dies(1).dies(3).gate(nexusraft.Degraded), `
can NOT lose n1, w1: n2 is silent
do: start n2 again (h2:1); if its disk is lost, start it on an empty directory with --join h1:1
do: start learner n3 again (h3:1), or give it up: nexus-raft member remove 00000000000000a3 --endpoints h1:1`},
		"a learner without a place": {newSituation(n1, n2, w1, learner(n3)), `
can lose any one of n1, n2, w1
do: learner n3 has no member's place to take, the zone has its 2: nexus-raft member replace OLD \
00000000000000a3 --endpoints h1:1, or nexus-raft member promote 00000000000000a3 --endpoints h1:1`},
		"a learner catches up": {newSituation(n1, learner(n2)).behind(1, 30), `
can NOT lose n1: it is the only member, and has the only copy
do: wait: learner n2 is 30 entries behind, and becomes a member by itself when it has caught up`},
		"a learner is sent a snapshot": {newSituation(n1, learner(n2)).behind(1, 100), `
can NOT lose n1: it is the only member, and has the only copy
do: wait: learner n2 has nothing of the log yet, as far as its leader knows, and becomes a member by itself \
when it has caught up`},
		"one node": {newSituation(n1), `
can NOT lose n1: it is the only member, and has the only copy
do: add a second member: nexus-raft serve --data-dir DIR --name NAME --listen HOST:PORT --join h1:1`},
		"two members, no witness": {newSituation(n1, n2), `
can NOT lose n1, n2: 1 of 2 voters would be left, and 2 are needed
do: add a witness: nexus-witness --data-dir DIR --name NAME --listen HOST:PORT --join h1:1`},
		"three members": {newSituation(n1, n2, n3).gate(nexusraft.Degraded), `
can lose any one of n1, n2, n3`},
		"three members, one dead": {newSituation(n1, n2, n3).dies(2), `
can NOT lose n1, n2: n3 is silent
do: start n3 again (h3:1); if its disk is lost, start it on an empty directory with --join h1:1`},
		"the leader's disk is full": {newSituation(n1, n2, w1).problem(0, "disk full: D1 has 3 MiB, reserve 128 MiB"), `
can NOT lose n2, w1: n1 is not healthy (disk full: D1 has 3 MiB, reserve 128 MiB)
do: free disk space on n1 (h1:1): disk full: D1 has 3 MiB, reserve 128 MiB`},
		"the follower is not healthy": {newSituation(n1, n2, w1).problem(1, "a sync has taken 9s"), `
can NOT lose n1, w1: n2 is not healthy (a sync has taken 9s)
do: see to n2 (h2:1): a sync has taken 9s`},
		"the zone has stopped on the follower": {newSituation(n1, n2, w1).stopped(1).gate(nexusraft.Degraded), `
can NOT lose n1, w1: n2 is not healthy (zone 1 has stopped on this node: apply panicked)
do: see to n2 (h2:1): zone 1 has stopped on this node: apply panicked`},
		"nobody leads": {newSituation(n1, n2, w1).leaderless(0), `
can NOT lose n1, n2, w1: no node leads the zone
do: ask again in a second or two: an election may be under way`},
		"nobody can lead": {newSituation(n1, n2, w1).unreachable(0).unreachable(2).leaderless(0), `
can NOT lose n1, n2, w1: no node leads the zone: 1 of 3 voters answer, and 2 are needed
do: start n1 (h1:1), w1 (hw:1) again: what was acknowledged last may be there alone`},
		"the leader is out of reach": {newSituation(n1, n2, w1).unreachable(0).leaderless(1), `
can NOT lose n1, n2, w1: n1 leads the zone, the others say, but does not answer here
do: ask again in a second or two: an election may be under way; if n1 leads on, ask from where h1:1 can be reached
do: if no leader is found, start n1 (h1:1) again: what was acknowledged last may be there alone`},
		"the leader has been overtaken": {newSituation(n1, n2, w1).overtaken(), `
can NOT lose n1, n2, w1: no node leads the zone
do: ask again in a second or two: an election may be under way`},
	} {
		t.Run(name, func(t *testing.T) {
			zones, others := Zones(tc.s.answers)
			if len(zones) != 1 || len(others) != 0 {
				t.Fatalf("got %d zones and %d other answers, want one zone", len(zones), len(others))
			}
			got := Assess(zones[0])
			want := strings.ReplaceAll(strings.TrimPrefix(tc.want, "\n"), "\\\n", "")
			if d := cmp.Diff(want, strings.Join(got.Lines(), "\n")); d != "" {
				t.Errorf("report (-want +got):\n%s", d)
			}
			if want := strings.HasPrefix(tc.want, "\ncan lose any one"); got.Any != want {
				t.Errorf("can lose any one: got %t, want %t", got.Any, want)
			}
		})
	}
}

func TestUnsettled(t *testing.T) {
	for name, tc := range map[string]struct {
		s    *situation
		want bool
	}{
		"all is well":                  {newSituation(n1, n2, w1), false},
		"the follower is dead":         {newSituation(n1, n2, w1).dies(1), false},
		"the follower has died now":    {newSituation(n1, n2, w1).unreachable(1), true},
		"the leader does not hear one": {newSituation(n1, n2, w1).unheard(1), true},
		"a link is broken":             {newSituation(n1, n2, w1).linked([2]int{2, 1}), true},
		"nobody leads":                 {newSituation(n1, n2, w1).leaderless(0), true},
	} {
		zones, _ := Zones(tc.s.answers)
		if got := zones[0].Unsettled(); got != tc.want {
			t.Errorf("%s: got %t, want %t", name, got, tc.want)
		}
	}
}

// Answers that no zone's table has a row for are shown all the same.
func TestOtherAnswers(t *testing.T) {
	s := newSituation(n1, n2, w1)
	stranger := client.Answer{Address: "h9:1", Status: nexusraft.NodeStatus{
		Node: 0xf9, Name: "n9",
		Problem: "not admitted",
	}}
	nobody := client.Answer{Address: "h8:1", Err: errors.New("client: h8:1: refused")}
	_, others := Zones(append(s.answers, stranger, nobody))
	var got []string
	for _, a := range others {
		got = append(got, a.Address+": "+otherText(a))
	}
	want := []string{
		"h9:1: member n9 (00000000000000f9), which is in none of the zones above: not admitted",
		"h8:1: no answer: refused",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("others (-want +got):\n%s", d)
	}
}
