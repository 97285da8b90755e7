package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"text/tabwriter"
	"time"
)

// transportCommand measures the transport package between two processes over loopback.
type transportCommand struct {
	Rounds   int           `help:"How often each row is measured; it shows the median." default:"5"`
	Time     time.Duration `help:"How long a row measures what has no end by itself." default:"2s"`
	Snapshot int64         `help:"Bytes of the snapshot that is sent." default:"268435456"`
	TLS      string        `help:"Measure without TLS, with it, or both in turns." enum:"off,on,both" default:"both"`
	Only     []string      `help:"Rows to measure, by the beginnings of their names." placeholder:"ROW,..."`
	Dir      string        `help:"Where the snapshot is read from and written to." default:"${temp}" type:"existingdir"`
	JSON     bool          `help:"Print JSON instead of the table."`
}

// wireRow is one thing that is measured of each way.
type wireRow struct {
	name, unit string
	lower      bool // less is better
	measure    func(*wireRunner, way) (float64, error)
}

const (
	small = 128
	large = 4 << 10
)

var wireRows = []wireRow{
	{"messages of 128 bytes", "messages/s", false, func(r *wireRunner, w way) (float64, error) {
		return r.flood(w, small, 1)
	}},
	{"bytes in messages of 4 KiB", "MB/s", false, func(r *wireRunner, w way) (float64, error) {
		return r.flood(w, large, large/1e6)
	}},
	{"allocations per message of 128 bytes", "allocations", true, (*wireRunner).allocations},
	{"round trip p50 idle", "µs", true, func(r *wireRunner, w way) (float64, error) {
		return r.roundTrips(w, link.ping, nil, 0.5)
	}},
	{"round trip p99 idle", "µs", true, func(r *wireRunner, w way) (float64, error) {
		return r.roundTrips(w, link.ping, nil, 0.99)
	}},
	{"round trip p99 beside 20 MB/s", "µs", true, func(r *wireRunner, w way) (float64, error) {
		return r.roundTrips(w, link.ping, (*wireRunner).trickle, 0.99)
	}},
	{"round trip p99 beside appends", "µs", true, func(r *wireRunner, w way) (float64, error) {
		return r.roundTrips(w, link.ping, (*wireRunner).replicate, 0.99)
	}},
	{"round trip p50 beside a flood", "µs", true, func(r *wireRunner, w way) (float64, error) {
		return r.roundTrips(w, link.ping, (*wireRunner).inundate, 0.5)
	}},
	{"round trip p99 beside a flood", "µs", true, func(r *wireRunner, w way) (float64, error) {
		return r.roundTrips(w, link.ping, (*wireRunner).inundate, 0.99)
	}},
	{"TCP echo p99 beside appends", "µs", true, func(r *wireRunner, w way) (float64, error) {
		return r.roundTrips(w, link.echo, (*wireRunner).replicate, 0.99)
	}},
	{"TCP echo p99 beside a flood", "µs", true, func(r *wireRunner, w way) (float64, error) {
		return r.roundTrips(w, link.echo, (*wireRunner).inundate, 0.99)
	}},
	{"times the idle p99 beside 20 MB/s", "times", true, func(r *wireRunner, w way) (float64, error) {
		return r.timesIdle(w, (*wireRunner).trickle)
	}},
	{"times the idle p99 beside appends", "times", true, func(r *wireRunner, w way) (float64, error) {
		return r.timesIdle(w, (*wireRunner).replicate)
	}},
	{"times the idle p99 beside a flood", "times", true, func(r *wireRunner, w way) (float64, error) {
		return r.timesIdle(w, (*wireRunner).inundate)
	}},
	{"bytes in appends of 4 KiB that are answered", "MB/s", false, (*wireRunner).appends},
	{"snapshot", "MB/s", false, (*wireRunner).snapshot},
}

// way is how bytes get from one process to the other. A new one is made for each measurement.
type way struct {
	name   string
	base   string // the way that it is compared with
	secure bool   // with TLS
	dial   func(*wireRunner, remote) (link, error)
}

// The ways. For a snapshot the bare one is a file copied over a TCP connection.
var ways = []way{
	{"nexus-raft", "bare stream", false, (*wireRunner).dialPeers},
	{"bare stream", "bare stream", false, (*wireRunner).dialBare},
	{"nexus-raft, TLS", "bare stream, TLS", true, (*wireRunner).dialPeers},
	{"bare stream, TLS", "bare stream, TLS", true, (*wireRunner).dialBare},
}

// waysWith returns the ways that --tls asks for.
func waysWith(tls string) []way {
	return slices.DeleteFunc(slices.Clone(ways), func(w way) bool {
		return tls == "off" && w.secure || tls == "on" && !w.secure
	})
}

// link is a way that stands, seen from the process that measures. It may be used by many
// goroutines.
type link interface {
	// send hands over one bulk message, and waits while too many are on their way.
	send(data []byte) error

	// append is send for a message that the other process answers, as a follower does an
	// append. It waits while maxUnanswered are on their way.
	append(ctx context.Context, data []byte) error

	// settle waits until all appends were answered.
	settle(ctx context.Context) error

	// ping sends a small message of the class that heartbeats are of, and returns when the
	// other process has answered it.
	ping(ctx context.Context) error

	// echo sends as small a message over a plain TCP connection of its own between the same two
	// processes, and returns when it has come back: what nobody's transport can do better.
	echo(ctx context.Context) error

	// snapshot sends a file and returns when the other process has it in a file of its own.
	snapshot(ctx context.Context, file string) error

	// received asks the other process for its counts.
	received(ctx context.Context) (counts, error)

	close()
}

// counts are what the receiving process has seen so far.
type counts struct {
	Messages uint64 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
	Mallocs  uint64 `json:"mallocs"`
	Files    string `json:"files"` // where the bare way takes files
}

// wireRunner measures rows against a process of its own.
type wireRunner struct {
	time     time.Duration
	rounds   int
	ways     []way
	plain    remote // the other process
	secure   remote // the same, with TLS
	file     string // what a snapshot is of
	bytes    int64
	progress io.Writer
	openings openings // of this process, as the other one sees it
}

// Run measures, with its progress on the standard error, and prints the report to out.
func (c *transportCommand) Run(out io.Writer) (err error) {
	rows, err := pick("row", wireRows, func(r wireRow) string { return r.name }, c.Only)
	if err != nil {
		return err
	}
	if c.Rounds < 1 || c.Time <= 0 || c.Snapshot < 1 {
		return fmt.Errorf("--rounds must be at least 1, --time and --snapshot positive; they are %d, %v and %d", c.Rounds,
			c.Time, c.Snapshot)
	}
	dir, err := os.MkdirTemp(c.Dir, "nexus-raft-bench-")
	if err != nil {
		return fmt.Errorf("create a directory for the snapshot: %w", err)
	}
	defer os.RemoveAll(dir)
	r := &wireRunner{time: c.Time, rounds: c.Rounds, ways: waysWith(c.TLS), bytes: c.Snapshot, progress: os.Stderr}
	if r.file, err = writeNoise(dir, c.Snapshot); err != nil {
		return err
	}
	end, err := r.startPeer(dir)
	if err != nil {
		return fmt.Errorf("start the receiving process: %w", err)
	}
	defer end()
	rep, err := r.run(rows)
	if err != nil {
		return err
	}
	if c.JSON {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(rep)
	}
	return rep.table(out)
}

// startPeer starts the receiving process; end stops it.
func (r *wireRunner) startPeer(dir string) (end func(), err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	own, other, err := newCredentials()
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	cmd := exec.Command(program, "receive", dir)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // so that the child ends with this process
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end = func() {
		stdin.Close()
		late := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		_ = cmd.Wait() // its measurements are over
	}
	err = json.NewEncoder(stdin).Encode(other)
	if err == nil {
		_, err = fmt.Fscanln(bufio.NewReader(stdout), &r.plain.peers, &r.plain.bare, &r.plain.tcp, &r.secure.peers,
			&r.secure.bare, &r.secure.tcp)
	}
	if err == nil {
		r.secure.tls, err = own.tls()
	}
	if err != nil {
		end()
		return nil, err
	}
	return end, nil
}

func (r *wireRunner) run(rows []wireRow) (*wireReport, error) {
	rep := &wireReport{Machine: machine(), Rounds: r.rounds}
	for i, row := range rows {
		fmt.Fprintf(r.progress, "%d/%d %s\n", i+1, len(rows), row.name)
		measured := make(map[string][]float64)
		for round := range r.rounds {
			turn := slices.Clone(r.ways)
			if round%2 == 1 {
				slices.Reverse(turn)
			}
			for _, w := range turn {
				runtime.GC()
				v, err := row.measure(r, w)
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", row.name, w.name, err)
				}
				measured[w.name] = append(measured[w.name], v)
			}
		}
		rep.add(row, r.ways, measured)
	}
	return rep, nil
}

// wireReport is what a run found out.
type wireReport struct {
	Machine string `json:"machine"`
	Rounds  int    `json:"rounds"`
	Rows    []line `json:"rows"`
}

func (p *wireReport) add(row wireRow, ways []way, measured map[string][]float64) {
	l := line{Name: row.name, Unit: row.unit, LowerIsBetter: row.lower}
	for _, w := range ways {
		values := measured[w.name]
		l.Results = append(l.Results, result{
			Engine: w.name, Rounds: values, Median: median(values),
			Ratio: median(ratios(values, measured[w.base], row.lower)),
		})
	}
	p.Rows = append(p.Rows, l)
}

func (p *wireReport) table(out io.Writer) error {
	fmt.Fprintf(out, "%s; two processes over loopback; medians of %d rounds.\n", p.Machine, p.Rounds)
	fmt.Fprint(out, "In brackets: compared with a bare grpc-go stream, a snapshot with a file over TCP, with TLS where "+
		"that has it; more is better.\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "\t")
	for _, x := range p.Rows[0].Results {
		fmt.Fprintf(w, "%s\t", x.Engine)
	}
	fmt.Fprintln(w)
	for _, l := range p.Rows {
		fmt.Fprintf(w, "%s, %s\t", l.Name, l.Unit)
		for _, result := range l.Results {
			fmt.Fprintf(w, "%s\t", result)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// flood sends as much as it can for a while, and returns what arrived in a second, times unit.
func (r *wireRunner) flood(w way, size int, unit float64) (v float64, err error) {
	err = r.with(w, func(ctx context.Context, l link) error {
		v, err = r.floodOver(ctx, l, size)
		v *= unit
		return err
	})
	return v, err
}

func (r *wireRunner) floodOver(ctx context.Context, l link, size int) (perSecond float64, err error) {
	if err := r.pour(ctx, l, size, r.time/4); err != nil { // until all is warm
		return 0, err
	}
	before, err := l.received(ctx)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := r.pour(ctx, l, size, r.time); err != nil {
		return 0, err
	}
	took := time.Since(start)
	after, err := l.received(ctx)
	return float64(after.Messages-before.Messages) / took.Seconds(), err
}

// pour sends messages for a while, and waits until all have come.
func (r *wireRunner) pour(ctx context.Context, l link, size int, span time.Duration) error {
	for end := time.Now().Add(span); time.Now().Before(end); {
		for range 64 {
			if err := l.send(make([]byte, size)); err != nil { // the transport takes it over, as from a node
				return err
			}
		}
	}
	if err := l.append(ctx, make([]byte, answerBytes+1)); err != nil { // behind all of them
		return err
	}
	return l.settle(ctx)
}

// allocations are those of both processes, the message's own included.
func (r *wireRunner) allocations(w way) (v float64, err error) {
	err = r.with(w, func(ctx context.Context, l link) error {
		if err := r.pour(ctx, l, small, r.time/4); err != nil {
			return err
		}
		before, err := l.received(ctx)
		if err != nil {
			return err
		}
		own := mallocs()
		if err := r.pour(ctx, l, small, r.time); err != nil {
			return err
		}
		after, err := l.received(ctx)
		if err != nil {
			return err
		}
		all := float64(mallocs()-own) + float64(after.Mallocs-before.Mallocs)
		v = all / float64(after.Messages-before.Messages)
		return nil
	})
	return v, err
}

// snapshot returns how fast a file gets across, in MB/s.
func (r *wireRunner) snapshot(w way) (v float64, err error) {
	err = r.with(w, func(ctx context.Context, l link) error {
		start := time.Now()
		err := l.snapshot(ctx, r.file)
		v = float64(r.bytes) / 1e6 / time.Since(start).Seconds()
		return err
	})
	return v, err
}

// with makes a link for do, and closes it.
func (r *wireRunner) with(w way, do func(context.Context, link) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), r.time+2*time.Minute)
	defer cancel()
	end := r.plain
	if w.secure {
		end = r.secure
	}
	l, err := w.dial(r, end)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer l.close()
	if err := l.ping(ctx); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return do(ctx, l)
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}
