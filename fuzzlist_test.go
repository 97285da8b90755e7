package nexusraft_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEveryTargetIsFuzzed compares what .ci/fuzz runs, each time, with the fuzz targets of the
// tree.
func TestEveryTargetIsFuzzed(t *testing.T) {
	if _, err := exec.LookPath("bash"); err != nil {
		if os.Getenv("NEXUS_RAFT_CI") != "" {
			t.Fatal("skipped: no bash")
		}
		t.Skip("skipped: no bash")
	}
	out, err := exec.CommandContext(t.Context(), "bash", ".ci/fuzz", "list").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(string(out)), "\n")
	slices.Sort(got)
	want := fuzzTargets(t)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("targets in the tree (-) and of .ci/fuzz (+) differ:\n%s", diff)
	}
	if len(want) < 30 {
		t.Errorf("found only %d targets", len(want))
	}
}

// fuzzTargets are the fuzz targets of all test files, of other modules too: package and name.
func fuzzTargets(t *testing.T) (targets []string) {
	t.Helper()
	target := regexp.MustCompile(`(?m)^func (Fuzz[A-Za-z0-9_]*)\(`)
	err := fs.WalkDir(os.DirFS("."), ".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && file != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(file, "_test.go"):
			return nil
		}
		b, err := os.ReadFile(filepath.FromSlash(file))
		for _, name := range target.FindAllSubmatch(b, -1) {
			targets = append(targets, path.Dir(file)+" "+string(name[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(targets)
	return targets
}
