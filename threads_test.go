package nexusraft_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestThreads compares docs/threads.md with the source: each place has as many rows there
// as it starts goroutines.
func TestThreads(t *testing.T) {
	page, err := os.ReadFile("docs/threads.md")
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[string]int)
	for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		said[row[1]]++
	}
	found := starters(t)
	if diff := cmp.Diff(found, said); diff != "" {
		t.Errorf("starts of goroutines in the source (-) and rows of docs/threads.md (+) differ:\n%s", diff)
	}
	if len(found) < 10 {
		t.Errorf("found only %d places that start goroutines: %v", len(found), found)
	}
}

// starters counts, for each place, "file: function", where it starts a goroutine, now or
// later. Outside functions the place is "file: var".
func starters(t *testing.T) map[string]int {
	t.Helper()
	found := make(map[string]int)
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
			name := "var"
			if f, ok := decl.(*ast.FuncDecl); ok {
				name = f.Name.Name
			}
			if n := starts(decl); n > 0 {
				found[filepath.ToSlash(path)+": "+name] += n
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

// starts counts the go statements of a declaration, and its calls of what has one inside:
// the Go of a group, or an AfterFunc.
func starts(d ast.Decl) (count int) {
	ast.Inspect(d, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			count++
		case *ast.CallExpr:
			if s, ok := n.Fun.(*ast.SelectorExpr); ok && (s.Sel.Name == "Go" || s.Sel.Name == "AfterFunc") {
				count++
			}
		}
		return true
	})
	return count
}
