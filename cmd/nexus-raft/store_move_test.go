package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func parse(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
}

func TestStoreExportAndImport(t *testing.T) {
	base := t.TempDir()
	dir := newStore(t, [2]string{"/k", "v"}, [2]string{"a/k", "in a"}, [2]string{"a/l", "\x00"}, [2]string{"b/", "in b"})
	stdout, stderr := store(t, "", "export", dir)
	if want := "exported 4 pairs of 3 trees, "; !strings.HasPrefix(stderr, want) {
		t.Errorf("export: got %q on stderr, want %q", stderr, want)
	}
	piped := base + "/piped"
	if got, stderr := store(t, stdout, "import", piped); !strings.HasPrefix(got, "imported 4 pairs of 3 trees, ") ||
		stderr != "" {
		t.Errorf("import: got %q and %q", got, stderr)
	}
	file := base + "/file.nxr"
	if stdout, _ := store(t, "", "export", dir, file, "--tree", "a", "--tree", ""); stdout != "" {
		t.Errorf("export to a file: got %q, want nothing on standard output", stdout)
	}
	some := base + "/some"
	store(t, "", "import", some, file)
	for _, tc := range []struct{ dir, tree, want string }{
		{piped, "", "k\tv\n"},
		{piped, "a", "k\tin a\nl\t\"\\x00\"\n"},
		{piped, "b", "\tin b\n"},
		{some, "", "k\tv\n"},
		{some, "a", "k\tin a\nl\t\"\\x00\"\n"},
	} {
		if got, _ := store(t, "", "scan", tc.dir, "--tree", tc.tree); got != tc.want {
			t.Errorf("tree %q of %s: got %q, want %q", tc.tree, tc.dir, got, tc.want)
		}
	}
	if got, _ := store(t, "", "trees", some); got != "a\n" {
		t.Errorf("trees of a part: got %q, want a alone", got)
	}
}

func TestStoreExportToAFile(t *testing.T) {
	base := t.TempDir()
	dir, file := newStore(t, [2]string{"/k", "v"}), base+"/file"
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	before := contents(t, base)
	storeFails(t, exitFailed, file+" is there already; --force replaces it", "", "export", dir, file)
	storeFails(t, exitFailed, "is not a file", "", "export", dir, base, "--force")
	storeFails(t, exitFailed, "create "+base+"/absent/file: no such file", "", "export", dir, base+"/absent/file")
	storeFails(t, exitFailed, `there is no tree "absent"; the store has the default tree`, "", "export", dir, file,
		"--force", "--tree", "absent")
	if status, _, stderr := tryStore(interrupted(t), "", "export", dir, file, "--force"); status != exitFailed ||
		!strings.Contains(stderr, "interrupted") {
		t.Errorf("interrupted: got status %d and %q", status, stderr)
	}
	if d := cmp.Diff(before, contents(t, base)); d != "" {
		t.Errorf("commands that failed changed something, -before +after:\n%s", d)
	}
	store(t, "", "export", dir, file, "--force")
	if names, err := os.ReadDir(base); err != nil || len(names) != 1 {
		t.Errorf("after an export: got %v, %v, want the file alone", names, err)
	}
	if got, _ := store(t, "", "import", base+"/store", file); !strings.HasPrefix(got, "imported 1 pairs") {
		t.Errorf("import of it: got %q", got)
	}
}

func TestStoreImportRefuses(t *testing.T) {
	t.Parallel()
	exported, _ := store(t, "", "export", newStore(t, [2]string{"/k", "v"}, [2]string{"tree/k", "new"}))
	target := newStore(t, [2]string{"other/k", "v"})
	scan := func() (all string) {
		for _, args := range [][]string{{"trees", target}, {"scan", target}, {"scan", target, "--tree", "other"}} {
			got, _ := store(t, "", args...)
			all += got
		}
		return all
	}
	before := scan()
	for _, n := range []int{0, 1, len(exported) / 2, len(exported) - 1} {
		storeFails(t, exitFailed, "corrupt", exported[:n], "import", target)
	}
	damaged := []byte(exported)
	damaged[len(damaged)/2] ^= 1
	storeFails(t, exitFailed, "corrupt", string(damaged), "import", target)
	storeFails(t, exitFailed, "corrupt", exported+"more", "import", target)
	storeFails(t, exitFailed, "absent.nxr: no such file", "", "import", target, filepath.Join(t.TempDir(), "absent.nxr"))
	storeFails(t, exitFailed, "is a directory; import wants a file", "", "import", target, target)
	if got := scan(); got != before {
		t.Errorf("after imports that failed: got %q, want %q", got, before)
	}

	occupied := newStore(t, [2]string{"tree/k", "old"})
	storeFails(t, exitFailed, `"tree"`, exported, "import", occupied)
	if got, _ := store(t, "", "get", occupied, "k", "--tree", "tree"); got != "old\n" {
		t.Errorf("after an import over it: got %q, want old", got)
	}
	if got, _ := store(t, "", "scan", occupied); got != "" {
		t.Errorf("the default tree after an import that was refused: got %q", got)
	}
}

func TestStoreImportOfANodesTreesWarns(t *testing.T) {
	base := t.TempDir()
	if status, _, stderr := command(t, "init", "--data-dir", base+"/n", "--name", "n"); status != exitOK {
		t.Fatal(stderr)
	}
	store(t, "", "export", base+"/n", base+"/file")
	if _, stderr := store(t, "", "import", base+"/copy", base+"/file"); !strings.HasPrefix(stderr,
		"warning: this is the store of node ") {
		t.Errorf("got %q, want a warning", stderr)
	}
}

func TestStoreProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newStoreProgress(&out, "copied")
		for i := range int64(25) {
			p.add(1<<20, 25<<20)
			if i == 10 {
				p.show(16<<20, 0)
			}
			time.Sleep(100 * time.Millisecond)
		}
		p.end()
		want := "copied 11 MiB of 25 MiB (44 %)\ncopied 26 MiB of 25 MiB (100 %)\n"
		if got := out.String(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestStoreProgressOfAnUnknownTotal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, copied bytes.Buffer
		p := newStoreProgress(&out, "exported")
		w := p.writer(&copied)
		fmt.Fprint(w, "12345")
		time.Sleep(time.Second)
		fmt.Fprint(w, "6789")
		if got, want := out.String()+copied.String(), "exported 9 B\n123456789"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}
