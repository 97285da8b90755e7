package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

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
		{"ddd", anyReplica, 0, "no node of the zone is called ddd, and no ID begins so; there are member n1 (aaaa111100000000), member n2"},
		{"n9\x1b", anyReplica, 0, `called "n9\x1b", and`},
		{"", anyReplica, 0, "learner node dddd555500000000"},
	} {
		got, err := findNode(m, tc.name, tc.fits)
		if got.Replica != tc.want || (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
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
		{nexusraft.ErrZoneNotFound, explain, "; nexus-raft status shows which zones there are"},
		{nexusraft.ErrTooLarge, explain, "; the limits are 4096 bytes for a key, and 1572864 for key and value with their frame"},
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

// The table of a zone that has everything that a table can show.
func TestPrintZone(t *testing.T) {
	s := newSituation(n1, n2, w1, reborn()).dies(1).gate(nexusraft.Degraded).behind(3, 7).behind(1, 20)
	s.leader().SyncSince = time.Now().Add(-5 * time.Minute)
	s.answers[0].Status.DiskBytes = 3 << 20
	s.answers[1] = s.answers[3] // the new node serves at the address of the old one
	s.problem(2, "its disk may be stalled")
	views, _ := zoneViews(s.answers)
	var out bytes.Buffer
	if err := printZone(&out, views[0]); err != nil {
		t.Fatal(err)
	}
	head, table, _ := strings.Cut(out.String(), "\n")
	if !strings.HasPrefix(head, "zone 1 of cluster 0000000000000007: DEGRADED since ") || !strings.HasSuffix(head, " (5m0s), from index 90 on writes may be on one copy only") {
		t.Errorf("head: got %q", head)
	}
	want := `NAME  NODE      ROLE     STATE     TERM  COMMIT  APPLIED  LAG  DISK   ADDRESS  HEALTH
n1    00000000  member   LEADER    5     100     100      0    3 MiB  h1:1     healthy
n2    00000000  member   SILENT    -     -       -        20   -      h2:1     does not answer; its address is now node 00000000
n2    00000000  learner  follower  5     0       100      7    0 B    h2:1     healthy
w1    00000000  witness  follower  5     0       100      0    0 B    hw:1     PROBLEM: its disk may be stalled
`
	if d := cmp.Diff(want, table); d != "" {
		t.Errorf("table (-want +got):\n%s", d)
	}
}

func TestSizes(t *testing.T) {
	for bytes, want := range map[int64]string{0: "0 B", 1023: "1023 B", 1 << 10: "1 KiB", 5<<20 + 1: "5 MiB", 3 << 29: "1.5 GiB"} {
		if got := size(bytes); got != want {
			t.Errorf("%d: got %s, want %s", bytes, got, want)
		}
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
	if got := operate("status", "--check"); !strings.Contains(got, "in sync since") || !strings.Contains(got, "can lose any one of n1, n2, w1") {
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
	if d := cmp.Diff(map[string]nexusraft.Role{"n1": nexusraft.RoleMember, "n2": nexusraft.RoleMember, "w1": nexusraft.RoleWitness}, roles); d != "" {
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
	if status, _, stderr := command(t, "status", "--check", "--endpoints", c.a1); status != exitFailed || !strings.Contains(stderr, "can't lose any one node now: zone 1") {
		t.Errorf("status --check without a witness: got %d, %q; want a failure", status, stderr)
	}
}
