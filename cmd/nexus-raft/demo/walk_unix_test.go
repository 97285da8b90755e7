//go:build unix

package demo

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestWhatIsSkippedIsNamed(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "readable", "x")
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"pipe": "named pipe"}
	if os.Geteuid() != 0 { // root reads everything
		write(t, dir, "secret", "x")
		write(t, dir, "closed/inner", "x")
		for _, p := range []string{"secret", "closed"} {
			if err := os.Chmod(filepath.Join(dir, p), 0); err != nil {
				t.Fatal(err)
			}
			want[p] = "permission denied"
		}
		t.Cleanup(func() { os.Chmod(filepath.Join(dir, "closed"), 0o755) })
	}
	long := makeLong(t, dir)
	want[long] = fmt.Sprintf("path of %d bytes, limit 4096", len(long))

	w := open(t, dir)
	now := fresh(t, w)
	if got := slices.Collect(maps.Keys(now)); !slices.Equal(got, []string{"readable"}) {
		t.Errorf("recorded: got %d files %.200q, want the readable one", len(got), got)
	}
	got := w.skipped.list()
	if len(got) != len(want) {
		t.Errorf("skipped: got %d, want %d: %.500q", len(got), len(want), got)
	}
	for _, s := range got {
		if w, ok := want[s.Path]; !ok || !strings.Contains(s.Reason, w) {
			t.Errorf("skipped %.100q because %q, want %q", s.Path, s.Reason, w)
		}
	}
}

// makeLong makes a file whose path below dir is over the limit, and returns that path. No
// call takes a path so long, so it goes down step by step.
func makeLong(t *testing.T, dir string) string {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	part := strings.Repeat("d", 200)
	path := ""
	for range 21 {
		path = filepath.Join(path, part)
		if err := root.Mkdir(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path = filepath.Join(path, "file")
	if err := root.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
