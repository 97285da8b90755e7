package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"
)

// zoneRow is one figure of each system.
type zoneRow struct {
	name, unit string
	lower      bool // less is better
	goal       zoneGoal
}

// zoneGoal is what ours is to reach.
type zoneGoal struct {
	text    string
	reached func(ours, ratio float64) (reached, known bool)
}

func atMost(v float64) zoneGoal {
	return zoneGoal{fmt.Sprintf("at most %g", v), func(ours, _ float64) (bool, bool) { return ours <= v, true }}
}

func atLeast(v float64) zoneGoal {
	return zoneGoal{fmt.Sprintf("at least %g", v), func(ours, _ float64) (bool, bool) { return ours >= v, true }}
}

// asGood is known only beside dragonboat.
var asGood = zoneGoal{"ratio 1", func(_, ratio float64) (bool, bool) { return ratio >= 1, ratio > 0 }}

var noGoal = zoneGoal{"–", func(_, _ float64) (bool, bool) { return false, false }}

// The three processes, as the rows call them.
var zoneRoles = [3]string{"member that leads", "other member", "witness"}

const (
	sharedZones   = 16
	fewWriters    = 4 // of the zone beside the flooded one
	flooded       = 0 // the zone
	beside        = 1 // the zone
	settleIdle    = 3 * time.Second
	underLoadFor  = time.Second // before a kill
	witnessRole   = 2
	bytesOfKiB    = 1 << 10
	bytesOfMiB    = 1 << 20
	leastOfCPU    = 1.0 / clockTicks // the system counts no less
	leastKiBAZone = 0.1              // less is the noise of the collector

)

var zoneRows = []zoneRow{
	{"idle: CPU of the member that leads", "cores", true, atMost(0.05)},
	{"idle: CPU of the other member", "cores", true, atMost(0.05)},
	{"idle: CPU of the witness", "cores", true, atMost(0.05)},
	{"idle: memory of the member that leads", "KiB/zone", true, atMost(20)},
	{"idle: memory of the other member", "KiB/zone", true, atMost(20)},
	{"idle: memory of the witness", "KiB/zone", true, atMost(20)},
	{"idle: write calls of all three", "1/s", true, asGood},
	{"create all zones", "s", true, atMost(20)},
	{"start all, until all zones are led", "s", true, atMost(10)},
	{"kill the member that leads, until all zones are led", "s", true, atMost(3)},
	{"writes with 1 zone active", "1/s", false, asGood},
	{"writes with 10 zones active", "1/s", false, asGood},
	{"writes with 100 zones active", "1/s", false, asGood},
	{"writes with 1,000 zones active", "1/s", false, asGood},
	{"1 zone active, of the best", "times", false, noGoal},
	{"10 zones active, of the best", "times", false, atLeast(0.7)},
	{"100 zones active, of the best", "times", false, atLeast(0.7)},
	{"1,000 zones active, of the best", "times", false, atLeast(0.7)},
	{"under load: memory of the witness", "MiB", true, atMost(64)},
	{"under load: disk of the witness", "KiB/zone", true, atMost(1)},
	{"16 zones against 1: writes", "times", false, atLeast(0.9)},
	{"beside a flooded zone: writes, of those alone", "times", false, atLeast(0.8)},
	{"beside a flooded zone: p99, of that alone", "times", true, atMost(3)},
	{"kill under load: p50 until a zone writes again", "s", true, atMost(0.6)},
	{"kill under load: p99 until a zone writes again", "s", true, atMost(1)},
	{"kill under load: acknowledged writes that were lost", "writes", true, atMost(0)},
}

// many measures what many zones cost, and the same load on a few of them up to all.
func (r *zoneRunner) many(ctx context.Context, c *zoneCluster) error {
	settle := min(settleIdle, r.Idle)
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	before, err := c.usages()
	if err != nil && !errors.Is(err, errNotMeasured) {
		return err
	}
	seconds, err := c.create(ctx, r.Zones)
	if err != nil {
		return err
	}
	r.record(c, "create all zones", seconds)
	for _, step := range []func() error{
		func() error { return c.gather(ctx, 0) },
		func() error { return sleep(ctx, settle) },
		func() error { return r.idle(ctx, c, before) },
		func() error { return r.active(ctx, c) },
		func() error { return r.witness(c) },
		func() error { return r.starts(ctx, c) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// usages are those of all processes. It returns errNotMeasured where the system doesn't tell.
func (c *zoneCluster) usages() (all [3]usage, err error) {
	for i := range all {
		if all[i], err = c.usage(i); err != nil {
			return all, err
		}
	}
	return all, nil
}

// idle measures what zones cost that nobody uses; unborn is what the processes used before there were any.
func (r *zoneRunner) idle(ctx context.Context, c *zoneCluster, unborn [3]usage) error {
	before, err := c.usages()
	if errors.Is(err, errNotMeasured) {
		r.say("  the system does not tell what idle zones cost")
		return nil
	}
	if err != nil {
		return err
	}
	start := time.Now()
	if err := sleep(ctx, r.Idle); err != nil {
		return err
	}
	after, err := c.usages()
	if err != nil {
		return err
	}
	seconds, calls := time.Since(start).Seconds(), 0.0
	for i, role := range zoneRoles {
		r.record(c, "idle: CPU of the "+role, max(after[i].cpu-before[i].cpu, leastOfCPU)/seconds)
		grown := (after[i].resident - unborn[i].resident) / bytesOfKiB / float64(r.Zones)
		r.record(c, "idle: memory of the "+role, max(grown, leastKiBAZone))
		calls += after[i].writes - before[i].writes
	}
	r.record(c, "idle: write calls of all three", max(calls, 1)/seconds)
	return nil
}

// active measures the same load on more and more zones, from the process that leads them.
func (r *zoneRunner) active(ctx context.Context, c *zoneCluster) error {
	reached, best := make(map[int]float64), 0.0
	for n := 1; n <= min(r.Zones, 1000); n *= 10 {
		loads, err := r.load(ctx, c, loadGroup{Zones: n, Writers: r.Writers})
		if err != nil {
			return err
		}
		reached[n] = loads[0].PerSecond
		best = max(best, reached[n])
		r.record(c, "writes with "+zonesActive(n), reached[n])
	}
	for n := 1; reached[n] > 0; n *= 10 {
		r.record(c, zonesActive(n)+", of the best", reached[n]/best)
	}
	return nil
}

func zonesActive(n int) string {
	if n == 1 {
		return "1 zone active"
	}
	return grouped(int64(n)) + " zones active"
}

// load has the process that leads all zones write to some of them.
func (r *zoneRunner) load(ctx context.Context, c *zoneCluster, groups ...loadGroup) ([]loadResult, error) {
	q := question{Do: "load", Groups: groups, Warm: r.Time / 4, Span: r.Time}
	if r.Profile != "" {
		r.profiles++
		q.Profile = filepath.Join(r.Profile, fmt.Sprintf("%s-%d.pprof", c.setup.System, r.profiles))
		r.say("  profile %s", q.Profile)
	}
	before, unmeasured := c.usages()
	start := time.Now()
	a, err := c.ask(ctx, 0, q)
	if err != nil {
		return nil, err
	}
	if after, err := c.usages(); err == nil && unmeasured == nil {
		r.sayCores(before, after, time.Since(start).Seconds())
	}
	for i, l := range a.Loads {
		r.say("  load %+v: %s/s, p50 %s ms, p99 %s ms", groups[i], figure(l.PerSecond), figure(l.P50), figure(l.P99))
		if l.Failed > 0 {
			r.say("    %d attempts failed and were made again, one by: %s", l.Failed, l.Why)
		}
	}
	return a.Loads, nil
}

// sayCores tells how many cores each process has used.
func (r *zoneRunner) sayCores(before, after [3]usage, seconds float64) {
	for i, role := range zoneRoles {
		r.say("    %s: %.2f cores", role, (after[i].cpu-before[i].cpu)/seconds)
	}
}

// witness measures what the load has left with the witness.
func (r *zoneRunner) witness(c *zoneCluster) error {
	disk, err := c.diskBytes(witnessRole)
	if err != nil {
		return err
	}
	r.record(c, "under load: disk of the witness", disk/bytesOfKiB/float64(r.Zones))
	u, err := c.usage(witnessRole)
	if errors.Is(err, errNotMeasured) {
		return nil
	}
	r.record(c, "under load: memory of the witness", u.resident/bytesOfMiB)
	return err
}

// starts measures how long zones have no leader after a start, and after a kill.
func (r *zoneRunner) starts(ctx context.Context, c *zoneCluster) error {
	seconds, err := c.restart(ctx)
	if err != nil {
		return err
	}
	r.record(c, "start all, until all zones are led", seconds)
	if err := c.gather(ctx, 0); err != nil {
		return err
	}
	at, err := c.kill(0)
	if err != nil {
		return err
	}
	if _, err := c.ask(ctx, 1, question{Do: "led", Mine: true}); err != nil {
		return err
	}
	r.record(c, "kill the member that leads, until all zones are led", time.Since(at).Seconds())
	return nil
}

// passes is how often a comparison within one cluster is made, in turns.
const passes = 3

// shared measures what zones have of a process that they share.
func (r *zoneRunner) shared(ctx context.Context, c *zoneCluster) error {
	if _, err := c.create(ctx, sharedZones); err != nil {
		return err
	}
	if err := c.gather(ctx, 0); err != nil {
		return err
	}
	var many, share, tail []float64
	for range passes {
		one, err := r.load(ctx, c, loadGroup{Zones: 1, Writers: r.Writers})
		if err != nil {
			return err
		}
		all, err := r.load(ctx, c, loadGroup{Zones: sharedZones, Writers: r.Writers})
		if err != nil {
			return err
		}
		many = append(many, all[0].PerSecond/one[0].PerSecond)
		few := loadGroup{First: beside, Zones: 1, Writers: fewWriters}
		alone, err := r.load(ctx, c, few)
		if err != nil {
			return err
		}
		together, err := r.load(ctx, c, few, loadGroup{First: flooded, Zones: 1, Writers: 2 * r.Writers})
		if err != nil {
			return err
		}
		share = append(share, together[0].PerSecond/alone[0].PerSecond)
		tail = append(tail, together[0].P99/alone[0].P99)
	}
	r.record(c, "16 zones against 1: writes", median(many))
	r.record(c, "beside a flooded zone: writes, of those alone", median(share))
	r.record(c, "beside a flooded zone: p99, of that alone", median(tail))
	return nil
}

// kills kills the node that leads, again and again, with the other member writing to each zone.
func (r *zoneRunner) kills(ctx context.Context, c *zoneCluster) error {
	if _, err := c.create(ctx, r.KillZones); err != nil {
		return err
	}
	var all []float64
	var acked []ackedWrites
	for n := range r.Kills {
		seconds, written, err := r.killOnce(ctx, c, n%2)
		if err != nil {
			return fmt.Errorf("kill %d of %d: %w", n+1, r.Kills, err)
		}
		r.say("  kill %d of %d: p50 %s s, at most %s s", n+1, r.Kills, figure(quantile(seconds, 0.5)),
			figure(quantile(seconds, 1)))
		all, acked = append(all, seconds...), append(acked, written...)
	}
	lost := uint64(0)
	for member := range 2 {
		a, err := c.ask(ctx, member, question{Do: "check", Acked: acked})
		if err != nil {
			return err
		}
		lost = max(lost, a.Lost)
	}
	r.record(c, "kill under load: p50 until a zone writes again", quantile(all, 0.5))
	r.record(c, "kill under load: p99 until a zone writes again", quantile(all, 0.99))
	r.record(c, "kill under load: acknowledged writes that were lost", float64(lost))
	return nil
}

// killOnce returns how long each zone took until it wrote again, and what was acknowledged.
func (r *zoneRunner) killOnce(ctx context.Context, c *zoneCluster, victim int) ([]float64, []ackedWrites, error) {
	survivor := 1 - victim
	if err := c.gather(ctx, victim); err != nil {
		return nil, nil, err
	}
	begin := question{Do: "begin", Groups: []loadGroup{{Zones: r.KillZones, Writers: r.KillZones}}}
	if _, err := c.ask(ctx, survivor, begin); err != nil {
		return nil, nil, err
	}
	if err := sleep(ctx, min(underLoadFor, r.Time)); err != nil {
		return nil, nil, err
	}
	at, err := c.kill(victim)
	if err != nil {
		return nil, nil, err
	}
	again, err := c.ask(ctx, survivor, question{Do: "recovered", Since: at})
	if err != nil {
		return nil, nil, err
	}
	done, err := c.ask(ctx, survivor, question{Do: "finish"})
	if err != nil {
		return nil, nil, err
	}
	return again.Seconds, done.Acked, c.revive(ctx, victim)
}
