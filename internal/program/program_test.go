package program

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
)

// testLine is a command line with two commands that have flags of the same names.
type testLine struct {
	Run   runCommand       `cmd:"" help:"Run it."`
	Other runCommand       `cmd:"" help:"Run another."`
	Show  bool             `env:"-" help:"A flag of all commands."`
	Quit  kong.VersionFlag `name:"version" env:"-" help:"Print the version."`
}

type runCommand struct {
	Daemon `set:"listen=127.0.0.1:9"`
	Size   int `default:"7" help:"A number."`
}

func (*runCommand) Help() string { return "Example: none." }

// parse parses a command line in an environment with these variables.
func parse(
	t *testing.T, environment map[string]string, args ...string,
) (line testLine, status int, stdout, stderr string) {
	t.Helper()
	for name, value := range environment {
		t.Setenv(name, value)
	}
	var out, errs bytes.Buffer
	command, status := Parse(t.Context(), "prog", &line, args, Standard{Out: &out, Err: &errs})
	if command != nil && status != ExitOK {
		t.Errorf("%q: a command with status %d", args, status)
	}
	return line, status, out.String(), errs.String()
}

// file writes a configuration file and returns its path.
func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	config := file(t, "data-dir: from-file\nname: from-file\nlisten: 127.0.0.3:3\nsize: 3\njoin: [h:3, "+
		"i:3]\nlog-format: json\n")
	env := map[string]string{
		"NEXUS_RAFT_CONFIG": config, "NEXUS_RAFT_NAME": "from-env", "NEXUS_RAFT_LISTEN": "127.0.0.2:2",
		"NEXUS_RAFT_JOIN_TIMEOUT": "2s", "NEXUS_RAFT_VERSION": "1", "NEXUS_RAFT_SHOW": "nonsense",
	}
	line, status, stdout, stderr := parse(t, env, "run", "--name", "from-flag")
	if status != ExitOK || stdout != "" || stderr != "" {
		t.Fatalf("got status %d, %q, %q", status, stdout, stderr)
	}
	got := line.Run.Daemon
	want := Daemon{
		Config: configFile(config), DataDir: "from-file", Name: "from-flag", Listen: "127.0.0.2:2",
		Join: []string{"h:3", "i:3"}, JoinTimeout: 2 * time.Second, ElectionTimeout: 300 * time.Millisecond, LogLevel: "info",
		LogFormat: "json",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("flag > environment > file > default (-want +got):\n%s", d)
	}
	if line.Run.Size != 3 {
		t.Errorf("size: got %d, want the file's 3 before the default 7", line.Run.Size)
	}
}

// A flag in the command line's place wins over the file also with the default's value.
func TestFlagWithItsDefaultWinsOverFile(t *testing.T) {
	config := file(t, "data-dir: d\nsize: 3\ninsecure: true")
	line, _, _, stderr := parse(t, nil, "run", "--config", config, "--size", "7", "--no-such")
	if !strings.Contains(stderr, "--no-such") {
		t.Errorf("got %q, want the unknown flag refused", stderr)
	}
	line, _, _, stderr = parse(t, nil, "run", "--config="+config, "--size=7", "--insecure=false")
	if line.Run.Size != 7 || line.Run.Insecure || line.Run.DataDir != "d" || stderr != "" {
		t.Errorf("got %+v, %s", line.Run, stderr)
	}
}

func TestEnvironmentAlone(t *testing.T) {
	env := map[string]string{
		"NEXUS_RAFT_DATA_DIR": "d", "NEXUS_RAFT_JOIN": "a:1,b:2", "NEXUS_RAFT_INSECURE": "true",
		"NEXUS_RAFT_LISTEN": "127.0.0.1:1",
	}
	line, _, _, stderr := parse(t, env, "run")
	if got := line.Run; got.DataDir != "d" || cmp.Diff(got.Join, []string{"a:1", "b:2"}) != "" || !got.Insecure ||
		stderr != "" {
		t.Errorf("got %+v, %s", got, stderr)
	}
}

func TestFileIsRefused(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		says       []string
	}{
		{"unknown key", "data-dir: d\njion: a:1\n", []string{":2: ", `unknown key "jion"`, "join"}},
		{"flag of no file", "data-dir: d\nversion: true\n", []string{":2: ", `unknown key "version"`}},
		{"hidden flag", "stop-when-stdin-closes: true\n", []string{"unknown key"}},
		{"file in a file", "config: other\n", []string{"unknown key"}},
		{"list for one value", "data-dir: [a, b]\n", []string{":1: ", "data-dir", "plain value"}},
		{"map for one value", "name:\n  first: x\n", []string{"name", "plain value"}},
		{"map in a list", "join:\n- a: 1\n", []string{":2: ", "join", "plain value"}},
		{"nothing for a value", "name:\n", []string{":1: ", "name", "plain value"}},
		{"no number", "data-dir: d\nsize: many\n", []string{":2: ", "size", "many"}},
		{"no bool", "insecure: perhaps\n", []string{":1: ", "insecure", "perhaps"}},
		{"no duration", "join-timeout: 30\n", []string{":1: ", "join-timeout", "30"}},
		{"none of the choices", "log-level: loud\n", []string{":1: ", "log-level", `"loud"`, "debug, info, warn, error"}},
		{"twice", "name: a\nname: b\n", []string{":2: ", `"name"`, "line 1"}},
		{"no map", "- data-dir\n", []string{":1: ", "KEY: VALUE"}},
		{"no YAML", "name: x\nb: [\n", []string{"line"}},
		{"two documents", "name: a\n---\nname: b\n", []string{"more than one document"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config := file(t, tc.text)
			_, status, stdout, stderr := parse(t, nil, "run", "--data-dir", "d", "--config", config)
			if status != ExitUsage || stdout != "" || strings.Count(stderr, "\n") != 2 {
				t.Errorf("got status %d, %q, %q; want %d and one line of reason", status, stdout, stderr, ExitUsage)
			}
			for _, want := range append(tc.says, "--config", config) {
				if !strings.Contains(stderr, want) {
					t.Errorf("got %q, want %q in it", stderr, want)
				}
			}
		})
	}
}

func TestMissingFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	_, status, _, stderr := parse(t, map[string]string{"NEXUS_RAFT_CONFIG": path}, "run", "--data-dir", "d")
	if status != ExitUsage || !strings.Contains(stderr, path) || !strings.Contains(stderr, "--config") {
		t.Errorf("got status %d, %q; want the file named", status, stderr)
	}
}

func TestEmptyFile(t *testing.T) {
	for _, text := range []string{"", "# nothing yet\n"} {
		line, status, _, stderr := parse(t, nil, "run", "--data-dir", "d", "--config", file(t, text))
		if status != ExitOK || line.Run.Size != 7 || stderr != "" {
			t.Errorf("%q: got status %d, %+v, %s", text, status, line.Run, stderr)
		}
	}
}

func TestBadEnvironmentIsNamed(t *testing.T) {
	_, status, _, stderr := parse(t, map[string]string{"NEXUS_RAFT_LOG_LEVEL": "loud"}, "run", "--data-dir", "d")
	if status != ExitUsage || !strings.Contains(stderr, "(from $NEXUS_RAFT_LOG_LEVEL)") {
		t.Errorf("a wrong word: got status %d, %q; want %d with the variable's name", status, stderr, ExitUsage)
	}
	_, status, _, stderr = parse(t, map[string]string{"NEXUS_RAFT_LOG_LEVEL": "info"}, "run", "--data-dir", "d",
		"--log-level", "loud")
	if status != ExitUsage || strings.Contains(stderr, "(from $NEXUS_RAFT_LOG_LEVEL)") {
		t.Errorf("a wrong word in a flag: got status %d, %q; want %d without the variable's name", status, stderr, ExitUsage)
	}
	_, status, _, stderr = parse(t, map[string]string{"NEXUS_RAFT_SIZE": "many"}, "run", "--data-dir", "d")
	if status != ExitUsage || !strings.Contains(stderr, "NEXUS_RAFT_SIZE") {
		t.Errorf("got status %d, %q; want the variable named", status, stderr)
	}
}

func TestHelpShowsDefaultsAndVariables(t *testing.T) {
	_, status, stdout, stderr := parse(t, nil, "run", "--help")
	if status != ExitOK || stderr != "" {
		t.Errorf("got status %d, %q", status, stderr)
	}
	text := strings.Join(strings.Fields(stdout), " ")
	for _, want := range []string{
		"default 127.0.0.1:9, $NEXUS_RAFT_LISTEN", "($NEXUS_RAFT_DATA_DIR)", "--join-timeout=30s", `--log-level="info"`,
		"--size=7", "--version", "Example",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("--help lacks %q:\n%s", want, stdout)
		}
	}
	if strings.Contains(text, "NEXUS_RAFT_VERSION") || strings.Contains(text, "stdin") {
		t.Errorf("--help shows what is none of a user's business:\n%s", stdout)
	}
}

func TestVersion(t *testing.T) {
	for _, args := range [][]string{{"--version"}, {"run", "--version"}} {
		_, status, stdout, _ := parse(t, nil, args...)
		if status != ExitOK || !strings.HasPrefix(stdout, "prog ") ||
			!strings.HasSuffix(stdout, runtime.Version()+" "+runtime.GOOS+"/"+runtime.GOARCH+"\n") {
			t.Errorf("%q: got status %d, %q", args, status, stdout)
		}
	}
	settings := []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123456789abcdef"},
		{Key: "vcs.modified", Value: "true"},
	}
	for _, tc := range []struct {
		version  string
		settings []debug.BuildSetting
		want     string
	}{
		{"v1.2.3", settings, "v1.2.3"},
		{"(devel)", settings, "devel-0123456789ab+dirty"},
		{"", settings[:1], "devel-0123456789ab"},
		{"", nil, "devel"},
	} {
		info := &debug.BuildInfo{Main: debug.Module{Version: tc.version}, Settings: tc.settings}
		if got := moduleVersion(info); got != tc.want {
			t.Errorf("%+v: got %q, want %q", tc, got, tc.want)
		}
	}
}
