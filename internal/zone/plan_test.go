package zone

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// standing is what replica 1 knows as it leads: commit is 100, and a replica that has the log up
// to 90 has caught up.
func standing(members nexusraft.Membership, missing ...nexusraft.ReplicaID) planner {
	s := planner{self: 1, members: members, commit: 100, recent: 90, seen: make(map[nexusraft.ReplicaID]seen)}
	for _, m := range members.Members {
		s.seen[m.Replica] = seen{match: 95, active: true}
	}
	for _, id := range missing {
		s.seen[id] = seen{match: 50}
	}
	return s
}

func (s planner) behind(id nexusraft.ReplicaID) planner {
	s.seen[id] = seen{match: 50, active: true}
	return s
}

// zoneOf makes records: replicas 1, 2, … of these roles.
func zoneOf(roles ...nexusraft.Role) nexusraft.Membership {
	m := nexusraft.Membership{Shape: nexusraft.DefaultShape}
	for i, role := range roles {
		m = m.With(record(uint64(i+1), role))
	}
	return m
}

func record(id uint64, role nexusraft.Role) nexusraft.Member {
	return nexusraft.Member{Replica: nexusraft.ReplicaID(id), Node: nodeOf(id), Role: role, Address: "127.0.0.1:1"}
}

func nodeOf(id uint64) nexusraft.NodeID { return nexusraft.NodeID(100 + id) }

const (
	member  = nexusraft.RoleMember
	learner = nexusraft.RoleLearner
	watcher = nexusraft.RoleWitness
)

func remove(id uint64) nexusraft.MembershipChange {
	return nexusraft.MembershipChange{Remove: nodeOf(id)}
}

func promote(id uint64) nexusraft.MembershipChange {
	return nexusraft.MembershipChange{Promote: nodeOf(id)}
}

func replace(id, by uint64) nexusraft.MembershipChange {
	return nexusraft.MembershipChange{Replace: nodeOf(id), With: nodeOf(by)}
}

func TestPlanRefuses(t *testing.T) {
	founder, usual := zoneOf(member), zoneOf(member, member, watcher)
	guest := zoneOf(member, member, watcher, learner)
	three, four := zoneOf(member, member, member), zoneOf(member, member, watcher, member)
	joint := standing(guest)
	joint.joint = true
	const refused, early = "refused", "not yet"
	for _, tt := range []struct {
		name   string
		s      planner
		change nexusraft.MembershipChange
		want   []string
	}{
		{"remove an unknown node", standing(usual), remove(8), []string{refused, "member list"}},
		{"remove a node again", standing(guest.Without(4)), remove(4), []string{refused, "was removed"}},
		{"remove the last member", standing(founder), remove(1), []string{refused, "last member"}},
		{"remove the leader", standing(three), remove(1), []string{refused, "leads the zone", "nexus-raft transfer " +
			"0000000000000066"}},
		{
			"remove the leader, nobody to lead", standing(four, 2, 4), remove(1),
			[]string{refused, "no other member is active"},
		},
		{"remove a member of 2+1", standing(usual), remove(2), []string{
			refused, "1 of 2 voters",
			"member replace 0000000000000066 NEW", "remove the witness",
		}},
		{
			"remove the witness, a member is silent", standing(usual, 2), remove(3),
			[]string{refused, "would have no quorum", "start node 0000000000000066"},
		},
		{
			"remove the witness, a member is behind", standing(usual).behind(2), remove(3),
			[]string{early, "50 entries behind"},
		},
		{"remove without a quorum now", standing(four, 2, 3), remove(4), []string{refused, "zone has no quorum"}},
		{"remove the member that has the data", standing(four).behind(2), remove(4), []string{early, "50 entries behind"}},
		{"remove a learner without a quorum", standing(guest, 2, 3), remove(4), []string{refused, "no quorum"}},
		{"promote an unknown node", standing(usual), promote(8), []string{refused, "no replica"}},
		{"promote a member", standing(usual), promote(2), []string{refused, "member already"}},
		{"promote a witness", standing(usual), promote(3), []string{refused, "witness already"}},
		{
			"promote while a member is silent", standing(guest, 2), promote(4),
			[]string{refused, "member replace 0000000000000066 0000000000000068"},
		},
		{"promote a silent learner", standing(guest, 4), promote(4), []string{early, "silent"}},
		{"promote a learner that is behind", standing(guest).behind(4), promote(4), []string{early, "50 entries behind"}},
		{"replace a witness", standing(guest), replace(3, 4), []string{refused, "member remove 0000000000000067", "--join"}},
		{"replace a learner", standing(guest), replace(4, 2), []string{refused, "learner"}},
		{"replace the leader", standing(guest), replace(1, 4), []string{refused, "transfer 0000000000000066"}},
		{"replace an unknown node", standing(guest), replace(8, 4), []string{refused, "no replica"}},
		{"replace by an unknown node", standing(guest), replace(2, 8), []string{refused, "no replica"}},
		{"replace by a member", standing(four), replace(2, 4), []string{refused, "already"}},
		{"replace by a silent learner", standing(guest, 4), replace(2, 4), []string{early, "silent"}},
		{"replace by one that is behind", standing(guest, 2).behind(4), replace(2, 4), []string{early, "50 entries behind"}},
		{"replace without a witness", standing(guest, 2, 3), replace(2, 4), []string{refused, "no quorum"}},
		{"anything in a joint configuration", joint, remove(4), []string{early, "under way"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.s.plan(tt.change)
			if diff := cmp.Diff(ConfChange{}, got); diff != "" {
				t.Errorf("it plans something (-want +got):\n%s", diff)
			}
			for _, text := range tt.want {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("got error %v, want one with %q", err, text)
				}
			}
			sentinel := nexusraft.ErrRefused
			if tt.want[0] == early {
				sentinel = nexusraft.ErrOverloaded
			}
			if !errors.Is(err, sentinel) {
				t.Errorf("got error %v, want %v", err, sentinel)
			}
		})
	}
}

func TestPlan(t *testing.T) {
	guest, four := zoneOf(member, member, watcher, learner), zoneOf(member, member, watcher, member)
	set := func(id uint64) []nexusraft.Member { return []nexusraft.Member{record(id, member)} }
	gone := func(id nexusraft.ReplicaID) []nexusraft.ReplicaID { return []nexusraft.ReplicaID{id} }
	for _, tt := range []struct {
		name   string
		s      planner
		change nexusraft.MembershipChange
		want   ConfChange
	}{
		{"remove a learner, a member and itself silent", standing(guest, 2, 4), remove(4), ConfChange{Remove: gone(4)}},
		{"remove a silent member of 3+1", standing(four, 2), remove(2), ConfChange{Remove: gone(2)}},
		{"remove a silent witness", standing(zoneOf(member, member, watcher), 3), remove(3), ConfChange{Remove: gone(3)}},
		{"promote, the witness silent", standing(guest, 3), promote(4), ConfChange{Set: set(4)}},
		{"replace a silent member", standing(guest, 2), replace(2, 4), ConfChange{Set: set(4), Remove: gone(2)}},
		{"replace a healthy member", standing(guest), replace(2, 4), ConfChange{Set: set(4), Remove: gone(2)}},
	} {
		got, err := tt.s.plan(tt.change)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestPlanTransfer(t *testing.T) {
	guest := zoneOf(member, member, watcher, learner)
	for _, tt := range []struct {
		name string
		s    planner
		to   nexusraft.NodeID
		want nexusraft.ReplicaID
		err  string
	}{
		{"to the best", standing(guest), 0, 2, ""},
		{"to a member", standing(guest), nodeOf(2), 2, ""},
		{"to the leader", standing(guest), nodeOf(1), 1, ""},
		{"to the witness", standing(guest), nodeOf(3), 0, "a witness never leads"},
		{"to a learner", standing(guest), nodeOf(4), 0, "only members lead"},
		{"to nobody known", standing(guest), nodeOf(8), 0, "no replica"},
		{"to a silent member", standing(guest, 2), nodeOf(2), 0, "silent"},
		{"to the best, all silent", standing(guest, 2), 0, 0, "no other member is active"},
		{"to one that is behind", standing(guest).behind(2), nodeOf(2), 0, "not yet: node 0000000000000066 is 50 entries " +
			"behind"},
	} {
		got, err := tt.s.transfer(tt.to)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: got %v, %v, want %v, %q", tt.name, got, err, tt.want, tt.err)
		}
	}
	best := zoneOf(member, member, member)
	s := standing(best)
	s.seen[3] = seen{match: 99, active: true}
	if m, ok := s.transferee(); !ok || m.Replica != 3 {
		t.Errorf("the transferee is %v, want the one that has most of the log", m)
	}
}

// TestPlanKeepsTheZone: whatever is planned for whatever zone, a quorum is active before and
// after, made of replicas that hold what is committed as far as they are members, and the
// leader stays.
func TestPlanKeepsTheZone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		roles := []nexusraft.Role{member}
		roles = append(roles, rapid.SliceOfN(rapid.SampledFrom([]nexusraft.Role{member, member, learner, watcher}), 0,
			5).Draw(t, "roles")...)
		s := standing(zoneOf(roles...))
		if w := s.members.Count(watcher); 2*w >= voters(s.members) {
			t.Skip("no such zone")
		}
		for id := range s.seen {
			if id != s.self {
				s.seen[id] = seen{
					match:  nexusraft.Index(rapid.IntRange(80, 100).Draw(t, "match")),
					active: rapid.Bool().Draw(t, "active"),
				}
			}
		}
		node := func(name string) uint64 { return uint64(rapid.IntRange(1, len(roles)).Draw(t, name)) }
		change := rapid.SampledFrom([]nexusraft.MembershipChange{
			remove(node("remove")), promote(node("promote")), replace(node("old"), node("new")),
		}).Draw(t, "change")
		plan, err := s.plan(change)
		if err != nil {
			return
		}
		next := s.members
		for _, id := range plan.Remove {
			next = next.Without(id)
		}
		for _, m := range plan.Set {
			next = next.With(m)
		}
		if _, ok := next.Replica(s.self); !ok {
			t.Fatalf("%v removes the leader", change)
		}
		for _, m := range []nexusraft.Membership{s.members, next} {
			active := 0
			for _, x := range m.Members {
				if x.Role.Voter() && s.seen[x.Replica].active {
					active++
				}
			}
			if active < quorum(m) {
				t.Fatalf("%v: %d of %d voters are active", change, active, voters(m))
			}
		}
		if 2*next.Count(watcher) >= voters(next) {
			t.Fatalf("%v: witnesses are half of the voters", change)
		}
		for _, m := range plan.Set {
			if !s.caughtUp(m) {
				t.Fatalf("%v: %v has not caught up", change, m)
			}
		}
	})
}

func TestFollow(t *testing.T) {
	replicaOf := func(n nexusraft.NodeID) nexusraft.ReplicaID { return nexusraft.ReplicaID(n) + 1000 }
	joint := standing(zoneOf(member))
	joint.joint = true
	pair, whole, none := zoneOf(member, member), zoneOf(member, member, watcher), nexusraft.Member{}
	for _, tt := range []struct {
		name string
		zone planner
		root nexusraft.Membership
		want nexusraft.Member // of the node that is to come
	}{
		{"all are in", standing(whole), whole, none},
		{"a member comes as a learner", standing(zoneOf(member)), pair, record(2, learner)},
		{"so does a learner", standing(pair), zoneOf(member, member, learner), record(3, learner)},
		{"a witness waits for the second member", standing(zoneOf(member, learner)), whole, none},
		{"and comes after it", standing(pair), whole, record(3, watcher)},
		{"a second witness has no room", standing(whole), zoneOf(member, member, watcher, watcher), none},
		{"a removed node does not come back", standing(pair.Without(2)), pair, none},
		{"nothing between two configurations", joint, pair, none},
		{"a node that the root zone has lost stays", standing(pair), zoneOf(member), none},
	} {
		if tt.want.Node != 0 {
			tt.want.Replica = replicaOf(tt.want.Node)
		}
		got, ok := tt.zone.follow(tt.root, replicaOf)
		if diff := cmp.Diff(tt.want, got); diff != "" || ok != (tt.want.Node != 0) {
			t.Errorf("%s: got %t (-want +got):\n%s", tt.name, ok, diff)
		}
	}
}
