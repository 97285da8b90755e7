package main

import (
	"os"
	"os/exec"
	"testing"
)

// TestMain lets a test run this program: the test's own binary is it, when a variable says so.
func TestMain(m *testing.M) {
	if os.Getenv("NEXUS_RAFT_EXAMPLE") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// The program counts on where it was stopped.
func TestCounter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, want := range []string{
		`add 1: sum "1", error <nil>
add 2: sum "3", error <nil>
add many: sum "", error counter: nexusraft: refused: a command is a whole number of 64 bits
read: 3
`,
		`add 1: sum "4", error <nil>
add 2: sum "6", error <nil>
add many: sum "", error counter: nexusraft: refused: a command is a whole number of 64 bits
read: 6
`,
	} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], dir)
		cmd.Env = append(os.Environ(), "NEXUS_RAFT_EXAMPLE=1")
		cmd.Stderr = t.Output()
		got, err := cmd.Output()
		if err != nil || string(got) != want {
			t.Fatalf("got %s, %v, want %s", got, err, want)
		}
	}
}
