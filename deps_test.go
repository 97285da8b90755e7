package nexusraft_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/nexi-lab/nexus-raft"

// rules say, for each package, which packages of this module it may import, and why no
// others. A package without a rule fails the test: a new room needs a sentence.
var rules = map[string]struct {
	may    []string
	reason string
}{
	"":                    {nil, "the vocabulary: the standard library alone"},
	"proto":               {nil, "how the code in api is generated"},
	"api/nexusraft/v1":    {nil, "generated"},
	"storage":             {[]string{""}, "the part that people take alone: no Raft, no gRPC"},
	"storage/metrics":     {[]string{"storage"}, "statistics for Prometheus, which who doesn't use it need not link"},
	"storage/queue":       {[]string{"", "storage"}, "a queue on a tree: nothing that a user of storage could not write"},
	"storage/ttl":         {[]string{"", "storage"}, "pairs that expire, on two trees: nothing that a user of storage could not write"},
	"transport":           {[]string{"", "api/nexusraft/v1", "internal/wire", "internal/pki"}, "usable without consensus: it carries opaque bytes"},
	"internal/wire":       {[]string{"", "api/nexusraft/v1"}, "statuses and errors to and from the wire, for both of its ends"},
	"internal/pki":        {[]string{""}, "certificates, tokens and credentials as bytes: no I/O, no clock"},
	"internal/zone":       {[]string{""}, "a step machine: no goroutine, no clock, no I/O"},
	"internal/raftlog":    {[]string{"", "storage", "internal/zone"}, "a zone's log over the store"},
	"kv":                  {[]string{""}, "a deterministic function over a tree"},
	"witness":             {[]string{"", "transport", "internal/zone", "internal/pki"}, "no store, no state machine"},
	"node":                {[]string{"", "api/nexusraft/v1", "storage", "transport", "internal/zone", "internal/raftlog", "internal/pki", "internal/wire"}, "the stem: it joins the leaves"},
	"client":              {[]string{"", "api/nexusraft/v1", "internal/wire", "internal/pki"}, "what a remote program links"},
	"internal/server":     {[]string{"", "node", "kv", "api/nexusraft/v1", "internal/wire"}, "the client-facing services"},
	"internal/simtest":    {[]string{"", "storage", "internal/zone", "internal/raftlog", "witness"}, "tests only"},
	"internal/netfault":   {nil, "tests only"},
	"internal/program":    {[]string{"", "witness", "transport", "internal/pki"}, "the command lines of both programs, one of which is tiny"},
	"internal/webhook":    {[]string{""}, "posts over HTTP and keeps where it is: it knows no cluster"},
	"cmd/nexus-witness":   {[]string{"internal/program"}, "the tiny program: nothing but the witness"},
	"cmd/nexus-raft":      {[]string{"", "node", "storage", "kv", "client", "internal/program", "internal/server", "internal/webhook", "transport", "cmd/nexus-raft/bench", "cmd/nexus-raft/demo"}, "the program joins everything"},
	"cmd/nexus-raft/demo": {[]string{"", "client"}, "it drives processes from outside"},

	"cmd/nexus-raft/bench": {nil, "it speaks etcd's API alone, so that it measures an etcd just the same"},
}

// never say what a package must not link, not even through others.
var never = map[string][]string{
	"":                  {"google.golang.org/", "go.etcd.io/", "github.com/cockroachdb/"},
	"storage":           {"google.golang.org/grpc", "go.etcd.io/raft"},
	"transport":         {"go.etcd.io/", "github.com/cockroachdb/pebble"},
	"internal/zone":     {"google.golang.org/grpc", "github.com/cockroachdb/pebble"},
	"kv":                {"github.com/cockroachdb/pebble", "go.etcd.io/raft"},
	"client":            {"github.com/cockroachdb/pebble", "go.etcd.io/raft"},
	"witness":           {"github.com/cockroachdb/pebble", module + "/kv", module + "/storage", module + "/node"},
	"cmd/nexus-witness": {"github.com/cockroachdb/pebble", module + "/kv", module + "/storage", module + "/node"},
}

// only says who alone may import a package directly.
var only = map[string]string{
	"github.com/cockroachdb/pebble/v2":     "storage",
	"github.com/cockroachdb/pebble/v2/vfs": "storage",
}

type listed struct {
	ImportPath string
	Imports    []string
	Deps       []string
	GoFiles    []string
}

func TestImportRules(t *testing.T) {
	for _, p := range list(t) {
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		rule, ok := rules[name]
		if !ok {
			t.Errorf("package %q has no rule: say here what it may import, and why", name)
			continue
		}
		for _, imp := range p.Imports {
			checkImport(t, name, imp, rule.may, rule.reason)
		}
		for _, dep := range p.Deps {
			for _, forbidden := range never[name] {
				if dep == forbidden || strings.HasPrefix(dep, forbidden) {
					t.Errorf("%s links %s, which it must not (%s)", name, dep, rule.reason)
				}
			}
		}
	}
}

func checkImport(t *testing.T, name, imp string, may []string, reason string) {
	t.Helper()
	if owner, ok := only[imp]; ok && owner != name {
		t.Errorf("%s imports %s; only %s may", name, imp, owner)
	}
	inner, ours := strings.CutPrefix(imp, module)
	if inner = strings.TrimPrefix(inner, "/"); ours && !slices.Contains(may, inner) {
		t.Errorf("%s imports %s, which it must not: %s", name, inner, reason)
	}
}

func list(t *testing.T) []listed {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps,GoFiles", module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var all []listed
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
