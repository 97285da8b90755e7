package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// mainVariable makes this test program behave as nexus-raft itself, for tests that need
// processes.
const mainVariable = "RUN_AS_NEXUS_RAFT"

func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) != "" {
		main()
	}
	flag.Parse()
	// Tests beside one another wait, mostly: for timeouts of processes, not for a processor.
	if p := flag.Lookup("test.parallel"); p.Value.String() == strconv.Itoa(runtime.GOMAXPROCS(0)) {
		if err := p.Value.Set(strconv.Itoa(2 * runtime.GOMAXPROCS(0))); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// command runs one command line inside this process.
func command(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, streams{strings.NewReader(""), &out, &errs})
	return status, out.String(), errs.String()
}

func TestExitStatuses(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	nobody := "127.0.0.1:1"
	for _, tc := range []struct {
		args   []string
		status int
		says   string
	}{
		{[]string{}, exitUsage, "expected one of"},
		{[]string{"frobnicate"}, exitUsage, "frobnicate"},
		{[]string{"put", "k"}, exitUsage, "VALUE or --file"},
		{[]string{"put", "k", "v", "--file", "x"}, exitUsage, "VALUE or --file"},
		{[]string{"put", "k", "--file", filepath.Join(empty, "absent")}, exitFailed, "absent"},
		{[]string{"put", "k", "-5"}, exitUsage, "unknown flag -5; for a value that begins with a hyphen, put -- before it, " +
			"after all flags: nexus-raft put --FLAGS -- KEY VALUE"},
		{[]string{"put", "--endpoints", nobody, "--timeout", "100ms", "--", "k", "-5"}, exitFailed, "nothing was written"},
		{[]string{"get", "k", "--endpoint", nobody}, exitUsage, `did you mean "--endpoints"`},
		{[]string{"status", "-5"}, exitUsage, "unknown flag -5"},
		{[]string{"put", "6g", "00", "--hex"}, exitUsage, `KEY "6g" is not hexadecimal`},
		{[]string{"put", "60", "0", "--hex"}, exitUsage, `VALUE "0" is not hexadecimal`},
		{[]string{"get", "6", "--hex"}, exitUsage, "KEY"},
		{[]string{"del", "6", "--hex"}, exitUsage, "KEY"},
		{[]string{"list", "6", "--hex"}, exitUsage, "PREFIX"},
		{[]string{"serve"}, exitUsage, "--data-dir"},
		{[]string{"init"}, exitUsage, "--data-dir"},
		{[]string{"init", "--data-dir", ""}, exitUsage, "--data-dir is empty"},
		{[]string{"serve", "--data-dir", ""}, exitUsage, "--data-dir is empty"},
		{[]string{"init", "--data-dir", empty, "--name", "\xff"}, exitUsage, "--name"},
		{[]string{"serve", "--data-dir", empty, "--name", "a\nb"}, exitUsage, "--name"},
		{[]string{"serve", "--data-dir", empty, "--name", " a"}, exitUsage, "--name"},
		{[]string{"serve", "--data-dir", empty, "--name", strings.Repeat("n", 65)}, exitUsage, "limit 64"},
		{
			[]string{"put", "k", "v", "--endpoints", nobody + ", " + nobody, "--timeout", "100ms"},
			exitFailed,
			"nothing was written",
		},
		{[]string{"init", "--data-dir", empty, "--listen", "nonsense"}, exitUsage, `"nonsense" is not host:port`},
		{[]string{"get", "k", "--endpoints", "nonsense"}, exitUsage, `"nonsense" is not host:port`},
		{[]string{"get", "k", "--timeout", "0s"}, exitUsage, "--timeout 0s is not above 0"},
		{[]string{"get", "k", "--endpoints", nobody, "--timeout", "100ms"}, exitFailed, nobody},
		{[]string{"put", "k", "v", "--endpoints", nobody, "--timeout", "100ms"}, exitFailed, nobody},
		{[]string{"status", "--endpoints", nobody, "--timeout", "100ms"}, exitFailed, "no endpoint answered"},
		{[]string{"get", "k", "--endpoints", "127.0.0.1"}, exitUsage, `"127.0.0.1" is not host:port`},
		{[]string{"put", "k", "v", "--zone", "0"}, exitUsage, "--zone: 0 is no zone"},
		{[]string{"put", "k", "v", "--zone", "Orders"}, exitUsage, "--zone: no zone has such an ID"},
		{[]string{"put", "k", "v", "--zone", ""}, exitUsage, "--zone: no zone has such an ID"},
		{[]string{"get", "k", "--zone", strings.Repeat("z", 1<<10)}, exitUsage, "1024 bytes, limit 64"},
		{
			[]string{"get", "k", "--zone", "orders", "--endpoints", nobody, "--timeout", "100ms"},
			exitFailed,
			"zone orders: its ID is not known",
		},
		{[]string{"zone"}, exitUsage, "expected one of"},
		{[]string{"zone", "create", "face"}, exitUsage, "could be a zone's ID"},
		{[]string{"zone", "create", "all"}, exitUsage, "every zone"},
		{[]string{"zone", "create", "root"}, exitUsage, "is the root zone's"},
		{[]string{"zone", "create", "../x"}, exitUsage, "lower-case letter"},
		{[]string{"zone", "create", "orders", "--machine", ""}, exitUsage, "state machine's name is empty"},
		{[]string{"zone", "create", "orders", "--endpoints", nobody, "--timeout", "100ms"}, exitFailed, nobody},
		{[]string{"zone", "delete", "root", "--yes"}, exitUsage, "can't be deleted"},
		{[]string{"zone", "delete", "1", "--yes"}, exitUsage, "can't be deleted"},
		{[]string{"zone", "delete", "orders"}, exitUsage, "with all its data: --yes"},
		{[]string{"zone", "list", "--endpoints", nobody, "--timeout", "100ms"}, exitFailed, nobody},
		{[]string{"zone", "show", "0"}, exitUsage, "0 is no zone"},
		{[]string{"status", "--zone", "0"}, exitUsage, "--zone: 0 is no zone"},
		{[]string{"events", "--zone", "0"}, exitUsage, "--zone: 0 is no zone"},
		{[]string{"watch", "--exact"}, exitUsage, "--exact needs the name of a key"},
		{[]string{"watch", "6", "--hex"}, exitUsage, "PREFIX"},
		{[]string{"watch", "--rev", "0"}, exitUsage, "is no revision"},
		{[]string{"watch", "--endpoints", nobody, "--timeout", "100ms"}, exitFailed, "no answer in time within 100ms"},
		{[]string{"lease"}, exitUsage, "expected one of"},
		{[]string{"lease", "grant", "0"}, exitUsage, "no time to live above 0"},
		{[]string{"lease", "revoke", "0x1"}, exitUsage, "is no lease's ID, which is hexadecimal"},
		{[]string{"lease", "list", "--endpoints", nobody, "--timeout", "100ms"}, exitFailed, nobody},
		{[]string{"put", "k", "v", "--lease", "g"}, exitUsage, "is no lease's ID, which is hexadecimal"},
		{[]string{"lock"}, exitUsage, "<name>"},
		{[]string{"lock", "job", "--ttl", "0"}, exitUsage, "no time to live above 0"},
		{[]string{"lock", "job", "--grace", "0s"}, exitUsage, "--grace 0s is not above 0"},
		{[]string{"lock", "job", "--timeout", "0s", "--", "true"}, exitUsage, "--timeout 0s is not above 0"},
		{[]string{"elect", "boss"}, exitUsage, "give a VALUE, or --listen"},
		{[]string{"elect", "boss", "v", "--listen"}, exitUsage, "is no candidate"},
		{[]string{"elect", "boss", "v", "--endpoints", nobody, "--timeout", "100ms"}, exitFailed, nobody},
		{[]string{"member"}, exitUsage, "expected one of"},
		{[]string{"member", "replace", "n1"}, exitUsage, "<new>"},
		{[]string{"member", "list", "--endpoints", nobody, "--timeout", "100ms"}, exitFailed, "no leader answers: " + nobody},
		{[]string{"member", "remove", "n1", "--endpoints", nobody, "--timeout", "100ms"}, exitFailed, nobody},
		{[]string{"transfer", "--endpoints", nobody, "--timeout", "100ms"}, exitFailed, nobody},
		{[]string{"status", "--timeout=-1s"}, exitUsage, "--timeout -1s is not above 0"},
		{[]string{"serve", "--data-dir", empty, "--listen", "0.0.0.0:0"}, exitUsage, "--advertise"},
		{[]string{"serve", "--data-dir", empty, "--listen", ":0"}, exitUsage, "--advertise"},
		{[]string{"serve", "--data-dir", empty, "--listen", "192.0.2.1:2026"}, 1, "no address of this machine"},
		{[]string{"serve", "--data-dir", empty, "--listen", "0.0.0.0:0", "--insecure"}, exitUsage, "--advertise"},
		{[]string{"serve", "--data-dir", empty, "--advertise", "nonsense"}, exitUsage, "--advertise"},
		{[]string{"serve", "--data-dir", empty, "--join", "nonsense"}, exitUsage, "--join"},
		{[]string{"serve", "--data-dir", empty, "--config", empty + "/none.yaml"}, exitUsage, empty + "/none.yaml"},
		{[]string{"serve", "--data-dir", empty, "--disk-reserve", "lots"}, exitUsage, "--disk-reserve"},
		{[]string{"serve", "--data-dir", empty, "--snapshot-bandwidth", "1KiB"}, exitUsage, "--snapshot-bandwidth"},
		{[]string{"witness", "--data-dir", empty, "--listen", "0.0.0.0:0"}, exitUsage, "--advertise"},
		{[]string{"witness", "--data-dir", empty, "--listen", "127.0.0.1:0"}, exitFailed, "--join"},
		{[]string{"init", "--data-dir", empty, "--listen", "0.0.0.0:2026"}, exitUsage, "--advertise"},
		{[]string{"init", "--data-dir", empty, "--advertise", "n.example:0"}, exitUsage, "port 0"},
		{[]string{"serve", "--data-dir", empty, "--log-level", "loud"}, exitUsage, "--log-level"},
		{[]string{"serve", "--data-dir", empty, "--listen", "127.0.0.1:0"}, exitFailed, "--join"},
		{[]string{"demo", empty}, exitFailed, "holds no file"},
		{[]string{"demo", empty + "/missing"}, exitFailed, "does not exist"},
		{[]string{"demo", "--kill", "everyone"}, exitUsage, "--kill"},
		{[]string{"demo", "--min-seconds", "0"}, exitUsage, "--min-seconds"},
		{[]string{"demo", "--min-seconds", "NaN"}, exitUsage, "--min-seconds"},
		{[]string{"demo", "--writers", "0"}, exitUsage, "--writers"},
		{[]string{"demo", "--deadline", "-1s"}, exitUsage, "--deadline"},
		{[]string{"bench", "erase"}, exitUsage, "put"},
		{[]string{"bench", "--endpoints", "nonsense"}, exitUsage, `"nonsense" is not host:port`},
		{[]string{"bench", "--clients", "0"}, exitUsage, "--clients"},
		{[]string{"bench", "--value-size", "-1"}, exitUsage, "--value-size"},
		{[]string{"bench", "--key-space", "0"}, exitUsage, "--key-space"},
		{[]string{"bench", "--duration", "0s"}, exitUsage, "--duration"},
		{[]string{"bench", "--zone", "XYZ"}, exitUsage, "--zone"},
		{[]string{"bench", "--endpoints", nobody, "--html", empty}, exitFailed, "is not a file"},
		{[]string{"bench", "--endpoints", nobody}, exitFailed, nobody},
	} {
		status, stdout, stderr := command(t, tc.args...)
		if status != tc.status || !strings.Contains(stderr, tc.says) || strings.Count(stderr, "\n") > 2 {
			t.Errorf("%q: got status %d, stdout %q, stderr %q; want %d and %q on stderr, in a line or two", tc.args, status,
				stdout, stderr, tc.status, tc.says)
		}
	}
}

func TestHelpHasAnExample(t *testing.T) {
	for _, name := range []string{
		"init", "serve", "witness", "demo", "bench", "put", "get", "del", "list", "txn", "compact", "history", "status",
		"watch", "lease grant", "lease revoke", "lease keep", "lease list", "lease ttl", "lock", "elect",
		"zone create", "zone delete", "zone list", "zone show",
		"member list", "member remove", "member replace", "member promote", "transfer", "access grant", "access revoke",
		"access list", "access token", "access revoke-token", "access cert", "access ca", "access recover",
	} {
		status, stdout, stderr := command(t, append(strings.Fields(name), "--help")...)
		if status != exitOK || !strings.Contains(stdout, "Example") || stderr != "" {
			t.Errorf("%s --help: got status %d, %q, %q; want an example", name, status, stdout, stderr)
		}
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"serve", "--version"}, {"put", "--version"}} {
		status, stdout, stderr := command(t, args...)
		if status != exitOK || !strings.HasPrefix(stdout, "nexus-raft ") || stderr != "" {
			t.Errorf("%q: got status %d, %q, %q; want name and version", args, status, stdout, stderr)
		}
	}
}
