package nexusraft_test

import (
	"bufio"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// maxColumns is how long a line of code may be, with what is in strings; a tab counts 1.
const maxColumns = 120

// TestLines keeps each line of each module readable beside another one.
func TestLines(t *testing.T) {
	for _, file := range sources(t) {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(f)
		for n := 1; lines.Scan(); n++ {
			if columns := utf8.RuneCount(lines.Bytes()); columns > maxColumns {
				t.Errorf("%s:%d has %d columns, want at most %d", file, n, columns, maxColumns)
			}
		}
		if err := lines.Err(); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		f.Close()
	}
}

// names are those that some packages have wherever they are imported.
var names = map[string]string{
	"go.etcd.io/raft/v3/raftpb":           "raftpb",
	module + "/api/nexusraft/v1":          "pb",
	module:                                "nexusraft",
	"go.etcd.io/etcd/api/v3/etcdserverpb": "etcdserverpb",
}

// TestImportAliases holds that a name before a dot means the same package in all files.
func TestImportAliases(t *testing.T) {
	for _, file := range sources(t) {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range parsed.Imports {
			imported := strings.Trim(imp.Path.Value, `"`)
			name := path.Base(imported)
			if imp.Name != nil {
				name = imp.Name.Name
			}
			if want := names[imported]; want != "" && name != want && name != "_" {
				t.Errorf("%s imports %s as %s, want %s", file, imported, name, want)
			}
			for other, owned := range names {
				if name == owned && imported != other && strings.HasSuffix(name, "pb") {
					t.Errorf("%s imports %s as %s, which stands for %s", file, imported, name, other)
				}
			}
		}
	}
}

// TestRooms compares the rooms of docs/architecture.md with the packages that exist.
func TestRooms(t *testing.T) {
	found := []string{"api/nexusraft/v1"} // generated alone
	for _, file := range sources(t) {
		dir := filepath.ToSlash(filepath.Dir(file))
		if dir != "." && !slices.Contains(found, dir) {
			found = append(found, dir)
		}
	}
	slices.Sort(found)
	var said []string
	for _, row := range rows(t, "docs/architecture.md", "Rooms") {
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[0], -1) {
			if name[1] != "nexusraft" {
				said = append(said, name[1])
			}
		}
	}
	slices.Sort(said)
	if d := cmp.Diff(found, said); d != "" {
		t.Errorf("packages that exist (-) and rooms of docs/architecture.md (+) differ:\n%s", d)
	}
}

// TestReadingTheSource checks that the files which README.md names for a question are there.
func TestReadingTheSource(t *testing.T) {
	for _, row := range rows(t, "README.md", "Reading the source") {
		files := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[1], -1)
		if len(files) == 0 {
			t.Errorf("README.md, %q: no file", row[0])
		}
		for _, file := range files {
			if _, err := os.Stat(file[1]); err != nil {
				t.Errorf("README.md, %q: %v", row[0], err)
			}
		}
	}
}

// TestPagesNameCode checks that the files, and the names in them, are there which a page gives in
// the form "`package` (file.go: name, name; file.go)".
func TestPagesNameCode(t *testing.T) {
	place := regexp.MustCompile("`([a-z/.]+)` \\(([^()]*\\.go[^()]*)\\)")
	found := 0
	for _, page := range []string{"docs/invariants.md", "docs/robustness.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range place.FindAllStringSubmatch(string(text), -1) {
			for _, file := range strings.Split(m[2], ";") {
				name, idents, _ := strings.Cut(file, ":")
				found++
				checkNames(t, page, path.Join(m[1], strings.TrimSpace(name)), idents)
			}
		}
	}
	if found < 20 {
		t.Errorf("found only %d places", found)
	}
}

// checkNames checks that a file, or each of several, has the names that are among idents.
func checkNames(t *testing.T, page, file, idents string) {
	t.Helper()
	if before, after, ok := strings.Cut(file, ", "); ok { // "a.go, b.go"
		checkNames(t, page, before, "")
		file = path.Join(path.Dir(before), after)
	}
	source, err := os.ReadFile(file)
	if err != nil {
		t.Errorf("%s: %v", page, err)
		return
	}
	for _, name := range strings.Split(idents, ",") {
		name = strings.TrimSpace(name)
		if strings.Contains(name, " ") || strings.Contains(string(source), name) {
			continue // words explain, one word is a name
		}
		t.Errorf("%s: %s has no %s", page, file, name)
	}
}

// TestErrorsAreDocumented compares the table of docs/embedding.md with the sentinels that the root
// package exports: each says there what its caller can do.
func TestErrorsAreDocumented(t *testing.T) {
	var found []string
	for _, name := range exported(t, "errors.go", token.VAR) {
		if strings.HasPrefix(name, "Err") {
			found = append(found, name)
		}
	}
	slices.Sort(found)
	var said []string
	for _, row := range rows(t, "docs/embedding.md", "Errors") {
		said = append(said, strings.Trim(row[0], "`"))
	}
	slices.Sort(said)
	if d := cmp.Diff(found, said); d != "" || len(found) < 10 {
		t.Errorf("sentinels of errors.go (-) and rows of docs/embedding.md (+) differ:\n%s", d)
	}
}

// shared are the exported type names that several packages have, each with the reason.
var shared = map[string]string{
	"Batch":        "storage's is of writes, internal/feed's of changes",
	"Config":       "each package's own settings; the package's name says whose",
	"Options":      "each package's own settings; the package's name says whose",
	"StateMachine": "kv.StateMachine is one of nexusraft.StateMachine",
	"MemFS":        "an FS in memory, for tests",
	"Tx":           "storage.Tx is what node hands to a state machine as a nexusraft.Tx",
	"Log":          "one replica's log: a member's is in the store, a witness's holds no entries",
	"Snapshot":     "storage's is a view of a store; transport's carries a zone's state",
	"Message":      "storage/queue's is an item of a queue; transport's is one of Raft's on its way",
	"Client":       "client's is for programs, transport's for nodes",
	"Tree":         "storage/ttl.Tree is a storage.Tree whose pairs expire",
	"Member":       "nexusraft.Member is a zone's; etcd's tests ask their framework, which etcdtest replaces, for one",
	"Result":       "nexusraft.Result is a command's; bench's is a measurement's",
	"Read":         "internal/driver's is a caller that waits; internal/zone's, a read index that was confirmed",
	"Pair":         "nexusraft.Pair is a key and its value; pki.Pair a certificate and its key",
	"Witness":      "witness.Witness is the node; program.Witness its command line",
	"Answer":       "client's is a node's; budget's is a limit's",
	"Node":         "node.Node, and what internal/rpc/etcd needs of it",
	"Zone":         "node.Zone, what internal/rpc/etcd needs of it, and what nodes answer about one (availability)",
	"Replica":      "internal/zone's is the step machine; internal/availability's, what nodes answer about one",
	"Call":         "propose.Call is what waits for a worker, and one of the driver's Calls once it has it",
	"Queue":        "storage/queue's is on a tree; internal/propose's has what waits for a worker",
	"Lease":        "kv's is etcd's, which keys hang on; internal/driver's, a leader's right to read alone",
	"Credentials":  "nexusraft's are those that a cluster gives and takes back; internal/peering's, a node's own",
	"Identity":     "transport's says which node opens a connection; internal/rpc/etcd's, which one serves it",

	// Each of these is one thing that has a type for each of its ends, and should have one.
	"Checksum":     "nexusraft's is a state's; storage's, of any range of a store",
	"Event":        "nexusraft's is one of a zone or node; internal/system's, one as stored; demo's, of its timeline",
	"Subscription": "a client's names an address in place of a zone",
}

// TestTypeNames holds that an exported type's name has one meaning in all packages, or a reason.
func TestTypeNames(t *testing.T) {
	in := make(map[string][]string)
	for _, file := range sources(t) {
		dir := filepath.ToSlash(filepath.Dir(file))
		if strings.HasSuffix(file, "_test.go") || strings.HasPrefix(dir, "api/") || isMain(t, file) {
			continue
		}
		for _, name := range exported(t, file, token.TYPE) {
			in[name] = append(in[name], dir)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(in)) {
		dirs := in[name]
		switch {
		case len(dirs) > 1 && shared[name] == "":
			t.Errorf("type %s is in %s: give one of them another name, or add it with its reason to shared",
				name, strings.Join(dirs, ", "))
		case len(dirs) == 1 && shared[name] != "":
			t.Errorf("type %s is in %s alone: remove it from shared", name, dirs[0])
		}
	}
	for name := range shared {
		if len(in[name]) == 0 {
			t.Errorf("no type %s: remove it from shared", name)
		}
	}
}

// sources returns the Go files of all modules but generated ones.
func sources(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && file != "." && strings.HasPrefix(d.Name(), "."):
			return fs.SkipDir
		case !d.IsDir() && strings.HasSuffix(file, ".go") && !strings.HasSuffix(file, ".pb.go"):
			files = append(files, file)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 200 {
		t.Fatalf("found only %d files", len(files))
	}
	return files
}

// exported returns the exported names of types, or of variables, that a file declares. An alias is
// no type of its own.
func exported(t *testing.T, file string, kind token.Token) (names []string) {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	for _, decl := range parsed.Decls {
		g, ok := decl.(*ast.GenDecl)
		if !ok || g.Tok != kind {
			continue
		}
		for _, spec := range g.Specs {
			switch s := spec.(type) {
			case *ast.TypeSpec:
				if s.Name.IsExported() && !s.Assign.IsValid() {
					names = append(names, s.Name.Name)
				}
			case *ast.ValueSpec:
				for _, name := range s.Names {
					if name.IsExported() {
						names = append(names, name.Name)
					}
				}
			}
		}
	}
	return names
}

// isMain reports whether a file is a program's, whose types nobody imports.
func isMain(t *testing.T, file string) bool {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.PackageClauseOnly)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Name.Name == "main"
}

// rows returns the cells of the first table below a heading of a page, without its head.
func rows(t *testing.T, page, heading string) (table [][]string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), fmt.Sprintf("\n## %s\n", heading))
	if !ok {
		t.Fatalf("%s has no section %q", page, heading)
	}
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "|") {
			if len(table) > 0 {
				break
			}
			continue
		}
		var cells []string
		for _, cell := range strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		table = append(table, cells)
	}
	if len(table) < 3 { // with its head
		t.Fatalf("%s, %q: no table", page, heading)
	}
	return table[2:]
}
