package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// zonesCommand measures clusters with many zones: three processes on this machine.
type zonesCommand struct {
	Zones      int           `help:"How many zones the part \"many\" has." default:"1000"`
	Rounds     int           `help:"How often the parts but \"kills\" are measured; it shows the median." default:"3"`
	Idle       time.Duration `help:"How long idle zones are watched." default:"20s"`
	Time       time.Duration `help:"How long each load is measured." default:"5s"`
	Writers    int           `help:"How many writers a load has, all zones together." default:"256"`
	Kills      int           `help:"How often the node that leads is killed." default:"10"`
	KillZones  int           `help:"How many zones the part \"kills\" has." default:"100"`
	Only       []string      `help:"Parts to measure: many, shared, kills." placeholder:"PART,..."`
	Dragonboat string        `help:"Measure dragonboat beside ours, in turns." enum:"on,off" default:"on"`
	Workers    int           `help:"How many workers each of our members has; 0: its default."`
	Quiesce    bool          `help:"Let dragonboat's idle shards fall silent, where they don't notice a dead leader."`
	Witness    string        `help:"Program nexus-witness; default: built in." type:"existingfile" placeholder:"FILE"`
	Quick      bool          `help:"Small figures within a minute, in place of those of the flags that are numbers."`
	Most       time.Duration `help:"How long one step may take before the command gives up." default:"5m"`
	Dir        string        `help:"Where the data is, on the disk to measure." default:"${temp}" type:"existingdir"`
	Profile    string        `help:"Where to write the leader's CPU profiles." type:"existingdir" placeholder:"DIR"`
	JSON       bool          `help:"Print JSON instead of the table."`
}

// Help is shown by --help.
func (*zonesCommand) Help() string {
	return `Three processes on this machine, two members and a witness, with as many Raft groups as --zones says,
beside dragonboat with as many shards. The parts: "many" idle zones, their creation, start and failover, and the same
load on 1 to all of them; "shared", 16 zones against one, and a zone beside one that is flooded; "kills", the node that
leads is killed under load, again and again. README.md says what each row means.

Example:

  go run . zones --quick
  go run . zones --zones 1000 --rounds 1 --only many,kills --json`
}

// quick has the figures of --quick.
func (c *zonesCommand) quick() {
	c.Zones, c.Rounds, c.Kills, c.KillZones, c.Writers = 30, 1, 2, 10, 32
	c.Idle, c.Time = time.Second, 200*time.Millisecond
}

func (c *zonesCommand) check() error {
	switch {
	case c.Zones < sharedZones || c.Zones > 10_000:
		return fmt.Errorf("--zones is %d; it must be %d to 10000", c.Zones, sharedZones)
	case c.KillZones < 1 || c.KillZones > 10_000:
		return fmt.Errorf("--kill-zones is %d; it must be 1 to 10000", c.KillZones)
	case c.Writers < sharedZones || c.Writers > 10_000:
		return fmt.Errorf("--writers is %d; it must be %d to 10000", c.Writers, sharedZones)
	case c.Rounds < 1 || c.Kills < 1:
		return fmt.Errorf("--rounds and --kills must be at least 1; they are %d and %d", c.Rounds, c.Kills)
	case c.Idle <= 0 || c.Time <= 0 || c.Most <= 0:
		return fmt.Errorf("--idle, --time and --most must be positive; they are %v, %v and %v", c.Idle, c.Time, c.Most)
	}
	return nil
}

// Run measures, with its progress on the standard error, and prints the report to out.
func (c *zonesCommand) Run(out io.Writer) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	rep, err := c.measure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	return c.print(rep, out)
}

func (c *zonesCommand) print(rep *zoneReport, out io.Writer) error {
	if !c.JSON {
		return rep.table(out)
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(rep)
}

func (c *zonesCommand) measure(ctx context.Context, progress io.Writer) (*zoneReport, error) {
	if c.Quick {
		c.quick()
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	parts, err := pick("part", zoneParts, func(p zonePart) string { return p.name }, c.Only)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.Dir, "nexus-raft-bench-")
	if err != nil {
		return nil, fmt.Errorf("create a directory for the data: %w", err)
	}
	defer os.RemoveAll(dir)
	r := &zoneRunner{
		zonesCommand: *c, dir: dir, progress: progress, started: time.Now(),
		measured: make(map[string]map[string][]float64),
	}
	before := loadAverage()
	for _, p := range parts {
		if err := r.part(ctx, p); err != nil {
			return nil, err
		}
	}
	rep := &zoneReport{
		Machine: machine(), Zones: c.Zones, KillZones: c.KillZones, Writers: c.Writers, Rounds: c.Rounds, Kills: c.Kills,
		LoadBefore: before, LoadAfter: loadAverage(), Failures: r.failures,
	}
	for _, row := range zoneRows {
		rep.add(row, r.measured[row.name])
	}
	return rep, nil
}

// zoneRunner measures parts, each system after the other, in the opposite order in every other round.
type zoneRunner struct {
	zonesCommand
	dir      string
	progress io.Writer
	started  time.Time
	clusters int
	profiles int
	measured map[string]map[string][]float64 // by row and system, of each round
	failures []string                        // what dragonboat could not do
}

// zonePart is what is measured on one cluster.
type zonePart struct {
	name    string
	once    bool // not in each round
	measure func(r *zoneRunner, ctx context.Context, c *zoneCluster) error
}

var zoneParts = []zonePart{
	{"many", false, (*zoneRunner).many},
	{"shared", false, (*zoneRunner).shared},
	{"kills", true, (*zoneRunner).kills},
}

// part measures a part. What dragonboat can't do leaves out its figures of that round, and is told.
func (r *zoneRunner) part(ctx context.Context, p zonePart) error {
	systems := []string{ours, dragonboatSystem}
	if r.Dragonboat == "off" {
		systems = systems[:1]
	}
	rounds := r.Rounds
	if p.once {
		rounds = 1
	}
	for round := range rounds {
		turn := slices.Clone(systems)
		if round%2 == 1 {
			slices.Reverse(turn)
		}
		for _, system := range turn {
			r.say("%s, round %d of %d: %s", p.name, round+1, rounds, system)
			err := r.onCluster(ctx, system, func(c *zoneCluster) error { return p.measure(r, ctx, c) })
			switch {
			case ctx.Err() != nil:
				return errors.New("it was interrupted")
			case err != nil && system == ours:
				return fmt.Errorf("%s: %s: %w", p.name, system, err)
			case err != nil:
				r.say("  %v", err)
				r.failures = append(r.failures, fmt.Sprintf("%s, round %d: %v", p.name, round+1, err))
			}
		}
	}
	return nil
}

// onCluster does something on a new cluster of a system, whose processes and data are gone when it returns.
func (r *zoneRunner) onCluster(ctx context.Context, system string, do func(*zoneCluster) error) error {
	r.clusters++
	dir := fmt.Sprintf("%s/%d", r.dir, r.clusters)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c, err := newZoneCluster(ctx, dir, zoneSetup{
		System: system, Program: r.Witness, Quiesce: r.Quiesce, Workers: r.zonesCommand.Workers,
	}, r.Most)
	defer c.stop()
	if err != nil {
		return err
	}
	return do(c)
}

// say prints a line of progress.
func (r *zoneRunner) say(format string, a ...any) {
	fmt.Fprintf(r.progress, "%5.0f s  %s\n", time.Since(r.started).Seconds(), fmt.Sprintf(format, a...))
}

// record keeps a figure of a row, and tells it.
func (r *zoneRunner) record(c *zoneCluster, row string, v float64) {
	if r.measured[row] == nil {
		r.measured[row] = make(map[string][]float64)
	}
	r.measured[row][c.setup.System] = append(r.measured[row][c.setup.System], v)
	r.say("  %s: %s", row, figure(v))
}

// loadAverage is the system's, of a minute; 0 if it doesn't tell.
func loadAverage() (load float64) {
	b, err := os.ReadFile("/proc/loadavg")
	if err == nil {
		_, _ = fmt.Sscan(string(b), &load)
	}
	return load
}

// zoneReport is what a run found out.
type zoneReport struct {
	Machine    string     `json:"machine"`
	Zones      int        `json:"zones"`
	KillZones  int        `json:"kill_zones"`
	Writers    int        `json:"writers"`
	Rounds     int        `json:"rounds"`
	Kills      int        `json:"kills"`
	LoadBefore float64    `json:"load_average_before"`
	LoadAfter  float64    `json:"load_average_after"`
	Rows       []zoneLine `json:"rows"`
	Failures   []string   `json:"failures,omitempty"` // what dragonboat could not do
}

// zoneLine is a row with both systems' figures, and whether ours reaches its goal.
type zoneLine struct {
	line
	Goal    string `json:"goal"`
	Reached *bool  `json:"reached,omitempty"` // nil: not to be told
}

// add adds a row, unless ours was not measured.
func (p *zoneReport) add(row zoneRow, measured map[string][]float64) {
	if len(measured[ours]) == 0 {
		return
	}
	l := zoneLine{
		line: line{Name: row.name, Unit: row.unit, LowerIsBetter: row.lower},
		Goal: row.goal.text,
	}
	for _, system := range []string{ours, dragonboatSystem} {
		values := measured[system]
		x := result{Engine: system, Rounds: values, Median: median(values)}
		if system == ours {
			x.Ratio = median(comparable(ratios(values, measured[dragonboatSystem], row.lower)))
		}
		l.Results = append(l.Results, x)
	}
	if reached, known := row.goal.reached(l.Results[0].Median, l.Results[0].Ratio); known {
		l.Reached = &reached
	}
	p.Rows = append(p.Rows, l)
}

// comparable returns those of the ratios that say something: none of a figure and nothing.
func comparable(ratios []float64) []float64 {
	return slices.DeleteFunc(ratios, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) || v == 0 })
}

func (p *zoneReport) table(out io.Writer) error {
	fmt.Fprintf(out, "%s; three processes over loopback; medians of %d rounds, %d kills of a node with %d zones.\n",
		p.Machine, p.Rounds, p.Kills, p.KillZones)
	fmt.Fprintf(out, "%d zones, %d writers of values of %d bytes; load average %s before, %s after.\n", p.Zones, p.Writers,
		valueBytes, figure(p.LoadBefore), figure(p.LoadAfter))
	fmt.Fprint(out, "Ratio: ours compared with dragonboat, with a witness as well; more is better.\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\tours\tdragonboat\tratio\tgoal\treached")
	for _, l := range p.Rows {
		ratio := "–"
		if l.Results[0].Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", l.Results[0].Ratio)
		}
		reached := "–"
		if l.Reached != nil {
			reached = map[bool]string{true: "yes", false: "no"}[*l.Reached]
		}
		fmt.Fprintf(w, "%s, %s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Unit, l.Results[0].plain(), l.Results[1].plain(), ratio,
			l.Goal, reached)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(p.Failures) > 0 {
		fmt.Fprintf(out, "\nWhat dragonboat could not do, and is left out:\n%s\n", strings.Join(p.Failures, "\n"))
	}
	return nil
}

// plain is the figure without its ratio.
func (r result) plain() string {
	r.Ratio = 0
	return r.String()
}
