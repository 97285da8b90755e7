package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// helperVariable makes this test program behave as a child that a test starts.
const helperVariable = "RUN_AS_DEMO_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helperVariable) {
	case "":
		goleak.VerifyTestMain(m)
	case "fail": // says why and fails
		for i := range 100 {
			fmt.Fprintln(os.Stderr, "line", i)
		}
		os.Exit(3)
	case "serve": // listens, says where, and stops when it is told to or its input ends
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		listen()
		go func() { io.Copy(io.Discard, os.Stdin); stop() }()
		<-ctx.Done()
	case "stubborn": // listens and takes no notice of anything
		signal.Ignore(os.Interrupt, syscall.SIGTERM)
		listen()
		select {}
	case "parent": // starts a child and waits to be killed
		os.Setenv(helperVariable, "serve")
		if _, err := startProcess("grandchild", os.Args[1], os.Args[0]); err != nil {
			panic(err)
		}
		select {}
	}
}

// listener is kept: one that nobody refers to is closed by the garbage collector.
var listener net.Listener

// listen listens at a port of its own for as long as the process lives.
func listen() {
	var err error
	if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		panic(err)
	}
	fmt.Fprintln(os.Stderr, "listening at", listener.Addr())
}

func startHelper(t *testing.T, mode string) *process {
	t.Helper()
	t.Setenv(helperVariable, mode)
	p, err := startProcess("helper", filepath.Join(t.TempDir(), "helper.log"), os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.kill(); p.wait() })
	return p
}

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// address waits until the helper whose log this is listens, and returns where.
func address(t *testing.T, log string) (address string) {
	t.Helper()
	eventually(t, "the helper listens", func() bool {
		f, err := os.Open(log)
		if err != nil {
			return false
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			if after, ok := strings.CutPrefix(lines.Text(), "listening at "); ok {
				address = after
			}
		}
		return address != ""
	})
	return address
}

func TestUnexpectedEndShowsTheLog(t *testing.T) {
	p := startHelper(t, "fail")
	ctx, died := context.WithCancelCause(t.Context())
	p.watch(died)
	got := context.Cause(ctx)
	if got == nil || !strings.Contains(got.Error(), "helper ended without being stopped: exit status 3") ||
		!strings.HasSuffix(got.Error(), "line 99") || len(got.Error()) > 2*tailBytes {
		t.Errorf("got %v, want the exit status and the end of the log", got)
	}
}

func TestMeantEndIsNotUnexpected(t *testing.T) {
	p := startHelper(t, "serve")
	address(t, p.log)
	ctx, died := context.WithCancelCause(t.Context())
	p.kill()
	p.watch(died)
	if ctx.Err() != nil {
		t.Errorf("got %v, want nothing", context.Cause(ctx))
	}
}

func TestStopInOrder(t *testing.T) {
	p := startHelper(t, "serve")
	address(t, p.log)
	if err := p.stop(20 * time.Second); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestStopKillsWhatDoesNotStop(t *testing.T) {
	p := startHelper(t, "stubborn")
	address(t, p.log)
	err := p.stop(50 * time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("stop: got %v, want an error that says it was killed", err)
	}
	if !p.ended() {
		t.Error("it has not ended")
	}
}

func TestChildDoesNotOutliveAKilledParent(t *testing.T) {
	log := filepath.Join(t.TempDir(), "grandchild.log")
	parent := exec.Command(os.Args[0], log)
	parent.Env = append(os.Environ(), helperVariable+"=parent")
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	at := address(t, log)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	parent.Wait()
	eventually(t, "the grandchild has ended", func() bool {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			return true
		}
		conn.Close()
		return false
	})
}

func TestAwaitSaysWhatItWaitedFor(t *testing.T) {
	c := &cluster{}
	err := c.await(t.Context(), "it rains", 30*time.Millisecond,
		func(context.Context) (string, bool) { return "blue sky", false })
	if err == nil || !strings.Contains(err.Error(), "until it rains") || !strings.Contains(err.Error(), "blue sky") {
		t.Errorf("got %v, want what was waited for and what was seen", err)
	}
	died := errors.New("n1 died")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(died)
	if err := c.await(ctx, "it rains", time.Minute, func(context.Context) (string, bool) {
		return "",
			false
	}); !errors.Is(err, died) {
		t.Errorf("got %v, want %v", err, died)
	}
}

func TestPrepareAndRemove(t *testing.T) {
	base := t.TempDir()
	full := filepath.Join(base, "full")
	write(t, full, "f", "x")
	if _, err := prepare(full); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a full directory: got %v, want a refusal", err)
	}
	for _, tc := range []struct {
		path string
		made bool
	}{{filepath.Join(base, "new"), true}, {t.TempDir(), false}} {
		d, err := prepare(tc.path)
		if err != nil {
			t.Fatal(err)
		}
		write(t, d.path, "n1/log", "x")
		if err := d.remove(); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(tc.path)
		if gone := errors.Is(err, os.ErrNotExist); gone != tc.made || len(entries) > 0 {
			t.Errorf("%s: left %v, %v; want it gone: %t", tc.path, entries, err, tc.made)
		}
	}
}
