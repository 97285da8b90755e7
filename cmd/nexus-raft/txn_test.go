package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTxn(t *testing.T) {
	lock := "version(\"lock\") = \"0\"\n\nput lock me\n\nget lock\n"
	all := `value("lock") = "me"

put a "\x00"
put lock you --prev-kv
get --prefix ""
get a z --keys-only --limit=1
get lock --count-only
get lock --rev=2
del none
del --prefix ol --prev-kv
get old

`
	plays(t, []step{
		{args: "txn", in: lock, out: "SUCCESS, revision 2, data copies 2\n\nOK\n"},
		{args: "txn -", in: lock, out: "FAILURE, revision 2, data copies 2\n\nlock\tme\n"},
		{args: "txn", in: "\n\n", out: "SUCCESS, revision 2, data copies 2\n"},
		{args: "put old x", out: "revision 3, data copies 2\n"},
		{args: "txn", in: all, out: `SUCCESS, revision 4, data copies 2

OK

OK
lock	me

a	"\x00"
lock	you
old	x

a

count 1

lock	me

deleted 0

deleted 1
old	x

`},
		{args: "put lock me", out: "revision 5, data copies 2\n"},
		{args: "txn --json", in: all, out: `{"succeeded":true,"revision":6,"copies":2,"results":[{"request":"put"},` +
			`{"request":"put","pairs":[{"key":"lock","value":"me","create_revision":2,"mod_revision":5,"version":3}]},` +
			`{"request":"get","pairs":[{"key":"a","value":"\u0000","create_revision":4,"mod_revision":6,"version":2},` +
			`{"key":"lock","value":"you","create_revision":2,"mod_revision":6,"version":4}],"count":2},` +
			`{"request":"get","pairs":[{"key":"a","create_revision":4,"mod_revision":6,"version":2}],"count":2,"more":true},` +
			`{"request":"get","count":1},` +
			`{"request":"get","pairs":[{"key":"lock","value":"me","create_revision":2,"mod_revision":2,"version":1}],` +
			`"count":1},{"request":"del","deleted":0},{"request":"del","deleted":0},{"request":"get","count":0}]}` + "\n"},
		{
			args: "txn --json", in: "mod(\"x\") > 1\n\n\n",
			out: `{"succeeded":false,"revision":6,"copies":2,"results":[]}` + "\n",
		},

		{args: "txn", in: "mod(x)\n", fails: "nexus-raft: txn: line 1: after \"mod(\": expected a key in double quotes: " +
			"there is \"x)\"\n"},
		{args: "txn", in: "\nput a 1\nput a 2\n\n", fails: "nexus-raft: txn: client: ADDRESS: kv: duplicate key given in " +
			"txn request; a block puts a key once, and does not delete it as well\n"},
		{args: "txn", in: "\n\n" + strings.Repeat("get k\n", 129), fails: "nexus-raft: txn: client: ADDRESS: kv: too many " +
			"operations in txn request; split it: a node takes 128 compares, and as many requests in a block, by default\n"},
		{args: "txn", in: "\nput --ignore-value none\n\n", fails: "nexus-raft: txn: client: ADDRESS: kv: key not found; " +
			"put --ignore-value and --ignore-lease want one that is there\n"},
		{args: "txn", in: "\nget a\nget a --rev 9\n\n", fails: "nexus-raft: txn: line 3: revision 9 is not there yet: the " +
			"newest is 6, the oldest that can be read 1\n"},
		{args: "compact 4", out: "the oldest revision that can be read is 4\n"},
		{args: "txn", in: "\nget a --rev 4\nget a --rev 3\n\n", fails: "nexus-raft: txn: line 3: revision 3 is compacted: " +
			"the oldest that can be read is 4, the newest 6\n"},
		{args: "list", out: "a\t\"\\x00\"\nlock\tyou\n"},
	})
}

// A file is named in errors.
func TestTxnOfAFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "swap")
	if err := os.WriteFile(file, []byte("\nput a 1\n\ndel\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plays(t, []step{
		{args: "txn '" + file + "'", fails: "nexus-raft: txn: " + file + ", line 4: del: no argument: expected del KEY " +
			"[END] [--prefix] [--from-key] [--prev-kv] [--range]\n"},
		{args: "txn '" + file + "x'", fails: "nexus-raft: txn: open " + file + "x: no such file or directory\n"},
		{args: "list"},
	})
	if err := os.WriteFile(file, []byte("\nput a 1\n\ndel a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	plays(t, []step{
		{args: "txn '" + file + "'", out: "SUCCESS, revision 2, data copies 2\n\nOK\n"},
		{args: "get a", out: "1\n"},
	})
}
