package etcdtest

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// suite is the test suite of another project, which is run against processes: its module is copied to a
// temporary directory, where files of ours take the place of what starts servers within the test.
type suite struct {
	module, version string
	files           string   // directory with our files, laid out as the module
	processes       string   // where in the module our package of that name goes
	removed         []string // files of the module that ours take the place of
	goMod           func(text string) string
	pkg, tags       string
	tests           []suiteTests
}

// suiteTests are the tests of a suite whose names match.
type suiteTests struct {
	names     string // a regular expression of the whole name
	leftOut   string // why they are not run at all
	lacking   string // why they are not run against ours; "" if it offers all that they need
	notByEtcd string // why they are not run against an etcd
}

// TestSuites runs the suites that NEXUS_RAFT_SUITES names, for example etcd/common@nexus-raft: a suite,
// and the store it judges. With @etcd the store is an etcd, which shows whether the adapter is right.
func TestSuites(t *testing.T) {
	named := os.Getenv("NEXUS_RAFT_SUITES")
	if named == "" {
		t.Skip("NEXUS_RAFT_SUITES names no suite, for example etcd/common@nexus-raft")
	}
	for _, name := range strings.Split(named, ",") {
		which, store, _ := strings.Cut(name, "@")
		s, ok := suites[which]
		if !ok || store != "etcd" && store != "nexus-raft" {
			t.Fatalf("NEXUS_RAFT_SUITES: %q is no suite with @etcd or @nexus-raft", name)
		}
		t.Run(name, func(t *testing.T) { s.run(t, store) })
	}
}

// run runs each test of the suite by itself.
func (s suite) run(t *testing.T, store string) {
	dir := s.copy(t)
	program := filepath.Join(t.TempDir(), "suite.test")
	goIn(t, dir, "test", "-c", "-vet=off", "-trimpath", "-tags", s.tags, "-o", program, "./"+s.pkg)
	list := exec.Command(program, "-test.list", "^(Test|Example)")
	list.Dir, list.Env = filepath.Join(dir, s.pkg), suiteEnv(store)
	names, err := list.Output()
	if err != nil {
		t.Fatalf("list the tests: %v", err)
	}
	for name := range strings.FieldsSeq(string(names)) {
		t.Run(name, func(t *testing.T) {
			row := s.row(t, name)
			if why := row.skipped(store); why != "" {
				t.Skip(why)
			}
			runSuiteTest(t, program, list.Dir, store, name)
		})
	}
}

// row returns what is said of a test. A test of which nothing is said is an error: a new version of the
// suite may have it.
func (s suite) row(t *testing.T, name string) suiteTests {
	t.Helper()
	i := slices.IndexFunc(s.tests, func(row suiteTests) bool {
		return regexp.MustCompile(`^(` + row.names + `)$`).MatchString(name)
	})
	if i < 0 {
		t.Fatalf("%s is neither among the tests to run nor among those that are left out", name)
	}
	return s.tests[i]
}

// skipped returns why tests are not run; "" if they are.
func (row suiteTests) skipped(store string) string {
	switch {
	case row.leftOut != "":
		return row.leftOut
	case store == "etcd":
		return row.notByEtcd
	}
	return row.lacking
}

func runSuiteTest(t *testing.T, program, dir, store, name string) {
	t.Helper()
	cmd := exec.CommandContext(within(t, 10*time.Minute), program, "-test.run", "^"+name+"$", "-test.v",
		"-test.timeout", "9m")
	cmd.Dir, cmd.Env = dir, suiteEnv(store)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	passed, skipped := bytes.Count(out, []byte("--- PASS")), bytes.Count(out, []byte("--- SKIP"))
	t.Logf("%d passed, %d skipped, subtests counted", passed, skipped)
	if passed == 0 {
		t.Errorf("nothing was run:\n%s", out)
	}
}

// suiteEnv tells a suite's adapter which programs to start.
func suiteEnv(store string) []string {
	if store == "etcd" {
		return append(os.Environ(), "SUITE_ETCD="+programs.etcd)
	}
	return append(os.Environ(), "SUITE_MEMBER="+programs.member, "SUITE_WITNESS="+programs.witness)
}

// copy makes a copy of the module with our files in it.
func (s suite) copy(t *testing.T) string {
	t.Helper()
	var module struct{ Dir string }
	found := goIn(t, t.TempDir(), "mod", "download", "-json", s.module+"@"+s.version)
	if err := json.Unmarshal(found, &module); err != nil {
		t.Fatalf("download %s: %v: %s", s.module, err, found)
	}
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(module.Dir)); err != nil {
		t.Fatal(err)
	}
	for _, name := range s.removed {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	addFiles(t, s.files, dir)
	addFiles(t, "processes", filepath.Join(dir, s.processes))
	name := filepath.Join(dir, "go.mod")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeNew(name, []byte(s.goMod(string(text)))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// addFiles writes a directory of our files into the copy.
func addFiles(t *testing.T, ours, dir string) {
	t.Helper()
	from := os.DirFS(filepath.Join("testdata/suites", ours))
	err := fs.WalkDir(from, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := fs.ReadFile(from, name)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			return err
		}
		return writeNew(filepath.Join(dir, name), text)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// writeNew replaces a file that may be read-only.
func writeNew(name string, text []byte) error {
	os.Remove(name)
	return os.WriteFile(name, text, 0o600)
}

// goIn runs the go command in a directory outside of this module.
func goIn(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(within(t, 20*time.Minute), "go", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOFLAGS=-mod=mod -buildvcs=false", "GOWORK=off")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %v: %v\n%s%s", args, err, out, errs.Bytes())
	}
	return out
}
