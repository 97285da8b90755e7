package main

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/machinetest"
)

func TestFstree(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.TempDir(), &out); err != nil {
		t.Fatal(err)
	}
	var want string
	for _, mount := range []string{"home", "scratch"} {
		want += strings.ReplaceAll(`M: fstree: nexusraft: refused: "/done/2026/done" is inside "/done", `+
			`which can't be moved into itself
M: fstree: nexusraft: refused: "/done" is not empty
M: /done `+`
M: /done/2026 `+`
M: /done/2026/a.txt blob-2 in M
`, "M", mount)
	}
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("want (-), got (+):\n%s", d)
	}
}

// apply is z.Apply, by a bounded number of calls: for each name an entry and an inode, of two paths; and what
// a rename writes.
func apply(t machinetest.TB, z *machinetest.Replicas, cmd nexusraft.Command) error {
	t.Helper()
	_, err := z.Apply(cmd)
	if most := 2*bytes.Count(cmd.Data, []byte("/")) + 4; z.Calls() > most {
		t.Fatalf("a command made %d calls, the limit is %d", z.Calls(), most)
	}
	return err
}

// model is a tree as what is at each path: a file's content, or "/" for a directory. It has no
// inodes: a rename gives all that is below another path.
type model map[string]string

const directory = "/"

// parent reports whether there is a directory for a path to be in.
func (m model) parent(path string) bool {
	up := path[:strings.LastIndexByte(path, '/')]
	return up == "" || m[up] == directory
}

func (m model) add(path, what string) bool {
	if _, taken := m[path]; taken || path == "/" || !m.parent(path) {
		return false
	}
	m[path] = what
	return true
}

func (m model) rename(path, to string) bool {
	what, ok := m[path]
	there, taken := m[to]
	switch {
	case !ok || to == "/" || !m.parent(to) || strings.HasPrefix(to, path+"/"):
		return false
	case path == to:
		return true
	case taken && (what == directory || there == directory):
		return false
	}
	for _, p := range slices.Collect(maps.Keys(m)) {
		if p == path || strings.HasPrefix(p, path+"/") {
			moved := m[p]
			delete(m, p)
			m[to+p[len(path):]] = moved
		}
	}
	return true
}

func (m model) remove(path string) bool {
	if _, ok := m[path]; !ok {
		return false
	}
	for p := range m {
		if strings.HasPrefix(p, path+"/") {
			return false
		}
	}
	delete(m, path)
	return true
}

// list is what List returns, sorted as paths are by their names.
func (m model) list(prefix string) (entries []Entry) {
	for p, what := range m {
		if e := (Entry{Path: p, File: what != directory, Content: what}); strings.HasPrefix(p, prefix) {
			if !e.File {
				e.Content = ""
			}
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
	return entries
}

// Random commands: a tree in a zone is what a map of paths is. A command that is refused leaves it as it
// was, and none touches more keys than its paths have names.
func TestTreeIsAMapOfPaths(t *testing.T) {
	t.Parallel()
	names := rapid.SampledFrom([]string{"a", "ab", "b-"})
	paths := rapid.Custom(func(t *rapid.T) string {
		return "/" + strings.Join(rapid.SliceOfN(names, 0, 3).Draw(t, "names"), "/")
	})
	rapid.Check(t, func(t *rapid.T) {
		z, m := machinetest.New(t, tree{}), model{}
		index, place := nexusraft.Index(1), 0
		for range rapid.IntRange(1, 60).Draw(t, "commands") {
			var command []byte
			var accepted bool
			path, content := paths.Draw(t, "path"), rapid.StringN(1, 2, 4).Draw(t, "content")
			if content == directory {
				content = "file"
			}
			switch rapid.SampledFrom([]byte("mmmccrrrd")).Draw(t, "op") {
			case opMkdir:
				command, accepted = Mkdir(path), m.add(path, directory)
			case opCreate:
				command, accepted = Create(path, content), m.add(path, content)
			case opRename:
				to := paths.Draw(t, "to")
				command, accepted = Rename(path, to), m.rename(path, to)
			case opRemove:
				command, accepted = Remove(path), m.remove(path)
			}
			if n := rapid.IntRange(0, 3).Draw(t, "entries"); n > 0 {
				index, place = index+nexusraft.Index(n), 0
			} else {
				place++
			}
			before := z.Dump()
			err := apply(t, z, nexusraft.Command{Index: index, Place: place, Data: command})
			switch {
			case err != nil && !errors.Is(err, nexusraft.ErrRefused):
				t.Fatal(err)
			case (err == nil) != accepted:
				t.Fatalf("%q: got %v, want accepted: %v", command, err, accepted)
			case err != nil && !slices.Equal(before, z.Dump()):
				t.Fatalf("%q was refused, and changed the state", command)
			}
			if got := len(z.Dump()); got != 2*len(m) {
				t.Fatalf("%d keys, want an entry and an inode for each of %d paths", got, len(m))
			}
			prefix := "/"
			if m[path] == directory && path != "/" {
				prefix = path + "/" + names.Draw(t, "prefix")
			}
			for _, prefix := range []string{"/", prefix} {
				got, err := List(z.Reader(), prefix, 1_000)
				if d := cmp.Diff(m.list(prefix), got); d != "" || err != nil {
					t.Fatalf("list %q: %v, want (-), got (+):\n%s", prefix, err, d)
				}
			}
		}
	})
}

// Bad input is refused by its name, and changes nothing.
func TestRefusals(t *testing.T) {
	t.Parallel()
	z := machinetest.New(t, tree{})
	long := strings.Repeat("x", maxNameBytes+1)
	for i, command := range [][]byte{
		nil,
		{opMkdir},
		{opMkdir, 200},
		{opMkdir, 5, '/'},
		{'?', 1, '/'},
		append(Mkdir("/a"), 0),
		Mkdir(""), Mkdir("a"), Mkdir("/a/"), Mkdir("//a"), Mkdir("/."), Mkdir("/../a"), Mkdir("/a\x00"), Mkdir("/" + long),
		Mkdir(strings.Repeat("/x", maxPathBytes/2+1)), Create("/a", strings.Repeat("x", maxContentBytes+1)),
		Rename("/", "/a"), Remove("/"), Remove("/a"), Rename("/a", "/b"), Create("/a/b", ""),
	} {
		err := apply(t, z, nexusraft.Command{Index: nexusraft.Index(i + 1), Data: command})
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%.40q: got %v, want a refusal", command, err)
		}
	}
	if d := z.Dump(); len(d) != 0 {
		t.Errorf("refusals left %q", d)
	}
	for _, prefix := range []string{"", "a", "/a/"} {
		if got, err := List(z.Reader(), prefix, 10); !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("list %q: got %v, %v, want a refusal", prefix, got, err)
		}
	}
}
