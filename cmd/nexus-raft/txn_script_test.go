package main

import (
	"bytes"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/nexi-lab/nexus-raft/client"
)

// same compares transactions, whose parts only package client can look into.
var same = cmp.Options{cmp.Exporter(func(reflect.Type) bool { return true }), cmp.Comparer(bytes.Equal)}

func key(s string) client.KeySet { return client.Key([]byte(s)) }

// What etcdctl's syntax says, and what of ours is beyond it.
func TestTxnSyntax(t *testing.T) {
	k := []byte("k")
	for _, tc := range []struct {
		text string
		want client.Txn
	}{
		{"\n\n", client.Txn{}},
		{"value(\"k\") = \"v\"\nval(\"k\") != \"\"\n\n\n", client.Txn{If: []client.Compare{
			key("k").Value(client.Equal, []byte("v")), key("k").Value(client.NotEqual, nil),
		}}},
		{"mod(\"k\") > \"3\"\nm( \"k\" )<4\r\n\r\n\r\n", client.Txn{If: []client.Compare{
			key("k").Modified(client.Greater, 3), key("k").Modified(client.Less, 4),
		}}},
		{" ver(\"a(b\") = \"1\"\nversion(\"\\xff\\\"\") = \"0\" \n\n\n", client.Txn{If: []client.Compare{
			key("a(b").Version(client.Equal, 1), key("\xff\"").Version(client.Equal, 0),
		}}},
		{"c(\"k\") = \"2\"\ncreate(\"k\") = \"3\"\nlease(\"k\") = \"0\"\n\n\n\n\n", client.Txn{If: []client.Compare{
			key("k").Created(client.Equal, 2), key("k").Created(client.Equal, 3), key("k").Lease(client.Equal, 0),
		}}},
		{
			"\nput k v\nput 'a\\b' \"c\\nd\"\nput --prev-kv -- -k -v\nput k \"-5\"\nput --ignore-value k\nput k ''\n\n",
			client.Txn{Then: []client.Operation{
				client.Put{Key: k, Value: []byte("v")},
				client.Put{Key: []byte(`a\b`), Value: []byte("c\nd")},
				client.Put{Key: []byte("-k"), Value: []byte("-v"), Previous: true},
				client.Put{Key: k, Value: []byte("-5")},
				client.Put{Key: k, KeepValue: true},
				client.Put{Key: k},
			}},
		},
		{
			"\n\nget k\nget k --rev=3\nget --limit 2 --prefix k\nget a b --keys-only\nget --from-key k --count-only\n" +
				"get \"\" --prefix\n",
			client.Txn{Else: []client.Operation{
				client.Get{Keys: key("k")},
				client.Get{Keys: key("k"), Revision: 3},
				client.Get{Keys: client.Prefix(k), Limit: 2},
				client.Get{Keys: client.KeyRange([]byte("a"), []byte("b")), KeysOnly: true},
				client.Get{Keys: client.FromKey(k), CountOnly: true},
				client.Get{Keys: client.Prefix(nil)},
			}},
		},
		{
			"\ndel k\n\ndel --prefix k --prev-kv\ndel a b --range\ndel --from-key ''\n",
			client.Txn{Then: []client.Operation{client.Delete{Keys: key("k")}}, Else: []client.Operation{
				client.Delete{Keys: client.Prefix(k), Previous: true},
				client.Delete{Keys: client.KeyRange([]byte("a"), []byte("b"))},
				client.Delete{Keys: client.FromKey(nil)},
			}},
		},
	} {
		got, err := readScript(strings.NewReader(tc.text), nil)
		if diff := cmp.Diff(tc.want, got.txn(), same); diff != "" || err != nil {
			t.Errorf("%q: %v (-want +got):\n%s", tc.text, err, diff)
		}
	}
}

// What is wrong is named with its line and what was expected, and a text that was cut off is not a shorter one.
func TestTxnSyntaxErrors(t *testing.T) {
	for text, want := range map[string]string{
		"":                                      `line 0: the text ends in the compares: expected a blank line, and then`,
		"mod(\"k\") = \"1\"":                    `line 1: the text ends in the compares: expected a blank line`,
		"\nput k v\n":                           `line 2: the text ends in the success requests (get, put, del): expected`,
		"\n\ndel k":                             `line 3: the failure requests (get, put, del) end without a line break`,
		"\n\ndel k\n\n\nput a b":                `line 6: "put a b": expected the end`,
		"put k v\n":                             `line 1: "put k v": expected a compare such as value("key") = "text"`,
		"valu(\"k\") = \"v\"\n":                 `line 1: "valu": expected value, version, create, mod or lease before the (`,
		"value(k) = \"v\"\n":                    `line 1: after "value(": expected a key in double quotes: there is`,
		"value(\"k) = v\n":                      `line 1: after "value(": expected a key in double quotes: "\"k) = v" does`,
		"value(\"\\q\") = v\n":                  `or has a \ that stands for nothing`,
		"value(\"k\" = \"v\"\n":                 `line 1: after the key "k": expected a )`,
		"value(\"k\") \"v\"\n":                  `line 1: after the key: expected one of = != < >, and not "\"v\""`,
		"value(\"k\") = \"v\n":                  `line 1: after the relation: expected something in double quotes`,
		"value(\"k\") = \"v\" x":                `line 1: after "v": expected the end of the line, and not "x"`,
		"value(\"\") = \"v\"\n":                 `line 1: the key is empty`,
		"mod(\"k\") = \"x\"\n":                  `line 1: "x": expected a whole number from 0 on to compare mod with`,
		"mod(\"k\") = -1\n":                     `line 1: "-1": expected a whole number from 0 on`,
		"\nset k v\n":                           `line 2: "set": expected put, get or del`,
		"\nput k\n":                             `line 2: put: one argument: expected put KEY VALUE`,
		"\nput k v w\n":                         `line 2: put: 3 arguments: expected put KEY VALUE`,
		"\nput k v --ignore-value\n":            `line 2: put: 2 arguments`,
		"\nput '' v\n":                          `line 2: put: the key is empty`,
		"\nput k \"v\n":                         `line 2: "\"v" does not end with a "`,
		"\nput k 'v\n":                          `line 2: "'v": expected a ' at its end`,
		"\nput \"k\"v\n":                        `line 2: after "k": expected a space, and not "v"`,
		"\n\nget\n":                             `line 3: get: no argument: expected get KEY [END]`,
		"\n\nget a b c\n":                       `line 3: get: 3 arguments`,
		"\n\nget ''\n":                          `line 3: get: the key is empty`,
		"\n\nget k --prefix --from-key\n":       `--prefix and --from-key exclude each other`,
		"\n\nget a b --prefix\n":                `END excludes --prefix and --from-key`,
		"\n\nget k --keys-only --count-only\n":  `--keys-only and --count-only exclude each other`,
		"\n\nget k --rev=-1\n":                  `line 3: get: --rev "-1" is no whole number from 1 on`,
		"\n\nget k --rev\n":                     `line 3: get: --rev "" is no whole number from 1 on`,
		"\n\nget k --rev 9223372036854775808\n": `is no whole number`,
		"\n\nget k --order=DESCEND\n":           `line 3: get: "--order=DESCEND" is no flag of it; in quotes it is none`,
		"\n\nget k --prefix=yes\n":              `"--prefix=yes" is no flag of it`,
		"\n\nget k -5\n":                        `"-5" is no flag of it`,
		"\n\ndel k --limit=2\n":                 `line 3: del: "--limit=2" is no flag of it`,
		"\n\ndel k --range\n":                   `line 3: del: --range without an END`,
		"\n\nput \x1b[2J" + strings.Repeat("\x07", 1<<10) + "\n": `line 3: put: one argument`,
		"\n\nput k -\x1b" + strings.Repeat("x", 1<<10) + "\n":    `"-\x1bxxxxx`,
		"\nput k \"" + strings.Repeat("x", maxScriptBytes):       `bytes or more: no node takes such a transaction`,
	} {
		_, err := readScript(strings.NewReader(text), nil)
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 300 ||
			strings.ContainsAny(err.Error(), "\x1b\x07\n") {
			t.Errorf("%.60q: got %v, want %s", text, err, want)
		}
	}
}

// A terminal is asked for each block, and a wrong line again; a text that ends early is no transaction.
func TestTxnOnATerminal(t *testing.T) {
	var said strings.Builder
	got, err := readScript(strings.NewReader("mod(k) = 1\nmod(\"k\") = 1\n\nput k\nput k v\n\n\nput never read\n"), &said)
	want := client.Txn{
		If:   []client.Compare{key("k").Modified(client.Equal, 1)},
		Then: []client.Operation{client.Put{Key: []byte("k"), Value: []byte("v")}},
	}
	if diff := cmp.Diff(want, got.txn(), same); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	wantSaid := `compares:
line 1 is left out: after "mod(": expected a key in double quotes: there is "k) = 1"
success requests (get, put, del):
line 4 is left out: put: one argument: expected put KEY VALUE [--prev-kv] [--lease=ID] ` +
		`[--ignore-lease], or put KEY --ignore-value
failure requests (get, put, del):
`
	if diff := cmp.Diff(wantSaid, said.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, early := range []string{"", "\n", "\nput k v\n", "\n\n", "\n\nput k v\n"} {
		if _, err := readScript(strings.NewReader(early), &said); err == nil ||
			!strings.Contains(err.Error(), "nothing was written") {
			t.Errorf("%q: got %v", early, err)
		}
	}
}
