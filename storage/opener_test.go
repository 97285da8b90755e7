package storage

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TestOpenerInAnotherProcess has another process open a store: meanwhile this one is refused, which
// does no harm to the other, and once that was killed, it is let in.
func TestOpenerInAnotherProcess(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHolder$", "-test.count=1")
	cmd.Env = append(os.Environ(), "STORAGE_TEST_DIR="+dir)
	in, err := cmd.StdinPipe()
	check(t, err)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	said := bufio.NewScanner(out)
	wantLine(t, said, "open")

	for _, readOnly := range []bool{false, true} {
		o := testOptions(nil)
		o.ReadOnly = readOnly
		_, err = Open(dir, o)
		if !errors.Is(err, nexusraft.ErrRefused) || !strings.Contains(err.Error(), dir) ||
			!strings.Contains(err.Error(), "another process") {
			t.Errorf("read-only %v: got %v, want ErrRefused that names the directory and says why", readOnly, err)
		}
	}
	_, err = fmt.Fprintln(in, "write")
	check(t, err)
	wantLine(t, said, "written")

	check(t, cmd.Process.Kill())
	_ = cmd.Wait()
	s, err := Open(dir, testOptions(nil))
	check(t, err)
	defer func() { check(t, s.Close()) }()
	if value, ok, err := s.Get([]byte("k")); string(value) != "v" || !ok || err != nil {
		t.Errorf("what the other has written: got %q, %v, %v", value, ok, err)
	}
}

func wantLine(t *testing.T, said *bufio.Scanner, want string) {
	t.Helper()
	if !said.Scan() || said.Text() != want {
		t.Fatalf("the other process said %q, want %q", said.Text(), want)
	}
}

// TestHolder is the other process of TestOpenerInAnotherProcess.
func TestHolder(t *testing.T) {
	dir := os.Getenv("STORAGE_TEST_DIR")
	if dir == "" {
		t.Skip("run by TestOpenerInAnotherProcess")
	}
	s, err := Open(dir, testOptions(nil))
	check(t, err)
	fmt.Println("open")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); fmt.Println("written") {
		check(t, s.Set([]byte("k"), []byte("v")))
	}
	check(t, s.Close())
}
