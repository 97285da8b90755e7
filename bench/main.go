// Command bench measures the parts of nexus-raft beside others: the storage package beside other
// embedded stores, in one run on one disk (raw Pebble with the same options, Pebble with its
// defaults, bbolt and badger), the transport package beside a bare grpc-go stream, between two
// processes, and clusters with many zones beside dragonboat, three processes each.
//
//	go run . storage
//	go run . transport
//	go run . zones
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

type commandLine struct {
	Storage   storageCommand   `cmd:"" help:"Measure storage beside raw Pebble, stock Pebble, bbolt and badger."`
	Transport transportCommand `cmd:"" help:"Measure transport beside a bare grpc-go stream and a file over TCP."`
	Zones     zonesCommand     `cmd:"" help:"Measure many zones on two members and a witness, beside dragonboat."`
	Etcd      etcdCommand      `cmd:"" help:"Measure etcd's API on two members and a witness, beside etcd."`

	Fill    fillCommand    `cmd:"" hidden:"" help:"Write keys and wait to be killed; the storage command runs it."`
	Receive receiveCommand `cmd:"" hidden:"" help:"Receive until standard input ends; the transport command runs it."`

	ZoneHost zoneHostCommand `cmd:"" hidden:"" help:"One process of a cluster; the zones command runs it."`
}

type storageCommand struct {
	Keys   int           `help:"How many keys a store holds." default:"1000000"`
	Rounds int           `help:"How often each row is measured; it shows the median." default:"3"`
	Time   time.Duration `help:"How long to measure an endless row; others take ten times that at most." default:"2s"`
	Only   []string      `help:"Rows to measure, by the beginnings of their names." placeholder:"ROW,..."`
	Engine []string      `help:"The engines to measure; all by default." placeholder:"ENGINE,..."`
	Dir    string        `help:"Where to create the stores, on the disk to measure." default:"${temp}" type:"existingdir"`
	JSON   bool          `help:"Print JSON instead of the table."`
}

func main() {
	var c commandLine
	parsed := kong.Parse(&c,
		kong.Name("bench"),
		kong.Description("Figures of nexus-raft's parts beside others, measured side by side."),
		kong.Vars{"temp": os.TempDir()},
		kong.UsageOnError(),
	)
	parsed.BindTo(os.Stdout, (*io.Writer)(nil))
	parsed.FatalIfErrorf(parsed.Run())
}

// Run measures, with its progress on the standard error, and prints the report to out.
func (c *storageCommand) Run(out io.Writer) error {
	r, err := c.measure(os.Stderr)
	if err != nil {
		return err
	}
	return c.print(r, out)
}

func (c *storageCommand) print(r *report, out io.Writer) error {
	if !c.JSON {
		return r.table(out)
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func (c *storageCommand) measure(progress io.Writer) (*report, error) {
	if c.Keys < 1000 || c.Rounds < 1 || c.Time <= 0 {
		return nil, fmt.Errorf("--keys must be at least 1000, --rounds at least 1 and --time positive; they are %d, %d "+
			"and %v", c.Keys, c.Rounds, c.Time)
	}
	dir, err := os.MkdirTemp(c.Dir, "nexus-raft-bench-")
	if err != nil {
		return nil, fmt.Errorf("create a directory for the stores: %w", err)
	}
	defer os.RemoveAll(dir)
	rows, err := pick("row", rows, func(r row) string { return r.name }, c.Only)
	if err != nil {
		return nil, err
	}
	engines, err := pick("engine", engines, func(e engine) string { return e.name }, c.Engine)
	if err != nil {
		return nil, err
	}
	r := &runner{dir: dir, keys: c.Keys, rounds: c.Rounds, time: c.Time, engines: engines, progress: progress}
	return r.run(rows)
}

// pick returns those of all whose names begin with one of wanted; all if none is wanted.
func pick[T any](what string, all []T, name func(T) string, wanted []string) ([]T, error) {
	if len(wanted) == 0 {
		return all, nil
	}
	var picked []T
	for _, x := range all {
		if slices.ContainsFunc(wanted, func(w string) bool { return strings.HasPrefix(name(x), w) }) {
			picked = append(picked, x)
		}
	}
	for _, w := range wanted {
		if !slices.ContainsFunc(all, func(x T) bool { return strings.HasPrefix(name(x), w) }) {
			return nil, fmt.Errorf("no %s has a name that begins with %q", what, w)
		}
	}
	return picked, nil
}

// machine says on what was measured, without its name.
func machine() string {
	return fmt.Sprintf("%s/%s, %d CPUs, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
}
