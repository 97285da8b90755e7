package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestFindNode(t *testing.T) {
	member := func(replica nexusraft.ReplicaID, node nexusraft.NodeID, name string, role nexusraft.Role) nexusraft.Member {
		return nexusraft.Member{Replica: replica, Node: node, Name: name, Address: "h:1", Role: role}
	}
	var m nexusraft.Membership
	for _, x := range []nexusraft.Member{
		member(1, 0xaaaa1111_00000000, "n1", nexusraft.RoleMember),
		member(2, 0xaaaa2222_00000000, "n2", nexusraft.RoleMember),
		member(3, 0xbbbb3333_00000000, "n2", nexusraft.RoleLearner),
		member(4, 0xcccc4444_00000000, "bbbb", nexusraft.RoleWitness),
		member(5, 0xdddd5555_00000000, "", nexusraft.RoleLearner),
	} {
		m = m.With(x)
	}
	for _, tc := range []struct {
		name string
		fits func(nexusraft.Member) bool
		want nexusraft.ReplicaID
		says string
	}{
		{"n1", anyReplica, 1, ""},
		{"aaaa111100000000", anyReplica, 1, ""},
		{"AAAA1", anyReplica, 1, ""},
		{"n2", isVoter, 2, ""},
		{"n2", isLearner, 3, ""},
		{"bbbb", isLearner, 4, ""}, // a name counts more than an ID's beginning
		{"bbbb3", isLearner, 3, ""},
		{"dddd", isMember, 5, ""}, // what it names is clear: the zone says what is wrong with it
		{"n2", anyReplica, 0, "n2 may mean any of member n2 (aaaa222200000000), learner n2 (bbbb333300000000); give its ID"},
		{"aaaa", isVoter, 0, "aaaa may mean any of member n1 (aaaa111100000000), member n2 (aaaa222200000000); give its ID"},
		{"ddd", anyReplica, 0, "no node of the zone has the name ddd, or an ID that begins with it; there are member n1 " +
			"(aaaa111100000000), member n2"},
		{"n9\x1b", anyReplica, 0, `the name "n9\x1b", or`},
		{"", anyReplica, 0, "learner node dddd555500000000"},
	} {
		got, err := findNode(m, tc.name, tc.fits)
		if got.Replica != tc.want || (err == nil) != (tc.says == "") || err != nil &&
			!strings.Contains(err.Error(), tc.says) {
			t.Errorf("%q: got replica %d, %v; want %d, %q", tc.name, got.Replica, err, tc.want, tc.says)
		}
	}
}

// An error about keys or members ends with the way out.
func TestWaysOut(t *testing.T) {
	for _, tc := range []struct {
		err  error
		add  func(error) error
		want string
	}{
		{nexusraft.ErrUncertain, explain, "; read the key before you write it again"},
		{nexusraft.ErrZoneNotFound, explain, "; nexus-raft zone list shows which zones there are"},
		{nexusraft.ErrTooLarge, explain, "; the limits are 4096 bytes for a key, and 1572864 for key and value with their " +
			"frame"},
		{nexusraft.ErrDiskFull, explain, "; nothing was written; nexus-raft status shows whose disk is full"},
		{nexusraft.ErrNotLeader, explain, ""},
		{nexusraft.ErrUncertain, howToAsk, ": nexus-raft member list"},
		{nexusraft.ErrRefused, howToAsk, ""},
	} {
		got := tc.add(fmt.Errorf("put: %w", tc.err))
		if want := "put: " + tc.err.Error() + tc.want; got.Error() != want || !errors.Is(got, tc.err) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestWaitingIsToldOnceASecond(t *testing.T) {
	var out bytes.Buffer
	say := sayWhy(&out)
	for _, reason := range []string{"client: n3 is 9 behind", "client: n3 is 8 behind", "client: n3 is 8 behind"} {
		say(errors.New(reason))
	}
	if got, want := out.String(), "waiting: n3 is 9 behind\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Everything that an operator does to a zone's members, on a real one.
func TestMembersByHand(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.put(t, "k", "v")
	operate := func(args ...string) string {
		t.Helper()
		status, stdout, stderr := command(t, append(args, "--endpoints", c.aw+","+c.a2)...)
		if status != exitOK {
			t.Fatalf("%q: status %d, %s%s", args, status, stdout, stderr)
		}
		return stdout
	}
	refused := func(says string, args ...string) {
		t.Helper()
		status, stdout, stderr := command(t, append(args, "--endpoints", c.aw)...)
		if status != exitFailed || stdout != "" || !strings.Contains(stderr, says) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: got status %d, %q, %q; want %q in a line", args, status, stdout, stderr, says)
		}
	}
	eventually(t, "the witness is heard", func() bool {
		status, _, _ := command(t, "status", "--check", "--endpoints", c.a2)
		return status == exitOK
	})
	if got := operate("status", "--check"); !strings.Contains(got, "in sync since") ||
		!strings.Contains(got, "can lose any one of n1, n2, w1") {
		t.Errorf("status: got\n%s", got)
	}
	roles := make(map[string]nexusraft.Role)
	for line := range strings.Lines(operate("member", "list", "--json")) {
		var x listed
		if err := json.Unmarshal([]byte(line), &x); err != nil || !x.Active || x.Node == 0 || x.Leader != (x.Name == "n1") {
			t.Errorf("member list: got %q, %v; want active replicas, n1 the leader", line, err)
		}
		roles[x.Name] = x.Role
	}
	if d := cmp.Diff(map[string]nexusraft.Role{
		"n1": nexusraft.RoleMember, "n2": nexusraft.RoleMember,
		"w1": nexusraft.RoleWitness,
	}, roles); d != "" {
		t.Errorf("member list (-want +got):\n%s", d)
	}
	refused("witness", "transfer", "w1")
	refused("n1", "member", "remove", "n9")
	refused("already", "member", "promote", "n2")
	if got := operate("transfer", "n2"); !strings.HasPrefix(got, "n2 (") || !strings.HasSuffix(got, ") leads\n") {
		t.Errorf("transfer n2: got %q", got)
	}
	var moved struct{ Name string }
	if err := json.Unmarshal([]byte(operate("transfer", "--json")), &moved); err != nil || moved.Name != "n1" {
		t.Errorf("transfer: got %+v, %v; want n1, the only other member", moved, err)
	}
	c.wants(t, "k", "v")
	got := operate("member", "remove", "w1")
	for _, want := range []string{"removed w1 (", "LEADER", "can NOT lose n1, n2", "add a witness: nexus-witness"} {
		if !strings.Contains(got, want) {
			t.Errorf("member remove w1: got\n%swant %q in it", got, want)
		}
	}
	if status, _, stderr := command(t, "status", "--check", "--endpoints", c.a1); status != exitFailed ||
		!strings.Contains(stderr, "can't lose any one node now: zone 1") {
		t.Errorf("status --check without a witness: got %d, %q; want a failure", status, stderr)
	}
}

// A witness comes back and advertises an address at which nobody listens: it calls both members,
// and neither calls it.
func TestStatusNamesBrokenLinks(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.w1.stop(t)
	dead := freeAddress(t)
	c.w1 = c.witness(t, "--advertise", dead)
	var last string
	want := func(member string) string {
		return fmt.Sprintf("\nlink: w1 can call %s, but %s can't call w1: this link works one way only, which counts as cut;"+
			" check firewalls between them, and that %s is an address of w1 that %s reaches: connect to %s:", member, member,
			dead, member, dead)
	}
	eventually(t, "status names both links", func() bool {
		_, last, _ = command(t, "status", "--endpoints", c.endpoints()+","+c.aw)
		return strings.Contains(last, want("n1")) && strings.Contains(last, want("n2"))
	})
	if !strings.Contains(last, "can NOT lose n1, n2") {
		t.Errorf("status promises too much:\n%s", last)
	}
	var report report
	_, last, _ = command(t, "status", "--json", "--endpoints", c.aw)
	if err := json.Unmarshal([]byte(last), &report); err != nil || len(report.Zones) != 1 ||
		len(report.Zones[0].Links) != 2 {
		t.Fatalf("got %+v, %v; want two links in\n%s", report, err, last)
	}
	for _, a := range report.Answers {
		if a.Endpoint == c.aw && (len(a.Status.Peers) != 2 || !a.Status.Peers[0].OneWay() || !a.Status.Peers[1].Reached) {
			t.Errorf("the witness says of its peers %+v", a.Status.Peers)
		}
	}
	c.w1.stop(t)
	c.w1 = c.witness(t)
	eventually(t, "all links work", func() bool {
		status, stdout, _ := command(t, "status", "--check", "--endpoints", c.endpoints())
		return status == exitOK && !strings.Contains(stdout, "link:")
	})
}

func TestNeedIn(t *testing.T) {
	zone := nexusraft.ZoneStatus{Leader: 1}
	for id, role := range []nexusraft.Role{
		nexusraft.RoleMember, nexusraft.RoleMember, nexusraft.RoleWitness, nexusraft.RoleLearner,
	} {
		zone.Membership = zone.Membership.With(nexusraft.Member{
			Replica: nexusraft.ReplicaID(id + 1), Node: nexusraft.NodeID(id + 1), Role: role,
		})
	}
	for _, tc := range []struct {
		what   string
		change nexusraft.MembershipChange
		want   need
	}{
		{"remove a member", nexusraft.MembershipChange{Remove: 2}, changeNeeded},
		{"remove the leader", nexusraft.MembershipChange{Remove: 1}, transferNeeded},
		{"remove the witness", nexusraft.MembershipChange{Remove: 3}, changeNeeded},
		{"remove what is not there", nexusraft.MembershipChange{Remove: 9}, nothingNeeded},
		{"replace", nexusraft.MembershipChange{Replace: 2, With: 4}, changeNeeded},
		{"replace the leader", nexusraft.MembershipChange{Replace: 1, With: 4}, transferNeeded},
		{"replace by what is to come", nexusraft.MembershipChange{Replace: 2, With: 9}, learnerNeeded},
		{"replaced already", nexusraft.MembershipChange{Replace: 9, With: 2}, nothingNeeded},
		{"promote", nexusraft.MembershipChange{Promote: 4}, changeNeeded},
		{"promoted already", nexusraft.MembershipChange{Promote: 2}, nothingNeeded},
		{"promote what is to come", nexusraft.MembershipChange{Promote: 9}, learnerNeeded},
	} {
		if got := needIn(zone, tc.change); got != tc.want {
			t.Errorf("%s: got %v, want %v", tc.what, got, tc.want)
		}
	}
}
