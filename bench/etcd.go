package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"
)

// etcdCommand measures etcd's API beside etcd: three processes each, on this machine.
type etcdCommand struct {
	Rounds   int           `help:"How often each row is measured; it shows the median." default:"3"`
	Time     time.Duration `help:"How long each load is measured." default:"5s"`
	Clients  int           `help:"How many puts are on their way at once." default:"64"`
	Objects  int           `help:"How many pairs of 4 KiB are listed." default:"10000"`
	Versions int           `help:"How many versions the hot key has." default:"100000"`
	Range    int           `help:"How many keys are deleted at once." default:"200000"`
	Keys     int           `help:"How many keys memory is measured with, and ten times as many versions." default:"100000"`
	Only     []string      `help:"Parts to measure: puts, lists, versions, deletes, memory." placeholder:"PART,..."`
	Quick    bool          `help:"Small figures within a minute, in place of those of the flags that are numbers."`
	Most     time.Duration `help:"How long one step may take before the command gives up." default:"10m"`
	Dir      string        `help:"Where the data is, on the disk to measure." default:"${temp}" type:"existingdir"`
	JSON     bool          `help:"Print JSON instead of the table."`
}

// Help is shown by --help.
func (*etcdCommand) Help() string {
	return `Two members and a witness beside three members of etcd, all on this machine, asked by the same gRPC client,
in turns. Both sync each write. The parts: "puts" of 128 B and 4 KiB, "lists" of pairs of 4 KiB, now and at an old
revision, a hot key with many "versions" and its compaction, "deletes" of a range, "memory" with ten versions of each
key. README.md says what each row means.

Example:

  go run . etcd --quick
  go run . etcd --rounds 1 --only puts,lists --json`
}

// quick has the figures of --quick.
func (c *etcdCommand) quick() {
	c.Rounds, c.Time, c.Clients = 1, 200*time.Millisecond, 16
	c.Objects, c.Versions, c.Range, c.Keys = 50, 200, 100, 100
}

func (c *etcdCommand) check() error {
	switch {
	case c.Rounds < 1 || c.Clients < 1 || c.Objects < 1 || c.Versions < 1 || c.Keys < 1:
		return fmt.Errorf("--rounds, --clients, --objects, --versions and --keys must be at least 1; they are %d, %d, %d, "+
			"%d and %d", c.Rounds, c.Clients, c.Objects, c.Versions, c.Keys)
	case c.Range < 1 || c.Range > 250_000:
		return fmt.Errorf("--range is %d; it must be 1 to 250000, what one request may delete", c.Range)
	case c.Time <= 0 || c.Most <= 0:
		return fmt.Errorf("--time and --most must be positive; they are %v and %v", c.Time, c.Most)
	}
	return nil
}

// Run measures, with its progress on the standard error, and prints the report to out.
func (c *etcdCommand) Run(out io.Writer) error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	rep, err := c.measure(ctx, os.Stderr)
	if err != nil {
		return err
	}
	if !c.JSON {
		return rep.table(out)
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(rep)
}

// etcdRow is one figure of both.
type etcdRow struct {
	Name   string    `json:"name"`
	Unit   string    `json:"unit"`
	Ours   []float64 `json:"ours"` // of each round
	Etcd   []float64 `json:"etcd"`
	Better string    `json:"better"` // more or less
}

type etcdReport struct {
	Machine    string     `json:"machine"`
	LoadBefore float64    `json:"load_before"`
	LoadAfter  float64    `json:"load_after"`
	Rows       []*etcdRow `json:"rows"`
}

func (r *etcdReport) add(name, unit, better string, ours bool, v float64) {
	i := slices.IndexFunc(r.Rows, func(row *etcdRow) bool { return row.Name == name })
	if i < 0 {
		i = len(r.Rows)
		r.Rows = append(r.Rows, &etcdRow{Name: name, Unit: unit, Better: better})
	}
	if ours {
		r.Rows[i].Ours = append(r.Rows[i].Ours, v)
	} else {
		r.Rows[i].Etcd = append(r.Rows[i].Etcd, v)
	}
}

func (r *etcdReport) table(out io.Writer) error {
	if _, err := fmt.Fprintf(out, "%s\nload %.1f before, %.1f after\n\n", r.Machine, r.LoadBefore, r.LoadAfter); err != nil {
		return err
	}
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "row\tunit\tours\tetcd\tours/etcd\tbetter is")
	for _, row := range r.Rows {
		ours, etcd := median(row.Ours), median(row.Etcd)
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.2f\t%s\n", row.Name, row.Unit, figure(ours), figure(etcd), ours/etcd, row.Better)
	}
	return w.Flush()
}

// etcdParts are what is measured of a new store each.
var etcdParts = []etcdPart{
	{"puts", (*etcdRunner).puts},
	{"lists", (*etcdRunner).lists},
	{"versions", (*etcdRunner).versions},
	{"deletes", (*etcdRunner).deletes},
	{"memory", (*etcdRunner).memory},
}

type etcdPart struct {
	name string
	run  func(*etcdRunner, context.Context, *etcdStore) error
}

func (c *etcdCommand) measure(ctx context.Context, progress io.Writer) (*etcdReport, error) {
	if c.Quick {
		c.quick()
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	parts, err := pick("part", etcdParts, func(p etcdPart) string { return p.name }, c.Only)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(c.Dir, "nexus-raft-bench-")
	if err != nil {
		return nil, fmt.Errorf("create a directory for the data: %w", err)
	}
	defer os.RemoveAll(dir)
	fmt.Fprintln(progress, "building the programs")
	programs, err := buildPrograms(ctx, dir)
	if err != nil {
		return nil, err
	}
	r := &etcdRunner{etcdCommand: *c, programs: programs, report: &etcdReport{Machine: machine(), LoadBefore: loadAverage()}}
	for _, p := range parts {
		for round := range c.Rounds {
			for turn := range 2 {
				ours := (round+turn)%2 == 0
				fmt.Fprintf(progress, "%s, round %d, ours: %t\n", p.name, round+1, ours)
				if err := r.part(ctx, dir, p, ours); err != nil {
					return nil, fmt.Errorf("%s, ours: %t: %w", p.name, ours, err)
				}
			}
		}
	}
	r.report.LoadAfter = loadAverage()
	return r.report, nil
}
