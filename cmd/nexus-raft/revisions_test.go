package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// step is a command line, its input, and what it prints; fails is what it prints on the error stream if it fails.
type step struct {
	args, in, out, fails string
	status               int // if it fails; 0 means exitFailed
}

// plays runs the steps on a store of their own. ADDRESS in an error is where it is served.
func plays(t *testing.T, steps []step) {
	t.Helper()
	s := serveKeys(t)
	for _, st := range steps {
		args, _ := splitWords(st.args)
		var words []string
		for _, w := range args {
			words = append(words, w.text)
		}
		var out, errs bytes.Buffer
		words = append(words[:1:1], append([]string{"--endpoints", s.address}, words[1:]...)...)
		status := run(t.Context(), words, streams{strings.NewReader(st.in), &out, &errs})
		want := exitOK
		if st.fails != "" {
			want = max(st.status, exitFailed)
		}
		said := strings.ReplaceAll(errs.String(), s.address, "ADDRESS")
		if diff := cmp.Diff(st.out+"\n"+st.fails, out.String()+"\n"+said); diff != "" || status != want {
			t.Errorf("%s: status %d, want %d (-want +got):\n%s", st.args, status, want, diff)
		}
	}
}

func TestOldRevisions(t *testing.T) {
	const tooOld = "revision 3 is compacted: the oldest that can be read is 4, the newest 6\n"
	const tooNew = "revision 9 is not there yet: the newest is 6, the oldest that can be read 1\n"
	plays(t, []step{
		{args: "put a one", out: "revision 2, data copies 2\n"},
		{args: "put b two", out: "revision 3, data copies 2\n"},
		{args: "put a three", out: "revision 4, data copies 2\n"},
		{args: "del a", out: "deleted 1\n"},
		{args: "put a five", out: "revision 6, data copies 2\n"},

		{args: "get a --rev 2", out: "one\n"},
		{
			args: "get a --rev 3 --json",
			out:  `{"key":"a","value":"one","create_revision":2,"mod_revision":2,"version":1}` + "\n",
		},
		{args: "get a --rev 4", out: "three\n"},
		{args: "get a --rev 5", fails: "nexus-raft: get: there was no key \"a\" as of revision 5\n"},
		{args: "get a --rev 6", out: "five\n"},
		{args: "get a --rev 9", fails: "nexus-raft: get: " + tooNew},
		{args: "list --rev 3", out: "a\tone\nb\ttwo\n"},
		{args: "list --rev 5", out: "b\ttwo\n"},
		{args: "list b --rev 2"},
		{args: "list --rev 9", fails: "nexus-raft: list: " + tooNew},

		{args: "history a", out: `REVISION  CREATED  VERSION  BYTES  DELETED
2         2        1        3      no
4         2        2        5      no
5         -        -        -      yes
6         6        1        4      no
`},
		{args: "history a --json", out: `{"revision":2,"create_revision":2,"version":1,"bytes":3,"deleted":false}
{"revision":4,"create_revision":2,"version":2,"bytes":5,"deleted":false}
{"revision":5,"create_revision":0,"version":0,"bytes":0,"deleted":true}
{"revision":6,"create_revision":6,"version":1,"bytes":4,"deleted":false}
`},
		{
			args: "history 62 --hex",
			out:  "REVISION  CREATED  VERSION  BYTES  DELETED\n3         3        1        3      no\n",
		},
		{args: "history absent", fails: "nexus-raft: history: there was never a key \"absent\"\n"},

		{args: "compact 9", fails: "nexus-raft: compact: " + tooNew},
		{args: "compact 4", out: "the oldest revision that can be read is 4\n"},
		{
			args:  "compact 4",
			fails: "nexus-raft: compact: it is done: the oldest revision that can be read is 4 already, the newest 6\n",
		},
		{
			args:  "compact 3",
			fails: "nexus-raft: compact: it is done: the oldest revision that can be read is 4 already, the newest 6\n",
		},
		{args: "get a --rev 3", fails: "nexus-raft: get: " + tooOld},
		{args: "list --rev 3", fails: "nexus-raft: list: " + tooOld},
		{args: "list --rev 4", out: "a\tthree\nb\ttwo\n"},
		{args: "history a", out: `REVISION  CREATED  VERSION  BYTES  DELETED
4         2        2        5      no
5         -        -        -      yes
6         6        1        4      no
`},
		{args: "history absent", fails: "nexus-raft: history: nothing is kept of a key \"absent\": it was never there, or " +
			"not since revision 4, the oldest that can be read\n"},
		{args: "compact 6 --physical --json", out: `{"oldest_revision":6}` + "\n"},
	})
}

// Revisions that are none are refused before anybody is asked.
func TestBadRevisions(t *testing.T) {
	for _, bad := range []string{"0", "-1", "x", "", "1.5", "9223372036854775808", strings.Repeat("1", 1<<10), "\x1b[2J"} {
		for _, args := range [][]string{{"get", "k", "--rev=" + bad}, {"list", "--rev=" + bad}, {"compact", "--", bad}} {
			status, stdout, stderr := command(t, append([]string{args[0], "--endpoints", "127.0.0.1:1"}, args[1:]...)...)
			want := fmt.Sprintf("%.40q is no revision: expected a whole number from 1 on", bad)
			if status != exitUsage || stdout != "" || !strings.Contains(stderr, want) || strings.ContainsAny(stderr, "\x1b") ||
				len(stderr) > 400 {
				t.Errorf("%.60q: got status %d, %q, %q; want %s", args, status, stdout, stderr, want)
			}
		}
	}
}

// A key that can't be printed is quoted, and a long one named in part.
func TestOldRevisionsOfABadKey(t *testing.T) {
	s := serveKeys(t)
	bad := strings.Repeat("\x1b[2J\a", 1<<10/5)
	for _, args := range [][]string{
		{"put", bad, "v"},
		{"list", bad, "--rev", "2"},
		{"history", bad},
		{"get", bad, "--rev", "1"},
		{"history", bad + "x"},
		{"txn", "-"},
		{"txn", bad[:60]},
	} {
		status, stdout, stderr := command(t, append(args, "--endpoints", s.address)...)
		if strings.ContainsAny(stdout+stderr, "\x1b\a") || status != exitOK && len(stderr) > 600 {
			t.Errorf("%.20q: got status %d, %q, %q", args, status, stdout, stderr)
		}
	}
}
