package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A witness is refused by both members as rolled back, then by one of them alone, and by nobody
// once both have forgotten what they have seen of it. The words of those who are refused name the
// command.
func TestMemberForgetLives(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	c.put(t, "k", "v")
	c.w1.stop(t)
	copyDir(t, c.data("w1"), c.data("backup"))
	c.w1 = c.witness(t)
	eventually(t, "both members have met its second opening", func() bool {
		return strings.Count(c.w1.out.String(), "peer connected") >= 2
	})
	c.w1.kill(t)
	copyDir(t, c.data("backup"), c.data("w1"))
	const named = "only if no directory was copied or put back, stop that peer and see nexus-raft member forget-lives " +
		"--help"
	c.witness(t).complains(t, "copied or rolled back", named)

	forget := func(name, says string) {
		t.Helper()
		status, stdout, stderr := command(t, "member", "forget-lives", "--data-dir", c.data(name))
		if status != exitOK || !strings.HasPrefix(stdout, says) || stderr != "" {
			t.Fatalf("%s: got status %d, %q, %q; want %q", name, status, stdout, stderr, says)
		}
	}
	c.n1.stop(t)
	forget("n1", "forgot the openings seen of 2 peers;")
	c.n1 = c.serve1(t)
	c.w1 = c.witness(t)
	eventually(t, "n2 alone refuses the witness, which says so", func() bool {
		_, stdout, _ := command(t, "status", "--endpoints", c.a1+","+c.aw)
		return strings.Contains(stdout, "PROBLEM: peer ") && strings.Contains(stdout, named)
	})
	c.n2.stop(t)
	forget("n2", "forgot the openings seen of 2 peers;")
	c.n2 = c.serve2(t)
	well := func() bool {
		status, stdout, _ := command(t, "status", "--check", "--endpoints", c.endpoints()+","+c.aw)
		return status == exitOK && !strings.Contains(stdout, "PROBLEM")
	}
	eventually(t, "nobody refuses the witness", well)
	c.w1.stop(t)
	forget("w1", "forgot the openings seen of 2 peers;")
	c.w1 = c.witness(t)
	eventually(t, "the witness is back", well)
	c.wants(t, "k", "v")
}

// A directory that is in use, or no node's, is refused and left alone.
func TestMemberForgetLivesRefuses(t *testing.T) {
	t.Parallel()
	c := newTrio(t)
	empty, absent := t.TempDir(), filepath.Join(t.TempDir(), "absent")
	thesis := t.TempDir()
	if err := os.WriteFile(filepath.Join(thesis, "a.tex"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{"--data-dir", c.data("n1")}, exitFailed, "in use"},
		{[]string{"--data-dir", c.data("w1")}, exitFailed, "in use"},
		{[]string{"--data-dir", empty}, exitFailed, "belongs to no cluster"},
		{[]string{"--data-dir", absent}, exitFailed, "belongs to no cluster"},
		{[]string{"--data-dir", thesis}, exitFailed, "a.tex"},
		{[]string{"--data-dir", ""}, exitUsage, "--data-dir"},
		{nil, exitUsage, "--data-dir"},
		{[]string{"--data-dir", empty, "w1"}, exitUsage, "unexpected argument w1"},
	} {
		status, stdout, stderr := command(t, append([]string{"member", "forget-lives"}, tc.args...)...)
		if status != tc.status || stdout != "" || !strings.Contains(stderr, tc.says) {
			t.Errorf("%q: got status %d, %q, %q; want %d and %q", tc.args, status, stdout, stderr, tc.status, tc.says)
		}
	}
	if left, err := os.ReadDir(empty); err != nil || len(left) > 0 {
		t.Errorf("the empty directory holds %v, %v", left, err)
	}
	if _, err := os.Stat(absent); !os.IsNotExist(err) {
		t.Errorf("the absent directory: %v, want it absent", err)
	}
	c.put(t, "k", "they run on")
}
