package nexusraft_test

import (
	"strings"
	"testing"
	"unicode"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestValidateAddress(t *testing.T) {
	for _, good := range []string{
		"127.0.0.1:2026", "[::1]:1", "[fe80::1]:2026", "n1:65535", "a-b.example_1.org:80",
		"münchen:2026", "db.:1",
	} {
		if err := nexusraft.ValidateAddress(good); err != nil {
			t.Errorf("%q: got %v, want none", good, err)
		}
	}
	for _, bad := range []string{
		"", ":", "a", "a:", ":1", "a:0", "a:65536", "a:-1", "a:http", "a:1:2", "::1:2026", "[::1]", "http://a:1", "a/b:1",
		"a:1/x", "user@a:1",
		"a b:1", " a:1", "a:1 ", "a:1\n", "\x1b[2J:1", "a\x1b]0;x\a:1", "a\ndo: rm -rf:1", "a\u202e:1", "a\u009b:1",
		"a\x00:1", "\xff:1", "a\u200b:1",
		"[fe80::1%eth0]:2026", "fe80::1%eth0:1", "loc%61lhost:2026", "a%20b:1", "a,b:1", "a;b:1", `"a":1`, "$(x):1",
		strings.Repeat("a", 255) + ":1",
	} {
		if err := nexusraft.ValidateAddress(bad); err == nil {
			t.Errorf("%q: got none, want an error", bad)
		} else if nexusraft.PrintableText(err.Error()) != err.Error() {
			t.Errorf("%q: the error can't be printed: %q", bad, err)
		}
	}
}

func TestPrintable(t *testing.T) {
	for s, want := range map[string][2]string{
		"":              {"", ""},
		"n1 ü":          {"n1 ü", "n1 ü"},
		`"n1"`:          {`"\"n1\""`, `"n1"`},
		"a\x1b[31mb":    {`"a\x1b[31mb"`, `a\x1b[31mb`},
		"a\nb\tc":       {`"a\nb\tc"`, `a\nb\tc`},
		"a\xffb\u202ec": {`"a\xffb\u202ec"`, `a\xffb\u202ec`},
	} {
		if got := [2]string{nexusraft.Printable(s), nexusraft.PrintableText(s)}; got != want {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b\xff\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		for _, got := range []string{nexusraft.Printable(s), nexusraft.PrintableText(s)} {
			if strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
				t.Errorf("%q becomes %q", s, got)
			}
		}
		if nexusraft.ValidateAddress(s) == nil && nexusraft.Printable(s) != s {
			t.Errorf("%q is an address", s)
		}
	})
}
