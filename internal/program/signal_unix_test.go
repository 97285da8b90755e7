//go:build unix

package program

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// signalledChild makes this test's binary a process that is told to stop and takes a minute.
const signalledChild = "NEXUS_RAFT_TEST_SIGNALLED"

// TestSecondSignalEndsAtOnce: an orderly stop that hangs is ended by another signal, however
// soon that comes after the first one shows.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	if os.Getenv(signalledChild) != "" {
		ctx := Signalled()
		fmt.Println("ready")
		<-ctx.Done()
		fmt.Println("stopping")
		time.Sleep(10 * time.Second)
		os.Exit(0)
	}
	for range 20 {
		state := signalTwice(t)
		if status := state.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGTERM {
			t.Fatalf("got %v, want the end by the second signal", state)
		}
	}
}

// signalTwice starts the child, tells it to stop, and again as soon as it says that it does.
func signalTwice(t *testing.T) *os.ProcessState {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSecondSignalEndsAtOnce$")
	child.Env = append(os.Environ(), signalledChild+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for _, want := range []string{"ready", "stopping"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("the child said %q (%v), want %q", lines.Text(), lines.Err(), want)
		}
		if err := child.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	child.Wait() //nolint:errcheck // its state is what is looked at
	return child.ProcessState
}
