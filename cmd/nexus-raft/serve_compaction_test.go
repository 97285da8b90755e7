package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/nexi-lab/nexus-raft/kv/compactor"
)

func TestCompactionFlags(t *testing.T) {
	for _, tc := range []struct {
		mode, retention string
		want            compactor.Options
		refused         bool
	}{
		{mode: "periodic"},
		{mode: "periodic", retention: "0", want: compactor.Options{Period: -1}},
		{mode: "periodic", retention: "0s", want: compactor.Options{Period: -1}},
		{mode: "periodic", retention: "5", want: compactor.Options{Period: 5 * time.Hour}},
		{mode: "periodic", retention: "90m", want: compactor.Options{Period: 90 * time.Minute}},
		{mode: "periodic", retention: "18446744073709551615", want: compactor.Options{Period: math.MaxInt64}},
		{mode: "periodic", retention: "-1h", refused: true},
		{mode: "periodic", retention: "-1", refused: true},
		{mode: "periodic", retention: "long", refused: true},
		{mode: "revision", retention: "1000", want: compactor.Options{Period: -1, Revisions: 1000}},
		{mode: "revision", retention: "0", want: compactor.Options{Period: -1}},
		{mode: "revision", refused: true},
		{mode: "revision", retention: "1h", refused: true},
		{mode: "revision", retention: "-1", refused: true},
	} {
		got, err := compactionFlags{tc.mode, tc.retention}.options()
		if got != tc.want || (err != nil) != tc.refused {
			t.Errorf("%s %q: got %+v, %v, want %+v, refused: %v", tc.mode, tc.retention, got, err, tc.want, tc.refused)
		}
	}
}

// A retention that means nothing is refused before the directory is touched.
func TestServeRefusesCompactionFlags(t *testing.T) {
	for _, args := range [][]string{
		{"--auto-compaction-retention", "soon"},
		{"--auto-compaction-mode", "revision"},
		{"--auto-compaction-mode", "yearly"},
	} {
		status, _, stderr := command(t, append([]string{"serve", "--data-dir", t.TempDir()}, args...)...)
		if status != exitUsage || !strings.Contains(stderr, "--auto-compaction-") {
			t.Errorf("serve %s: status %d, %s", strings.Join(args, " "), status, stderr)
		}
	}
}
