package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStoreInUse(t *testing.T) {
	dir := newStore(t, [2]string{"/k", "v"})
	s := openStore(t, dir)
	refusedInUse(t, dir)
	if err := s.Set([]byte("k"), []byte("it goes on")); err != nil {
		t.Errorf("after that, a write of the one that has it open: %v", err)
	}
}

// refusedInUse tries all commands on a directory that is in use.
func refusedInUse(t *testing.T, dir string) {
	t.Helper()
	for name, args := range everyCommand(t, dir) {
		storeFails(t, exitFailed, "in use by another process; stop that one first", "", append([]string{name}, args...)...)
	}
}

func TestStoreOfANode(t *testing.T) {
	base := t.TempDir()
	dir, address := filepath.Join(base, "n1"), freeAddress(t)
	if status, _, stderr := command(t, "init", "--data-dir", dir, "--name", "n1", "--listen", address); status != exitOK {
		t.Fatalf("init: status %d, %s", status, stderr)
	}
	before := contents(t, dir)
	for _, args := range [][]string{
		{"put", dir, "k", "v"},
		{"put", dir, "k", "v", "--tree", "new", "--create"},
		{"import", dir},
	} {
		storeFails(t, exitFailed, dir+" belongs to node", "", args...)
	}
	if d := cmp.Diff(before, contents(t, dir)); d != "" {
		t.Errorf("refused commands changed the node's directory, -before +after:\n%s", d)
	}
	if got, _ := store(t, "", "get", dir, "identity", "--tree", "node"); !strings.Contains(got, `"name":"n1"`) {
		t.Errorf("get: got %q, want the node's record", got)
	}
	for _, args := range [][]string{{"backup", dir, base + "/b"}, {"restore", base + "/b", base + "/r"}} {
		stdout, stderr := store(t, "", args...)
		if !strings.HasPrefix(stderr, "warning: this is the store of node ") || !strings.Contains(stderr, "fenced") ||
			!strings.Contains(stdout, args[2]) {
			t.Errorf("%s: got %q and %q, want a warning", args[0], stdout, stderr)
		}
	}
	if stdout, _ := store(t, "", "stat", base+"/r"); !strings.Contains(stdout, "owner    node ") {
		t.Errorf("stat of the copy: got %q, want its owner", stdout)
	}

	serve := launch(t, "serve", "--data-dir", dir, "--listen", address)
	eventually(t, "the node serves", func() bool { return strings.Contains(serve.out.String(), "msg=ready") })
	refusedInUse(t, dir)
	serve.stop(t)
	store(t, "", "check", dir)
}

func TestStoreOfNoNode(t *testing.T) {
	dir := newStore(t, [2]string{"node/identity", "not a node's, but a user's"})
	store(t, "", "put", dir, "k", "v")
	if got, _ := store(t, "", "stat", dir); strings.Contains(got, "owner") {
		t.Errorf("got %q, want no owner", got)
	}
	damaged := newStore(t, [2]string{"node/identity", "garbage"}, [2]string{"raft/", ""})
	storeFails(t, exitFailed, "find out whose store it is", "", "put", damaged, "k", "v")
	store(t, "", "scan", damaged)
}

func TestStoreBackupAndRestore(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir := newStore(t, [2]string{"/k", "v"}, [2]string{"tree/k", "v2"})
	backup, restored := base+"/new/backup", base+"/restored"
	if got, stderr := store(t, "", "backup", dir, backup); !strings.HasPrefix(got, "backed up "+dir+" to "+backup+": ") ||
		stderr != "" {
		t.Errorf("backup: got %q and %q", got, stderr)
	}
	store(t, "", "put", dir, "k", "changed later")
	if got, stderr := store(t, "", "restore", backup, restored); !strings.HasPrefix(got,
		"restored "+backup+" to "+restored+": ") || stderr != "" {
		t.Errorf("restore: got %q and %q", got, stderr)
	}
	if got, _ := store(t, "", "scan", restored); got != "k\tv\n" {
		t.Errorf("scan of what was restored: got %q", got)
	}
	if got, _ := store(t, "", "get", restored, "k", "--tree", "tree"); got != "v2\n" {
		t.Errorf("get from a tree that was restored: got %q", got)
	}
	before := contents(t, base)
	storeFails(t, exitFailed, "is not empty", "", "backup", dir, restored)
	storeFails(t, exitFailed, "is not empty", "", "restore", backup, restored)
	storeFails(t, exitFailed, "own directory", "", "backup", dir, dir+"/inside")
	storeFails(t, exitFailed, "there is no store", "", "restore", base+"/absent", base+"/r2")
	if d := cmp.Diff(before, contents(t, base)); d != "" {
		t.Errorf("refused commands changed something, -before +after:\n%s", d)
	}
}

func TestStoreCheck(t *testing.T) {
	dir := newStore(t, [2]string{"/k", "v"}, [2]string{"tree/k", "v"})
	openStore(t, dir).Close() // what was in the log is a table then
	var got checkReport
	stdout, _ := store(t, "", "check", dir, "--json")
	parse(t, stdout, &got)
	if got.Tables != 1 || got.Bytes == 0 || got.Pairs != 2 || got.Trees != 2 {
		t.Errorf("got %+v, want 2 pairs in 2 trees, and a table", got)
	}
	if stdout, _ = store(t, "", "check", dir); !strings.HasPrefix(stdout, dir+" is sound: 1 tables of ") ||
		!strings.HasSuffix(stdout, ", 2 pairs in 2 trees\n") {
		t.Errorf("got %q", stdout)
	}
}

func TestStoreCheckFindsAFlippedByte(t *testing.T) {
	var pairs [][2]string
	for i := range 100 {
		pairs = append(pairs, [2]string{fmt.Sprintf("/%d", i), rand.Text() + strings.Repeat(rand.Text(), 10)})
	}
	dir := newStore(t, pairs...)
	openStore(t, dir).Close() // what was in the log is a table then
	tables, err := filepath.Glob(dir + "/*.sst")
	if err != nil || len(tables) != 1 {
		t.Fatalf("got %q, %v; want a table", tables, err)
	}
	sound, err := os.ReadFile(tables[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{20, len(sound) / 2} { // what Open reads, and what it does not
		damaged := bytes.Clone(sound)
		damaged[at] ^= 0x10
		if err := os.WriteFile(tables[0], damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		storeFails(t, exitFailed, tables[0], "", "check", dir)
		storeFails(t, exitFailed, filepath.Base(tables[0]), "", "restore", dir, filepath.Join(t.TempDir(), "r"))
	}
}
