package availability

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TestVersionLines: nodes that speak different versions of the protocol are named, once for all zones, and
// so are those that speak less than the cluster has.
func TestVersionLines(t *testing.T) {
	const (
		silent = 99
		finish = ": finish the update"
	)
	for name, tc := range map[string]struct {
		minors  [3]uint32 // of n1, n2, w1
		cluster uint32    // as n1 knows it
		want    string
	}{
		"all the same":          {[3]uint32{4, 4, 4}, 3, ""},
		"all the same, raised":  {[3]uint32{4, 4, 4}, 4, ""},
		"all of an earlier one": {[3]uint32{0, 0, 0}, 0, ""},
		"all newer than that":   {[3]uint32{5, 5, 5}, 4, ""},
		"one is silent":         {[3]uint32{4, silent, 4}, 3, ""},
		"none is heard":         {[3]uint32{silent, silent, silent}, 0, ""},
		"one is of an earlier one": {
			[3]uint32{4, 0, 4}, 3, "n2 speaks a version before 4, n1, w1 speak version 4" + finish,
		},
		"one was updated first": {
			[3]uint32{0, 0, 4}, 0, "n1, n2 speak a version before 4, w1 speaks version 4" + finish,
		},
		"three of them": {
			[3]uint32{5, 4, 6}, 4, "n2 speaks version 4, n1 speaks version 5, w1 speaks version 6" + finish,
		},
		"an earlier one put back": {
			[3]uint32{4, 0, 4},
			4,
			"n2 speaks a version before 4, and the cluster has version 4: install the newest release there",
		},
		"two of them, of a later cluster": {
			[3]uint32{6, 5, 5}, 6, "n2, w1 speak version 5, and the cluster has version 6: install the newest release there",
		},
		"an update of a raised cluster": {
			[3]uint32{5, 4, 5}, 4, "n2 speaks version 4, n1, w1 speak version 5" + finish,
		},
	} {
		s := newSituation(n1, n2, w1)
		for i, minor := range tc.minors {
			if minor == silent {
				s.answers[i].Err, s.answers[i].Status = errors.New("no answer"), nexusraft.NodeStatus{}
				continue
			}
			s.answers[i].Status.Minor = minor
			other := s.answers[i].Status.Zones[0]
			other.Zone = 2
			s.answers[i].Status.Zones = append(s.answers[i].Status.Zones, other)
		}
		if s.answers[0].Err == nil {
			s.answers[0].Status.ClusterVersion = tc.cluster
		}
		zones, others := Zones(s.answers)
		var out bytes.Buffer
		if err := Print(&out, zones, others, false); err != nil {
			t.Fatal(err)
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			if strings.Contains(line, "version") {
				got = append(got, strings.TrimSpace(line))
			}
		}
		if d := cmp.Diff(tc.want, strings.Join(got, "\n")); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}
