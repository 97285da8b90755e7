//go:build unix

package main

import (
	"regexp"
	"strconv"
	"syscall"
	"testing"
)

// token waits until a process has a lock or an office, and returns its token.
func (p *process) token(t *testing.T) int {
	t.Helper()
	p.says(t, ", token ")
	found := regexp.MustCompile(`, token (\d+), key `).FindStringSubmatch(p.out.String())
	token, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// A lock stays with its holder while a member is killed; it goes on to the next one when the holder is killed, and when
// the holder is stopped: that one has a lower token than its successor, and ends once it runs again.
func TestLockIsHandedOn(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	locks := func() *process {
		return launch(t, "lock", "job", "--ttl", "4s", "--endpoints", c.endpoints(), "--timeout", "20s")
	}
	first := locks()
	one := first.token(t)
	second := locks()
	second.says(t, "waiting for the lock")
	c.n1.kill(t)
	c.put(t, "without n1", "v")
	c.n1 = c.serve1(t)
	c.awaitSync(t)
	if first.ProcessState != nil {
		t.Fatalf("the holder has ended:\n%s", &first.out)
	}
	first.kill(t)
	two := second.token(t)
	third := locks()
	third.says(t, "waiting for the lock")
	if err := second.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	three := third.token(t)
	if one >= two || two >= three {
		t.Errorf("tokens %d, %d, %d: each must be higher than the one before", one, two, three)
	}
	if err := second.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if status := second.exits(t); status != exitLost {
		t.Errorf("the holder that was stopped ends with status %d, want %d:\n%s", status, exitLost, &second.out)
	}
	third.stop(t)
}
