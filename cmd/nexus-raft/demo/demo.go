package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// Config says what to show.
type Config struct {
	Dir     string        // its files are recorded
	DataDir string        // where the three keep their data, empty or absent; "" for a temporary directory
	Keep    bool          // keep the data
	Kill    Kill          // what to kill while writers run
	Load    time.Duration // how long writers run, at least
	Limit   time.Duration // how long the demo may take in all
	Writers int           // how many write at the same time

	Program        string // nexus-raft, which runs the members
	WitnessProgram string // nexus-witness; "" for nexus-raft's witness sub-command

	Out io.Writer // gets the timeline while it happens
	Bar bool      // Out is a terminal: show a progress bar
}

// demo is one demo under way.
type demo struct {
	Config
	walker   *walker
	cluster  *cluster
	ledger   *ledger
	timeline *timeline
	summary  *Summary
}

// Run shows the demo. It returns a summary if the demo came to its end; the error is not
// nil if anything acknowledged is lost, or if the demo could not be brought to its end.
//
// All processes that it starts have ended when it returns. When ctx ends it returns the
// cause. The data is removed, unless it is to be kept or something went wrong.
func Run(ctx context.Context, c Config) (*Summary, error) {
	walker, err := openDir(c.Dir)
	if err != nil {
		return nil, err
	}
	defer walker.root.Close()
	data, err := prepare(c.DataDir)
	if err != nil {
		return nil, err
	}
	if walker.exclude, err = os.Stat(data.path); err != nil {
		return nil, fmt.Errorf("prepare the data directory: %w", err)
	}
	d := &demo{
		Config: c, walker: walker, ledger: newLedger(), timeline: newTimeline(c.Out, c.Bar, c.Load),
		summary: newSummary(c),
	}
	err = d.run(ctx, data.path)
	d.timeline.clear()
	if interrupted := ctx.Err() != nil; c.Keep || (err != nil && !interrupted) {
		d.summary.DataDir = data.path
	} else {
		err = errors.Join(err, data.remove())
	}
	return d.conclude(err)
}

// conclude completes the summary; without one that is worth printing, err tells the rest.
func (d *demo) conclude(err error) (*Summary, error) {
	s := d.summary
	if s.DiskBytes == nil { // it did not come to its end
		if s.DataDir != "" {
			err = fmt.Errorf("%w\nthe data and logs are kept in %s", err, s.DataDir)
		}
		return nil, err
	}
	s.Seconds = time.Since(d.timeline.began).Seconds()
	s.Timeline = d.timeline.sorted()
	s.Skipped = d.walker.skipped.list()
	return s, err
}

// run starts the three, tells the story and ends them.
func (d *demo) run(ctx context.Context, data string) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d.Limit, fmt.Errorf("the demo took longer than %v", d.Limit))
	defer cancel()
	ctx, died := context.WithCancelCause(ctx)
	defer died(nil)
	if d.cluster, err = newCluster(programs{d.Program, d.WitnessProgram}, data, died); err != nil {
		return err
	}
	err = d.story(ctx)
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	stopped := d.cluster.stop(err == nil)
	if err == nil && stopped == nil {
		d.timeline.add("stopped", "all three, in order")
	}
	return errors.Join(err, stopped)
}

// story is what the demo shows.
func (d *demo) story(ctx context.Context) error {
	if err := d.assemble(ctx); err != nil {
		return err
	}
	if err := d.underLoad(ctx); err != nil {
		return err
	}
	if err := d.resurrect(ctx); err != nil {
		return err
	}
	if err := verify(ctx, d.cluster, d.ledger, d.walker, d.summary, d.timeline); err != nil {
		return err
	}
	disk, err := d.cluster.diskBytes()
	if err != nil {
		return err
	}
	d.summary.DiskBytes = disk
	return d.summary.faultless()
}

// assemble founds the cluster on the first member, lets the others join and waits until
// the zone is in sync.
func (d *demo) assemble(ctx context.Context) error {
	c := d.cluster
	if err := c.found(ctx); err != nil {
		return err
	}
	d.timeline.add("founded", "cluster %v on n1 at %s (process %d)", c.id, c.units[0].address, c.units[0].pid())
	for _, u := range c.units[1:] {
		if err := c.start(ctx, u); err != nil {
			return err
		}
		d.timeline.add("joined", "%s at %s (process %d)", u.name, u.address, u.pid())
	}
	_, err := d.inSync(ctx)
	return err
}

// inSync waits until the zone is in sync.
func (d *demo) inSync(ctx context.Context) (survey, error) {
	v, err := d.cluster.awaitInSync(ctx)
	if err == nil {
		d.timeline.add("in sync", "%s leads in term %d", v.leader.name, v.zones[v.leader].Term)
	}
	return v, err
}

// underLoad runs the writers, with outages under way, until their time is over, every
// file is recorded and the outages have passed; then all three are killed at once, while
// the writers still write.
func (d *demo) underLoad(ctx context.Context) error {
	conn, err := client.New(client.Options{Endpoints: d.cluster.endpoints()})
	if err != nil {
		return err
	}
	defer conn.Close()
	load := startLoad(ctx, newWriters(d.walker, conn, d.ledger, d.Writers), d.Load)
	d.cluster.meanwhile = func() error { return d.meanwhile(load) }
	defer func() { d.cluster.meanwhile = nil }()
	err = d.outages(ctx, load)
	if err == nil {
		err = d.cluster.await(ctx, "every file is recorded and the time is over", d.Limit,
			func(context.Context) (string, bool) {
				return "writers are under way", load.passed() >= d.Load && load.writers.complete() > 0
			})
	}
	if err == nil {
		for _, u := range d.cluster.units {
			u.kill()
		}
		d.timeline.add("killed", "all three at once, with SIGKILL")
	}
	if stopped := load.stop(); err == nil {
		err = stopped
	}
	d.summary.count(d.ledger.counts(), load.writers.complete())
	return err
}

// resurrect starts all three again, once they have ended.
func (d *demo) resurrect(ctx context.Context) error {
	for _, u := range d.cluster.units {
		if err := u.wait(); err != nil {
			return err
		}
	}
	for _, u := range d.cluster.units {
		if err := d.cluster.restart(u); err != nil {
			return err
		}
	}
	d.timeline.add("restarted", "all three")
	v, err := d.inSync(ctx)
	if err != nil {
		return err
	}
	zone := v.zones[v.leader].Membership
	d.summary.Members, d.summary.Witnesses = zone.Count(nexusraft.RoleMember), zone.Count(nexusraft.RoleWitness)
	return nil
}
