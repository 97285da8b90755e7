package availability

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// The table of a zone that has everything that a table can show.
func TestPrintZone(t *testing.T) {
	s := newSituation(n1, n2, w1, reborn()).dies(1).gate(nexusraft.Degraded).behind(3, 7).behind(1, 20)
	s.leader().SyncSince = time.Now().Add(-5 * time.Minute)
	s.answers[0].Status.DiskBytes = 3 << 20
	s.answers[1] = s.answers[3] // the new node serves at the address of the old one
	s.problem(2, "its disk may be stalled")
	zones, _ := Zones(s.answers)
	var out bytes.Buffer
	if err := zones[0].print(&out); err != nil {
		t.Fatal(err)
	}
	head, table, _ := strings.Cut(out.String(), "\n")
	if !strings.HasPrefix(head, "zone root (1) of cluster 0000000000000007: DEGRADED since ") ||
		!strings.HasSuffix(head, " (5m0s), from index 90 on writes may be on one copy only") {
		t.Errorf("head: got %q", head)
	}
	const rehoused = "does not answer; its address is now node 00000000"
	want := `NAME  NODE      ROLE     STATE     TERM  COMMIT  APPLIED  LAG  DISK   ADDRESS  HEALTH
n1    00000000  member   LEADER    5     100     100      0    3 MiB  h1:1     healthy
n2    00000000  member   SILENT    -     -       -        20   -      h2:1     ` + rehoused + `
n2    00000000  learner  follower  5     0       100      7    0 B    h2:1     healthy
w1    00000000  witness  follower  5     0       100      0    0 B    hw:1     PROBLEM: its disk may be stalled
`
	if d := cmp.Diff(want, table); d != "" {
		t.Errorf("table (-want +got):\n%s", d)
	}
}

// Records that are stored already may hold anything: whatever a node calls itself, and wherever it
// says that it is, nothing that is printed drives a terminal or adds a line.
func TestNothingOddIsPrinted(t *testing.T) {
	odd, lie := n2, w1
	odd.Name, odd.Address = "n2\x1b[2J", "h2:1\x1b]0;owned\a"
	lie.Name, lie.Address = "w1\ncan lose any one of n1", "hw:1\ndo: nexus-raft member remove n1"
	for what, s := range map[string]*situation{
		"all answer":    newSituation(n1, odd, lie),
		"two are dead":  newSituation(n1, odd, lie).dies(1).dies(2),
		"nobody leads":  newSituation(n1, odd, lie).unreachable(1).leaderless(2),
		"an odd leader": newSituation(odd, n1, lie).dies(1),
		"a problem":     newSituation(n1, odd, lie).problem(1, "disk full\x1b[2J\ndo: x"),
		"a learner":     newSituation(n1, learner(odd), lie),
	} {
		s.answers = append(s.answers, client.Answer{Address: odd.Address, Err: errors.New("client: x\x1b[2J\ndo: y")})
		zones, others := Zones(s.answers)
		var out bytes.Buffer
		if err := Print(&out, zones, others, false); err != nil {
			t.Fatal(err)
		}
		if err := zones[0].PrintMembers(&out); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			line = strings.TrimSuffix(line, "\n")
			fake := strings.HasPrefix(line, "do: nexus-raft member remove n1") || line == "do: x" || line == "do: y" ||
				line == "can lose any one of n1"
			if fake || strings.ContainsFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%s: %q is printed", what, line)
			}
		}
	}
}

func TestSnapshotsText(t *testing.T) {
	list := []nexusraft.SnapshotStatus{
		{Peer: 0xabcdef0123456789, Sending: true, Bytes: 31 << 20},
		{Peer: 0x1234567812345678, Bytes: math.MaxUint64},
	}
	if got, want := snapshotsText(list[:1]), "; snapshot to abcdef01: 31 MiB"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := snapshotsText(list[1:]), "; snapshot from 12345678: 8589934592.0 GiB"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
