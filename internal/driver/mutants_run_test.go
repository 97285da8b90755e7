//go:build mutants

package driver

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var allMutants = flag.Bool("mutants.all", false,
	"TestMutants plants also what tests of other packages find; some take minutes")

// TestMutants plants each mutant by an overlay of its file, and wants each of its tests to fail, which
// pass without it.
func TestMutants(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	tests := make(map[string][]string) // by directory
	for _, m := range mutants {
		if *allMutants || m.dir == "internal/driver" {
			tests[m.dir] = append(tests[m.dir], m.test)
		}
	}
	passed := make(map[string]bool) // directories whose tests were found to pass
	for _, m := range mutants {
		if tests[m.dir] == nil {
			continue
		}
		t.Run(m.bug, func(t *testing.T) {
			if !passed[m.dir] {
				slices.Sort(tests[m.dir])
				all := strings.Join(slices.Compact(tests[m.dir]), "|")
				if out, err := m.try(t, root, all); err != nil {
					t.Fatalf("%s fail without a mutant: %v\n%s", all, err, out)
				}
				passed[m.dir] = true
			}
			overlay := m.plant(t, root)
			for test := range strings.SplitSeq(m.test, "|") {
				out, err := m.try(t, root, test, "-overlay", overlay)
				if err == nil || !strings.Contains(out, "--- FAIL: "+test) {
					t.Errorf("%s passes, or ends in another way: %v\n%s", test, err, out)
				} else if why := regexp.MustCompile(`_test\.go:\d+: .*`).FindString(out); why != "" {
					t.Logf("%s: %s", test, why)
				}
			}
		})
	}
}

// try runs tests of the mutant's directory, and returns what they print.
func (m mutant) try(t *testing.T, root, tests string, flags ...string) (string, error) {
	t.Helper()
	args := append([]string{"test", "-short", "-vet=off", "-timeout", "10m", "-run", "^(" + tests + ")$"}, flags...)
	cmd := exec.CommandContext(t.Context(), "go", append(args, "./"+m.dir)...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// plant returns an overlay for the go command.
func (m mutant) plant(t *testing.T, root string) string {
	t.Helper()
	file, dir := filepath.Join(root, m.file), t.TempDir()
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	planted, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	err = os.WriteFile(planted, []byte(strings.Replace(string(source), m.old, m.new, 1)), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {file: planted}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}
