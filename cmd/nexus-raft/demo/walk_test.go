package demo

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// write makes a file and the directories above it.
func write(t *testing.T, dir, path, content string) {
	t.Helper()
	full := filepath.Join(dir, filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *walker {
	t.Helper()
	w, err := openDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.root.Close() })
	return w
}

func fresh(t *testing.T, w *walker) map[string]record {
	t.Helper()
	now, err := w.fresh(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return now
}

func TestFreshRecordsEveryFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "abc")
	write(t, dir, "sub/deep/empty", "")
	write(t, dir, "sub/\xff\n", "odd name")
	if err := os.Symlink("a", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	w := open(t, dir)
	now := fresh(t, w)
	got := make(map[string]string)
	for path, rec := range now {
		got[path] = fmt.Sprintf("%d %.1s %.8s", rec.Size, rec.Mode, rec.SHA256)
	}
	want := map[string]string{
		"a":              "3 - ba7816bf", // SHA-256("abc"), FIPS 180-2
		"sub/deep/empty": "0 - e3b0c442",
		"sub/\xff\n":     "8 - " + now["sub/\xff\n"].SHA256[:8],
		"link":           "1 L ca978112", // of "a"
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("records (-want +got):\n%s", d)
	}
	if s := w.skipped.list(); len(s) > 0 {
		t.Errorf("skipped: got %v, want none", s)
	}
}

func TestOpenDirRefusals(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "file", "x")
	write(t, dir, "sub/.keep", "x")
	if err := os.Remove(filepath.Join(dir, "sub/.keep")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ dir, want string }{
		{filepath.Join(dir, "missing"), "does not exist"},
		{filepath.Join(dir, "sub"), "holds no file"},
		{filepath.Join(dir, "file"), "not a directory"},
	} {
		if w, err := openDir(tc.dir); err == nil || !strings.Contains(err.Error(), tc.want) ||
			!strings.Contains(err.Error(), tc.dir) {
			t.Errorf("openDir(%s): got %v, %v, want an error with %q that names it", tc.dir, w, err, tc.want)
		}
	}
}

func TestWalkLeavesTheDemosOwnDataOut(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "mine", "x")
	write(t, dir, "data/n1/log", "x")
	w := open(t, dir)
	info, err := os.Stat(filepath.Join(dir, "data"))
	if err != nil {
		t.Fatal(err)
	}
	w.exclude = info
	if got := slices.Collect(maps.Keys(fresh(t, w))); !slices.Equal(got, []string{"mine"}) {
		t.Errorf("got %q, want mine alone", got)
	}
}

func TestRecorderNoticesChanges(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "f", "one")
	w := open(t, dir)
	r := newRecorder(w.root)
	read := func() record {
		t.Helper()
		rec, err := r.read("f")
		if err != nil {
			t.Fatal(err)
		}
		return rec
	}
	first := read()
	if again := read(); !again.sameFile(first) {
		t.Errorf("unchanged: got %+v, want %+v", again, first)
	}
	write(t, dir, "f", "longer")
	second := read()
	if second.sameFile(first) || second.SHA256 == first.SHA256 {
		t.Errorf("changed: got %+v, want another than %+v", second, first)
	}
}

func TestChanges(t *testing.T) {
	dir := t.TempDir()
	for _, p := range []string{"same", "changed", "gone", "touched"} {
		write(t, dir, p, p)
	}
	w := open(t, dir)
	stored := heldOf(fresh(t, w))
	write(t, dir, "changed", "other")
	write(t, dir, "new", "x")
	if err := os.Remove(filepath.Join(dir, "gone")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "touched"), 0o600); err != nil {
		t.Fatal(err)
	}
	same, changed := changes(stored, fresh(t, w))
	want := []string{"changed", "gone", "new", "touched"}
	if d := cmp.Diff(want, changed); same != 1 || d != "" {
		t.Errorf("got %d the same and (-want +got):\n%s", same, d)
	}
}
