package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexi-lab/nexus-raft/storage"
)

// newStore makes a store with the pairs, of which each has a tree's name in front, and a
// slash. The tree "" is the default tree.
func newStore(t *testing.T, pairs ...[2]string) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir)
	for _, p := range pairs {
		name, key, _ := strings.Cut(p[0], "/")
		tree := s.Default()
		if name != "" {
			var err error
			if tree, err = s.Tree(name); err != nil {
				t.Fatal(err)
			}
		}
		if err := tree.Set([]byte(key), []byte(p[1]), storage.NoSync); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// openStore opens a store, which is closed at the end of the test at the latest.
func openStore(t *testing.T, dir string) *storage.Store {
	t.Helper()
	s, err := storage.Open(dir, &storage.Options{DiskReserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// contents are the names of all files below dir, with the checksums of what they hold.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			found[path] = "directory"
			return err
		}
		b, err := os.ReadFile(path)
		found[path] = fmt.Sprintf("%x", sha256.Sum256(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// store runs one command line on stores inside this process, which must succeed.
func store(t *testing.T, stdin string, args ...string) (stdout, stderr string) {
	t.Helper()
	status, stdout, stderr := tryStore(t.Context(), stdin, args...)
	if status != exitOK {
		t.Fatalf("store %q: got status %d, %s", args, status, stderr)
	}
	return stdout, stderr
}

func tryStore(ctx context.Context, stdin string, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = run(ctx, append([]string{"store"}, args...), streams{strings.NewReader(stdin), &out, &errs})
	return status, out.String(), errs.String()
}

// storeFails runs a command line that must fail with a status, and say why in one line.
func storeFails(t *testing.T, status int, says, stdin string, args ...string) {
	t.Helper()
	got, stdout, stderr := tryStore(t.Context(), stdin, args...)
	lines := strings.Count(stderr, "\n")
	if got != status || stdout != "" || !strings.Contains(stderr, says) || lines > 2 || status == exitFailed && lines > 1 {
		t.Errorf("store %q: got status %d, stdout %q, stderr %q; want %d, and %q in one line on stderr", args, got, stdout,
			stderr, status, says)
	}
}

func TestStorePrintsPairs(t *testing.T) {
	dir := newStore(t, [2]string{"/a", "1"}, [2]string{"/a\x00\xff", "\xfe"}, [2]string{"/b", ""}, [2]string{"/c", "x\ty"},
		[2]string{"tree/k", "in tree"}, [2]string{"tree/", "at no key"})
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"trees", dir}, "tree\n"},
		{[]string{"trees", dir, "--json"}, `{"name":"tree"}` + "\n"},
		{[]string{"get", dir, "a"}, "1\n"},
		{[]string{"get", dir, "b"}, "\n"},
		{[]string{"get", dir, "c"}, `"x\ty"` + "\n"},
		{[]string{"get", dir, "a\x00\xff"}, `"\xfe"` + "\n"},
		{[]string{"get", dir, "6100ff", "--hex"}, "fe\n"},
		{[]string{"get", dir, "6100FF", "--hex", "--json"}, `{"key_base64":"YQD/","value_base64":"/g=="}` + "\n"},
		{[]string{"get", dir, "k", "--tree", "tree"}, "in tree\n"},
		{[]string{"get", dir, "", "--tree", "tree"}, "at no key\n"},
		{[]string{"get", dir, "b", "--json"}, `{"key":"b","value":""}` + "\n"},
		{[]string{"scan", dir}, "a\t1\n\"a\\x00\\xff\"\t\"\\xfe\"\nb\t\nc\t\"x\\ty\"\n"},
		{[]string{"scan", dir, "--hex"}, "61\t31\n6100ff\tfe\n62\t\n63\t780979\n"},
		{[]string{"scan", dir, "--keys-only", "--reverse"}, "c\nb\n\"a\\x00\\xff\"\na\n"},
		{[]string{"scan", dir, "--keys-only", "--prefix", "a"}, "a\n\"a\\x00\\xff\"\n"},
		{[]string{"scan", dir, "--keys-only", "--prefix", "61", "--reverse", "--hex"}, "6100ff\n61\n"},
		{[]string{"scan", dir, "--keys-only", "--start", "b"}, "b\nc\n"},
		{[]string{"scan", dir, "--keys-only", "--end", "b", "--reverse"}, "\"a\\x00\\xff\"\na\n"},
		{[]string{"scan", dir, "--keys-only", "--start", "c", "--end", "b"}, ""},
		{[]string{"scan", dir, "--keys-only", "--limit", "2"}, "a\n\"a\\x00\\xff\"\n"},
		{[]string{"scan", dir, "--keys-only", "--reverse", "--limit", "1", "--json"}, `{"key":"c"}` + "\n"},
		{[]string{"scan", dir, "--tree", "tree", "--json"}, `{"key":"","value":"at no key"}` + "\n" +
			`{"key":"k","value":"in tree"}` + "\n"},
	} {
		if stdout, stderr := store(t, "", tc.args...); stdout != tc.want || stderr != "" {
			t.Errorf("store %q: got %q, and %q on stderr, want %q", tc.args[1:], stdout, stderr, tc.want)
		}
	}
}

func TestStorePuts(t *testing.T) {
	dir := newStore(t)
	for _, tc := range []struct {
		stdin     string
		args      []string // of put
		key, want string
	}{
		{"", []string{"k", "first"}, "k", "first"},
		{"", []string{"k", "second"}, "k", "second"},
		{"", []string{"", "at no key"}, "", "at no key"},
		{"a\x00\xff\n", []string{"stdin", "-"}, "stdin", "a\x00\xff\n"},
		{"6162", []string{"73", "-", "--hex"}, "s", "6162"},
		{"", []string{"00ff", "2D", "--hex"}, "\x00\xff", "-"},
		{"", []string{"empty", ""}, "empty", ""},
	} {
		stdout, stderr := store(t, tc.stdin, append([]string{"put", dir}, tc.args...)...)
		if stdout != "" || stderr != "" {
			t.Errorf("put %q: got %q and %q, want silence", tc.args, stdout, stderr)
		}
		s := openStore(t, dir)
		got, ok, err := s.Get([]byte(tc.key))
		if err != nil || !ok || string(got) != tc.want {
			t.Errorf("put %q: got %q, %v, %v, want %q", tc.args, got, ok, err, tc.want)
		}
		s.Close()
	}
}

func TestStorePutsIntoATree(t *testing.T) {
	dir := newStore(t, [2]string{"old/k", "v"})
	storeFails(t, exitFailed, `there is no tree "new"; the store has the default tree, "old"`, "", "put", dir, "k", "v",
		"--tree", "new")
	if got, _ := store(t, "", "trees", dir); got != "old\n" {
		t.Errorf("after a refusal: trees %q, want old alone", got)
	}
	store(t, "", "put", dir, "k", "in new", "--tree", "new", "--create")
	store(t, "", "put", dir, "k", "in old", "--tree", "old", "--create")
	for _, name := range []string{"new", "old"} {
		if got, _ := store(t, "", "get", dir, "k", "--tree", name); got != "in "+name+"\n" {
			t.Errorf("tree %s: got %q", name, got)
		}
	}
	storeFails(t, exitFailed, "too large", strings.Repeat("x", storage.MaxValueBytes+1), "put", dir, "k", "-")
	storeFails(t, exitFailed, "control characters", "", "put", dir, "k", "v", "--tree", "a\nb", "--create")
}

func TestStoreStat(t *testing.T) {
	dir := newStore(t, [2]string{"/a", "1"}, [2]string{"b\xc3\xa4/k", "22"}, [2]string{"b\xc3\xa4/l", "333"},
		[2]string{"a/", "4"})
	openStore(t, dir).Close() // what was in the log is a table then
	stdout, stderr := store(t, "", "stat", dir, "--json")
	var got storeReport
	if err := json.Unmarshal([]byte(stdout), &got); err != nil || stderr != "" {
		t.Fatalf("got %q and %q: %v", stdout, stderr, err)
	}
	if got.DiskBytes <= 0 || len(got.Levels) != 1 || got.Levels[0].Tables != 1 || got.Levels[0].Bytes <= 0 {
		t.Errorf("got %d bytes on the disk, and levels %+v; want one that has one table", got.DiskBytes, got.Levels)
	}
	want := storeReport{
		Dir: dir, DiskBytes: got.DiskBytes, Levels: got.Levels,
		Trees: []treeReport{{"", 1, 2}, {"a", 1, 1}, {"bä", 2, 7}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	stdout, stderr = store(t, "", "stat", dir)
	for _, want := range []string{
		"store    " + dir, "closed   in order\n", "LEVEL  TABLES  BYTES\n",
		"\n(default)  1     2 B\na          1     1 B\nbä         2     7 B\n",
	} {
		if !strings.Contains(stdout, want) || stderr != "" {
			t.Errorf("got %q and %q, want %q in it", stdout, stderr, want)
		}
	}
}

func TestStoreStatAfterACrash(t *testing.T) {
	s := openStore(t, newStore(t))
	copied := filepath.Join(t.TempDir(), "copy")
	if err := s.Set([]byte("k"), []byte("v")); err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(t.Context(), copied); err != nil {
		t.Fatal(err)
	}
	if got, _ := store(t, "", "stat", copied); !strings.Contains(got, "closed   NOT IN ORDER") ||
		!strings.Contains(got, "(default)  1 ") {
		t.Errorf("the copy of an open store: got %q, want that it was not closed in order, and its key", got)
	}
}

func TestStoreReadersChangeNothing(t *testing.T) {
	dir := newStore(t, [2]string{"tree/k", "v"})
	s := openStore(t, dir)
	if err := s.Set([]byte("only in"), []byte("the log"), storage.Sync); err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	eventually(t, "a copy is made", func() bool { // the engine deletes files of its former run meanwhile
		err := errors.Join(os.RemoveAll(copied), os.CopyFS(copied, os.DirFS(dir)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return err == nil
	})
	storeFails(t, exitFailed, "no tree", "", "get", copied, "k", "--tree", "absent") // it makes the lock
	before := contents(t, copied)
	for _, args := range [][]string{
		{"stat"},
		{"trees"},
		{"get", copied, "only in"},
		{"scan"},
		{"export"},
		{"check"},
		{"backup", copied, filepath.Join(t.TempDir(), "b")},
		{"restore", copied, filepath.Join(t.TempDir(), "r")},
	} {
		if len(args) == 1 {
			args = append(args, copied)
		}
		store(t, "", args...)
		if d := cmp.Diff(before, contents(t, copied)); d != "" {
			t.Errorf("store %s changed the directory, -before +after:\n%s", args[0], d)
		}
	}
}

// everyCommand returns a line of each command on a directory.
func everyCommand(t *testing.T, dir string) map[string][]string {
	target := filepath.Join(t.TempDir(), "target")
	return map[string][]string{
		"stat": {dir}, "trees": {dir}, "get": {dir, "k"}, "put": {dir, "k", "v"}, "scan": {dir}, "export": {dir},
		"import": {dir}, "backup": {dir, target}, "restore": {dir, target}, "check": {dir},
	}
}

func TestStoreCommandsWithoutAStore(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	absent, empty, file, foreign, wit := base+"/absent", base+"/empty", base+"/file", base+"/foreign", base+"/w"
	for _, dir := range []string{empty, foreign} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{file, foreign + "/letter"} {
		if err := os.WriteFile(name, []byte("text"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	launch(t, "witness", "--data-dir", wit, "--name", "w", "--listen", "127.0.0.1:0", "--join", "127.0.0.1:1",
		"--join-timeout", "100ms").complains(t, "no address has answered")
	before := contents(t, base)
	for _, tc := range []struct{ dir, says string }{
		{"", "is empty: name"},
		{absent, "there is no store in " + absent},
		{empty, "there is no store in " + empty},
		{file, file + " is not a directory"},
		{foreign, `holds no store: it has "letter"`},
		{wit, "holds no store: it is the directory of a witness"},
	} {
		for name, args := range everyCommand(t, tc.dir) {
			if name == "import" && (tc.dir == absent || tc.dir == empty) {
				continue // it makes one
			}
			status, says := exitFailed, tc.says
			if tc.dir == "" {
				status = exitUsage
			}
			if name == "import" && (tc.dir == foreign || tc.dir == wit) {
				says = "give an empty directory or one that is absent"
			}
			storeFails(t, status, says, "", append([]string{name}, args...)...)
		}
	}
	if d := cmp.Diff(before, contents(t, base)); d != "" {
		t.Errorf("the commands changed something, -before +after:\n%s", d)
	}
}

func TestStoreBadFlags(t *testing.T) {
	dir := newStore(t)
	for _, tc := range []struct {
		says string
		args []string
	}{
		{"expected one of", nil},
		{"<dir>", []string{"stat"}},
		{"<key>", []string{"get", dir}},
		{"<value>", []string{"put", dir, "k"}},
		{"<target>", []string{"backup", dir}},
		{"TARGET is empty", []string{"backup", dir, ""}},
		{"<dir>", []string{"restore", dir}},
		{"DIR is empty", []string{"restore", dir, ""}},
		{"--limit -1", []string{"scan", dir, "--limit=-1"}},
		{"--limit", []string{"scan", dir, "--limit", "many"}},
		{"--prefix can't be used with", []string{"scan", dir, "--prefix", "a", "--start", "b"}},
		{"--prefix can't be used with", []string{"scan", dir, "--prefix", "a", "--end", "b"}},
		{`KEY "xyz" is not hexadecimal`, []string{"get", dir, "xyz", "--hex"}},
		{`VALUE "abc" is not hexadecimal`, []string{"put", dir, "00", "abc", "--hex"}},
		{`--start "g" is not hexadecimal`, []string{"scan", dir, "--start", "g", "--hex"}},
		{"--frobnicate", []string{"check", dir, "--frobnicate"}},
	} {
		storeFails(t, exitUsage, tc.says, "", tc.args...)
	}
	storeFails(t, exitFailed, `there is no key "absent" in the default tree`, "", "get", dir, "absent")
	for _, name := range []string{"get", "scan"} {
		args := append([]string{name}, everyCommand(t, dir)[name]...)
		storeFails(t, exitFailed, `there is no tree "absent"; the store has the default tree`, "",
			append(args, "--tree", "absent")...)
	}
}

func TestStoreNamesItsTrees(t *testing.T) {
	dir := newStore(t, [2]string{"a/", ""}, [2]string{"b/", ""}, [2]string{"c\xc2\xa0/", ""})
	storeFails(t, exitFailed, `the store has the default tree, "a", "b", "c\u00a0"`, "", "scan", dir, "--tree", "absent")
	if got, want := listNames(strings.Split("abcdefghijk", "")),
		`, "a", "b", "c", "d", "e", "f", "g", "h" and 3 more: nexus-raft store trees`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestStoreHelpHasAnExample(t *testing.T) {
	for name := range everyCommand(t, "") {
		stdout, stderr := store(t, "", name, "--help")
		if !strings.Contains(stdout, "Example") || !strings.Contains(stdout, "nexus-raft store "+name) || stderr != "" {
			t.Errorf("store %s --help: got %q, %q; want an example", name, stdout, stderr)
		}
	}
}

func TestStoreInterrupted(t *testing.T) {
	dir := newStore(t, [2]string{"/k", "v"})
	exported, _ := store(t, "", "export", dir)
	for name, args := range everyCommand(t, dir) {
		if name == "trees" || name == "get" || name == "put" {
			continue // they don't look: they are done at once
		}
		status, _, stderr := tryStore(interrupted(t), exported, append([]string{name}, args...)...)
		if status != exitFailed || !strings.Contains(stderr, "interrupted") {
			t.Errorf("store %s: got status %d and %q, want that it was interrupted", name, status, stderr)
		}
	}
}

// interrupted is the context of a command whose user does not want to wait any longer.
func interrupted(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
