package nexusraft_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEveryBugHasItsTest checks that whatever the pages name as the test of a bug, or of a caller's
// limits, exists where they say.
func TestEveryBugHasItsTest(t *testing.T) {
	for path, least := range map[string]int{"docs/robustness.md": 20, "docs/security.md": 10} {
		checkRows(t, path, least)
	}
}

func checkRows(t *testing.T, path string, least int) {
	t.Helper()
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`([^`]+)`")
	rows := 0
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if !strings.HasPrefix(line, "| ") || strings.TrimSpace(cells[len(cells)-1]) == "shown by" ||
			strings.TrimSpace(cells[0]) == "bug" {
			continue
		}
		rows++
		if len(cells) != 3 {
			t.Errorf("the row %.60q… has %d cells", cells[0], len(cells))
			continue
		}
		dir := ""
		for _, name := range named.FindAllStringSubmatch(cells[2], -1) {
			if info, err := os.Stat(name[1]); err == nil && info.IsDir() {
				dir = name[1]
			} else if dir == "" || !testIn(t, dir, name[1]) {
				t.Errorf("the row %.60q… names %s %s, which is not there", cells[0], dir, name[1])
			}
		}
		if dir == "" && !strings.Contains(cells[2], "seeds") {
			t.Errorf("the row %.60q… names no package", cells[0])
		}
	}
	if rows < least {
		t.Errorf("%s: found only %d rows", path, rows)
	}
}

// testIn reports whether a package has a test function, or a transcript, of that name.
func testIn(t *testing.T, dir, name string) bool {
	t.Helper()
	name, _, _ = strings.Cut(name, "/") // a subtest
	if _, err := os.Stat(filepath.Join(dir, "testdata", "transcripts", name+".txt")); err == nil {
		return true
	}
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), "func "+name+"(") {
			return true
		}
	}
	return false
}

// TestLinks checks that the pages point at files that are here.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	pages, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range append(pages, "README.md", "CONTRIBUTING.md", "SECURITY.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range link.FindAllStringSubmatch(string(b), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), to[1])); err != nil {
				t.Errorf("%s points at %s, which is not there", page, to[1])
			}
		}
	}
}
