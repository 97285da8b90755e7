//go:build unix

package main

import (
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// locked runs a command under a lock, inside this process.
func locked(t *testing.T, endpoint string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	return command(t, append([]string{"lock", "--endpoints", endpoint}, args...)...)
}

func TestLockCommand(t *testing.T) {
	t.Parallel()
	_, endpoint, _, _ := founded(t)
	command(t, "put", "k", "v", "--endpoints", endpoint, "--timeout", "20s") // it leads
	for _, tc := range []struct {
		args   []string
		status int
		out    string // a pattern
		says   string
	}{
		{
			[]string{"a/b", "--", "sh", "-c", `echo "$NEXUS_RAFT_LOCK_TOKEN $NEXUS_RAFT_LOCK_KEY $1"`, "sh", "-x"},
			exitOK,
			`^\d+ a/b/[0-9a-f]+ -x\n$`, "",
		},
		{[]string{"job", "--", "sh", "-c", "exit 7"}, 7, "^$", ""},
		{[]string{"job", "--", "sh", "-c", "kill -9 $$"}, 128 + 9, "^$", ""},
		{[]string{"job", "--", "/nowhere/to/be/found"}, exitNoCommand, "^$", "no such file"},
		{[]string{"job", "--", t.TempDir()}, exitNotRun, "^$", "permission denied"},
		{[]string{"job", "--try", "--", "true"}, exitOK, "^$", ""},
		{[]string{"", "--", "true"}, exitNotLocked, "^$", "the name is empty"},
	} {
		status, stdout, stderr := locked(t, endpoint, tc.args...)
		if status != tc.status || !regexp.MustCompile(tc.out).MatchString(stdout) || !strings.Contains(stderr, tc.says) {
			t.Errorf("lock %q: got status %d, %q, %q; want %d, %s, %q", tc.args, status, stdout, stderr, tc.status, tc.out,
				tc.says)
		}
	}
}

// Where nobody answers, a lock with a command has a status that no command has by itself.
func TestLockWithoutACluster(t *testing.T) {
	for _, args := range [][]string{{"job", "--timeout", "100ms"}, {"job", "--timeout", "100ms", "--try", "--", "true"}} {
		want := exitFailed
		if len(args) > 3 {
			want = exitNotLocked
		}
		const nobody = "127.0.0.1:1"
		if status, _, stderr := locked(t, nobody, args...); status != want || !strings.Contains(stderr, nobody) {
			t.Errorf("lock %q: status %d, %s; want %d", args, status, stderr, want)
		}
	}
}

// A holder passes signals on to its command; who tries meanwhile gets a status of its own; a lock whose key is deleted
// is lost, and ends its command and what that has started.
func TestLockHolders(t *testing.T) {
	t.Parallel()
	_, endpoint, _, _ := founded(t)
	begin := func(script string) *process {
		p := launch(t, "lock", "job", "--endpoints", endpoint, "--timeout", "20s", "--grace", "1s", "--", "sh", "-c", script)
		p.says(t, "key job/")
		return p
	}
	const waits = `echo key $NEXUS_RAFT_LOCK_KEY; sleep 100 & wait`
	holder := begin(`trap "echo hears; exit 5" TERM; ` + waits)
	if status, _, stderr := locked(t, endpoint, "job", "--try"); status != exitLocked {
		t.Errorf("a second one: status %d, %s; want %d", status, stderr, exitLocked)
	}
	if err := holder.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status := holder.exits(t); status != 5 || !strings.Contains(holder.out.String(), "hears") {
		t.Errorf("the command got no signal: status %d,\n%s", status, &holder.out)
	}

	loser := begin(`trap "" TERM; echo child $$; ` + waits + `; sleep 100`)
	key := regexp.MustCompile(`job/[0-9a-f]+`).FindString(loser.out.String())
	var pid int
	fmt.Sscanf(loser.out.String(), "child %d", &pid)
	if status, _, stderr := command(t, "del", key, "--endpoints", endpoint, "--timeout", "20s"); status != exitOK {
		t.Fatal(stderr)
	}
	if status := loser.exits(t); status != exitLost || !strings.Contains(loser.out.String(), "the command is ended") {
		t.Errorf("a lost lock: status %d, want %d:\n%s", status, exitLost, &loser.out)
	}
	eventually(t, "what the command has started is gone", func() bool { return syscall.Kill(-pid, 0) != nil })

	killed := begin(`echo key $NEXUS_RAFT_LOCK_KEY; exec sleep 20`)
	killed.kill(t)
	begun := time.Now()
	status, _, stderr := locked(t, endpoint, "job", "--ttl", "1s", "--timeout", "20s", "--", "true")
	if status != exitOK || !strings.Contains(stderr, "waiting for the lock, which job/") {
		t.Errorf("after a killed holder: status %d after %v, %s", status, time.Since(begun), stderr)
	}
}

func TestElectCommand(t *testing.T) {
	t.Parallel()
	_, endpoint, _, _ := founded(t)
	listener := launch(t, "elect", "boss", "--listen", "--endpoints", endpoint, "--timeout", "20s")
	listener.says(t, "nobody\n")
	first := launch(t, "elect", "boss", "ann", "--endpoints", endpoint)
	listener.says(t, "\tann\n")
	second := launch(t, "elect", "boss", "bob", "--endpoints", endpoint)
	second.says(t, "waiting: ann is elected")
	first.stop(t)
	listener.says(t, "\tbob\n")
	if one, two := first.token(t), second.token(t); one >= two {
		t.Errorf("tokens %d and %d: each must be higher than the one before", one, two)
	}
	second.stop(t)
	listener.says(t, "\tbob\nnobody\n")
	listener.stop(t)
}
