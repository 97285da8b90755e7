package nexusraft_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestThreads compares docs/threads.md with the source: each place that starts a goroutine
// has a row there, and each row such a place.
func TestThreads(t *testing.T) {
	page, err := os.ReadFile("docs/threads.md")
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		said[row[1]] = true
	}
	found := starters(t)
	for _, place := range slices.Sorted(maps.Keys(found)) {
		if !said[place] {
			t.Errorf("%s starts a goroutine that docs/threads.md does not know", place)
		}
	}
	for _, place := range slices.Sorted(maps.Keys(said)) {
		if !found[place] {
			t.Errorf("docs/threads.md has a row for %s, which starts no goroutine", place)
		}
	}
	if len(found) < 10 {
		t.Errorf("found only %d places that start goroutines: %v", len(found), found)
	}
}

// starters finds the places, "file: function", that start a goroutine, now or later.
func starters(t *testing.T) map[string]bool {
	t.Helper()
	found := make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || isModule(path)):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && starts(f) {
				found[filepath.ToSlash(path)+": "+f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// isModule reports whether a directory is a module of its own.
func isModule(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// starts reports whether a function has a go statement, or calls what has one inside: the
// Go of a group, or an AfterFunc.
func starts(f *ast.FuncDecl) (yes bool) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			yes = true
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok && (s.Sel.Name == "Go" || s.Sel.Name == "AfterFunc") {
				yes = true
			}
		}
		return true
	})
	return yes
}
