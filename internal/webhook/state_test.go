package webhook

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func openState(t *testing.T, path, source string) *State {
	t.Helper()
	s, err := OpenState(path, source)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.lock.Close() })
	return s
}

// onDisk reads a state file as a crash would leave it.
func onDisk(t *testing.T, path string) Position {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	p, err := decodeState(content)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A position is on disk at once, or within a second's worth of later ones, and when the
// file is closed.
func TestStateIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := openState(t, path, "zone 1")
	now := time.Now()
	s.now = func() time.Time { return now }
	if got := s.Position(); got != (Position{Source: "zone 1"}) || onDisk(t, path) != got {
		t.Errorf("a new one: got %+v", got)
	}
	for _, step := range []struct {
		after time.Duration
		next  uint64
		want  uint64
	}{
		{time.Second, 5, 5},
		{0, 6, 5},
		{time.Second / 2, 7, 5},
		{time.Second / 2, 8, 8},
		{time.Hour, 8, 8},
		{0, 9, 9},
		{0, 10, 9},
	} {
		now = now.Add(step.after)
		if err := s.Done(step.next, 3); err != nil {
			t.Fatal(err)
		}
		if got, want := onDisk(t, path), (Position{"zone 1", step.want, 3}); got != want || s.Position().Next != step.next {
			t.Errorf("after %d: got %+v on disk and %+v, want %+v", step.next, got, s.Position(), want)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want := Position{"zone 1", 10, 3}
	if got := openState(t, path, "zone 1").Position(); got != want {
		t.Errorf("opened again: got %+v, want %+v", got, want)
	}
}

func TestStateIsOneBridges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := openState(t, path, "zone 1")
	if _, err := OpenState(path, "zone 1"); err == nil ||
		!strings.Contains(err.Error(), path+" is in use by another bridge") {
		t.Errorf("the second one: got %v, want it refused", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	openState(t, path, "zone 1")
}

// A file that is no state file, or another's, is refused, left as it is, and not locked.
func TestWrongStateFile(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct{ content, says string }{
		"empty":        {"", "no state file"},
		"text":         {"hello\n", "no state file"},
		"other JSON":   {`{"next_sequence":5}`, "no state file"},
		"later format": {`{"format":"nexus-raft webhook 2","source":"zone 1","next_sequence":5}`, "no state file"},
		"bad number":   {`{"format":"nexus-raft webhook 1","source":"zone 1","next_sequence":-5}`, "no state file"},
		"cut off":      {`{"format":"nexus-raft webhook 1","source":"zo`, "no state file"},
		"other zone": {
			`{"format":"nexus-raft webhook 1","source":"zone 2","next_sequence":5}`,
			`is of "zone 2", not of "zone 1"`,
		},
		"huge": {strings.Repeat(" ", maxStateBytes) + "{}", "over 4096 bytes"},
	} {
		path := filepath.Join(dir, name)
		for range 2 {
			if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := OpenState(path, "zone 1")
			if err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: got %v, want %q", name, err, tc.says)
			}
			if got, err := os.ReadFile(path); string(got) != tc.content || err != nil {
				t.Errorf("%s: it is %q now, %v", name, got, err)
			}
		}
	}
	if _, err := OpenState(filepath.Join(dir, "absent", "state"), "zone 1"); err == nil {
		t.Error("a file in no directory: got no error")
	}
	if _, err := OpenState(dir, "zone 1"); err == nil {
		t.Error("a directory: got no error")
	}
}

// A failed write leaves the old content.
func TestFailedWriteKeepsTheOldState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state")
	s := openState(t, path, "zone 1")
	s.saved = time.Time{}
	if err := os.MkdirAll(filepath.Join(path+".new", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Done(5, 0); err == nil {
		t.Error("got no error")
	}
	if got := onDisk(t, path); got.Next != 0 {
		t.Errorf("got %+v on disk, want it as it was", got)
	}
	if err := os.RemoveAll(path + ".new"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil || onDisk(t, path).Next != 5 {
		t.Errorf("close: %v, %+v; want it written then", err, onDisk(t, path))
	}
}

func FuzzDecodeState(f *testing.F) {
	f.Add([]byte(`{"format":"nexus-raft webhook 1","source":"zone 1","next_sequence":5,"incarnation":3}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		p, err := decodeState(content)
		if err != nil && (!errors.Is(err, nexusraft.ErrCorrupt) || p != (Position{})) {
			t.Errorf("got %+v, %v", p, err)
		}
	})
}

func TestReadSecret(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct{ content, want, says string }{
		"plain":      {"s3cret", "s3cret", ""},
		"with break": {"s3cret\r\n", "s3cret", ""},
		"binary":     {"\x00\xff \n", "\x00\xff ", ""},
		"empty":      {"\n", "", "empty"},
		"huge":       {strings.Repeat("s", maxSecretBytes+1), "", "over 4096 bytes"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadSecret(path)
		if d := cmp.Diff(tc.want, string(got)); d != "" && tc.says == "" || (err == nil) != (tc.says == "") || err != nil &&
			!strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	if _, err := ReadSecret(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: got %v", err)
	}
}

// A link where the state file, its lock or what is written beside it first would be leads to
// nothing: somebody else may have made it.
func TestStateFollowsNoLink(t *testing.T) {
	for _, suffix := range []string{"", ".lock", ".new"} {
		dir := t.TempDir()
		path, target := filepath.Join(dir, "state"), filepath.Join(dir, "precious")
		if err := os.WriteFile(target, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, path+suffix); err != nil {
			t.Fatal(err)
		}
		s, err := OpenState(path, "zone 1")
		if (err == nil) != (suffix == ".new") {
			t.Errorf("a link at state%s: got %v", suffix, err)
		}
		if err == nil {
			if err := errors.Join(s.Done(7, 1), s.Close()); err != nil {
				t.Error(err)
			}
			if got := onDisk(t, path).Next; got != 7 {
				t.Errorf("got position %d, want 7", got)
			}
		}
		if got, err := os.ReadFile(target); string(got) != "precious" || err != nil {
			t.Errorf("a link at state%s: what it leads to is %q now, %v", suffix, got, err)
		}
	}
}
