package nexusraft_test

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
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
	"":                 {nil, "the vocabulary: the standard library alone"},
	"proto":            {nil, "how the code in api is generated"},
	"api/nexusraft/v1": {nil, "generated"},
	"storage":          {[]string{""}, "the part that people take alone: no Raft, no gRPC"},
	"storage/metrics":  {[]string{"storage"}, "statistics for Prometheus, for programs that want to link it"},
	"storage/queue":    {[]string{"", "storage"}, "a queue on a tree: nothing that a user of storage could not write"},
	"storage/ttl": {[]string{"", "storage"}, "pairs that expire, on two trees: nothing that a user of storage " +
		"could not write"},
	"transport": {
		[]string{"", "internal/budget", "api/nexusraft/v1", "internal/wire", "internal/pki", "transport/mtls"},
		"usable without consensus: it carries opaque bytes",
	},
	"transport/mtls": {
		[]string{"", "internal/authz/policy", "internal/budget", "api/nexusraft/v1", "internal/wire", "internal/pki"},
		"which node or client calls, and what it may take: it knows no message between nodes",
	},
	"internal/budget": {nil, "figures, counts and refusals: it knows neither gRPC nor TLS nor a store"},
	"internal/wire": {[]string{"", "api/nexusraft/v1"}, "statuses and errors to and from the wire, for both of " +
		"its ends"},
	"internal/numbering": {[]string{""}, "numbers of commands and the sessions that they are in: it knows nobody to ask"},
	"internal/pki":       {[]string{""}, "certificates, tokens and credentials as bytes: no I/O, no clock"},
	"internal/zone": {
		[]string{"", "internal/zone/gate"},
		"a step machine: no goroutine, no clock, no I/O",
	},
	"internal/zone/gate": {[]string{""}, "a part of a replica: it sees messages and ticks, and knows no RawNode"},
	"internal/driver": {
		[]string{"", "internal/zone"},
		"the round and the worker's loop, once: no goroutine, no clock, no I/O; what is written and sent, and by what, is " +
			"its owner's business",
	},
	"internal/raftlog": {[]string{"", "storage", "internal/zone"}, "a zone's log over the store"},
	"kv":               {[]string{""}, "a deterministic function over a tree"},
	"kv/compactor":     {[]string{"", "kv", "node"}, "what kv needs to be done, on a node that knows no kv"},
	"kv/lessor":        {[]string{"", "kv", "node"}, "the time of kv's leases, on a node that knows no kv"},
	"internal/feed": {
		[]string{"", "internal/budget", "kv", "node"},
		"the changes of a node's key spaces, read once for all who follow them: no gRPC",
	},
	"internal/raftwire": {
		[]string{"", "transport", "internal/driver", "internal/zone"},
		"raft's messages between the wire and a worker, member's or witness's",
	},
	"internal/peering": {
		[]string{"", "transport", "transport/mtls", "internal/pki"},
		"a node among its peers, member or witness: what it keeps goes to its owner's store",
	},
	"witness": {
		[]string{
			"", "api/nexusraft/v1", "internal/budget", "internal/peering", "transport", "transport/mtls", "internal/wire",
			"internal/zone", "internal/driver", "internal/raftwire",
		},
		"no store, no state machine",
	},
	"internal/system": {
		[]string{"", "api/nexusraft/v1", "internal/numbering", "internal/pki", "internal/wire"},
		"the replicated system state, as functions over a zone's state: no node, no store, no clock, no goroutine",
	},
	"internal/hosting": {
		[]string{"", "api/nexusraft/v1", "internal/system", "internal/wire", "transport"},
		"zones as the root zone's state has them, over a root zone that it is given: no node, no store",
	},
	"internal/events": {
		[]string{"", "api/nexusraft/v1", "internal/budget", "internal/system"},
		"events as subscribers get them, over what a node says of its zones: no node",
	},
	"internal/apply": {
		[]string{"", "storage", "internal/system", "internal/zone"},
		"a deterministic function over a zone's state: no node, no clock, no I/O of its own",
	},
	"internal/change": {
		[]string{"", "internal/authz", "internal/zone"},
		"changes of a zone, planned and awaited, over a zone that it is given: no node, no wire",
	},
	"internal/serving": {nil, "a server beside a worker: it knows neither zones nor peers"},
	"internal/replicas": {
		[]string{"", "internal/driver", "internal/events", "storage"},
		"what a node's goroutines may know of its replicas without its worker: no worker, no node",
	},
	"internal/propose":  {[]string{"", "internal/zone"}, "calls that wait, and their answers: it proposes nothing"},
	"internal/forward":  {[]string{""}, "a count of calls, and when they end: it makes none"},
	"internal/watchdog": {nil, "the age of a sync: it knows no store, and stops nothing by itself"},
	"internal/snapshot": {
		[]string{"", "storage", "transport"},
		"a zone's state as bytes, made and received: it knows the store and the wire's header, and no node",
	},
	"internal/authz/policy": {
		[]string{"", "api/nexusraft/v1", "internal/wire"},
		"what each method asks of its callers: one table for guard, tests and documents",
	},
	"internal/authz": {
		[]string{
			"", "api/nexusraft/v1", "transport/mtls", "internal/authz/policy", "internal/peering", "internal/pki",
			"internal/system", "internal/wire",
		},
		"which caller may call what, by records that it gets a reader of: no node",
	},
	"internal/authority": {
		[]string{
			"", "api/nexusraft/v1", "transport", "transport/mtls", "internal/authz", "internal/peering", "internal/pki",
			"internal/system", "internal/wire",
		},
		"credentials, made and taken back by commands in a zone that it is given: no node, no store",
	},
	"internal/datadir": {
		[]string{
			"", "storage", "transport", "internal/authority", "internal/peering", "internal/pki", "internal/raftlog",
			"internal/zone",
		},
		"a node's files: nothing runs, nothing is sent",
	},
	"internal/leading": {[]string{""}, "calls of Lead, and the notes that wait for them: no worker, no zone, no node"},
	"internal/worker": {[]string{
		"", "api/nexusraft/v1", "internal/apply", "internal/authz", "internal/change", "internal/datadir",
		"internal/driver", "internal/events", "internal/forward", "internal/leading", "internal/peering",
		"internal/propose", "internal/raftlog", "internal/raftwire", "internal/replicas", "internal/snapshot",
		"internal/system", "internal/watchdog", "internal/wire", "internal/zone", "storage", "transport",
	}, "a member's zones, divided among workers, over what a node gives them: they know no node"},
	"node": {[]string{
		"", "api/nexusraft/v1", "internal/apply", "internal/authority", "internal/authz", "internal/budget",
		"internal/datadir", "internal/driver", "internal/events", "internal/forward", "internal/hosting",
		"internal/leading", "internal/numbering", "internal/peering", "internal/raftwire", "internal/replicas",
		"internal/rpc", "internal/serving", "internal/snapshot", "internal/system", "internal/watchdog", "internal/wire",
		"internal/worker", "internal/zone", "storage", "transport", "transport/mtls",
	}, "the stem: it joins the leaves"},
	"client": {
		[]string{"", "internal/budget", "api/nexusraft/v1", "internal/numbering", "internal/wire", "internal/pki"},
		"what a remote program links",
	},
	"internal/rpc": {
		[]string{"", "internal/budget", "api/nexusraft/v1", "internal/wire"},
		"our services for clients, over what a node does for them: no node, no kv",
	},
	"internal/rpc/etcd": {
		[]string{
			"", "api/nexusraft/v1", "internal/authz/policy", "internal/budget", "internal/feed", "internal/rpc/etcd/concurrency",
			"node", "kv", "kv/lessor", "internal/wire", "internal/rpc",
		},
		"etcd's services, and ours about keys, over kv",
	},
	"internal/rpc/etcd/concurrency": {
		[]string{
			"", "internal/feed", "internal/rpc/etcd/concurrency/v3electionpb", "internal/rpc/etcd/concurrency/v3lockpb",
			"internal/wire", "kv",
		},
		"locks and elections over the KV service, of which they are given the handlers",
	},
	"internal/rpc/etcd/concurrency/v3electionpb": {nil, "generated"},
	"internal/rpc/etcd/concurrency/v3lockpb":     {nil, "generated"},
	"internal/simtest": {
		[]string{
			"", "api/nexusraft/v1", "storage", "internal/apply", "internal/datadir", "internal/driver", "internal/pki",
			"internal/raftlog", "internal/snapshot", "internal/system", "internal/wire", "internal/zone", "kv", "witness",
		},
		"tests only",
	},
	"internal/netfault": {nil, "tests only"},
	"internal/program": {
		[]string{"", "internal/budget", "witness", "transport/mtls", "internal/pki"},
		"the command lines of both programs, one of which is tiny",
	},
	"internal/availability": {
		[]string{"", "client", "internal/program"},
		"what a zone can lose, as a function of what its nodes answer",
	},
	"internal/webhook":  {[]string{""}, "posts over HTTP and keeps where it is: it knows no cluster"},
	"cmd/nexus-witness": {[]string{"internal/program"}, "the tiny program: nothing but the witness"},
	"cmd/nexus-raft": {
		[]string{
			"", "internal/availability", "internal/budget", "internal/feed", "node", "storage", "kv", "kv/compactor", "kv/lessor", "client",
			"internal/program",
			"internal/rpc/etcd", "internal/webhook", "transport", "cmd/nexus-raft/bench", "cmd/nexus-raft/demo",
		},
		"the program joins everything",
	},
	"machinetest": {
		[]string{"", "storage", "internal/apply", "internal/system", "internal/zone"},
		"a state machine as a replica applies it, without a node",
	},
	"cmd/nexus-raft/demo": {[]string{"", "client"}, "it drives processes from outside"},
	"examples/counter":    {[]string{"", "node"}, "what a program that embeds a node sees"},
	"examples/fstree":     {[]string{"", "node"}, "what a program that embeds a node sees"},
	"examples/config":     {[]string{"", "node"}, "what a program that embeds a node sees"},
	"examples/jobs":       {[]string{"", "node"}, "what a program that embeds a node sees"},
	"examples/locks":      {[]string{"", "node"}, "what a program that embeds a node sees"},

	"cmd/nexus-raft/bench": {nil, "it speaks etcd's API alone, so that it measures an etcd just the same"},
}

// never say what a package must not link, not even through others.
var never = map[string][]string{
	"":                   {"google.golang.org/", "go.etcd.io/", "github.com/cockroachdb/"},
	"storage":            {"google.golang.org/grpc", "go.etcd.io/raft"},
	"transport":          {"go.etcd.io/", "github.com/cockroachdb/pebble"},
	"transport/mtls":     {"go.etcd.io/", "github.com/cockroachdb/pebble", module + "/storage"},
	"internal/peering":   {"go.etcd.io/", "github.com/cockroachdb/pebble"},
	"internal/authority": {"go.etcd.io/", "github.com/cockroachdb/pebble", module + "/storage"},
	"internal/zone":      {"google.golang.org/grpc", "github.com/cockroachdb/pebble"},
	"internal/driver":    {"google.golang.org/grpc", "github.com/cockroachdb/pebble"},
	"internal/raftwire":  {"github.com/cockroachdb/pebble", module + "/storage"},
	"internal/system":    {"github.com/cockroachdb/pebble", "go.etcd.io/", module + "/storage", module + "/transport"},
	"kv":                 {"github.com/cockroachdb/pebble", "go.etcd.io/raft"},
	"client":             {"github.com/cockroachdb/pebble", "go.etcd.io/raft"},
	"witness":            {"github.com/cockroachdb/pebble", module + "/kv", module + "/storage", module + "/node"},
	"cmd/nexus-witness":  {"github.com/cockroachdb/pebble", module + "/kv", module + "/storage", module + "/node"},
}

// only names the one package that may import a package directly.
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
	out, err := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Imports,Deps,GoFiles",
		module+"/...").Output()
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

// TestNoProxies: a proxy that the environment names is for browsers. Every package that connects by
// gRPC goes without one.
func TestNoProxies(t *testing.T) {
	connects, without := make(map[string]bool), make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		dir := filepath.Dir(path)
		connects[dir] = connects[dir] || strings.Contains(string(source), "grpc.NewClient(")
		without[dir] = without[dir] || strings.Contains(string(source), "grpc.WithNoProxy()")
		return err
	})
	found := 0
	for dir, does := range connects {
		if does {
			found++
		}
		if does && !without[dir] {
			t.Errorf("%s makes connections, and has no grpc.WithNoProxy()", dir)
		}
	}
	if err != nil || found < 3 {
		t.Errorf("found %d packages that connect, %v", found, err)
	}
}
