package demo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Kill says what is killed while writers run.
type Kill string

// What can be killed.
const (
	KillLeader   Kill = "leader"   // the leader and, when it is back, the new leader
	KillFollower Kill = "follower" // the member that does not lead
	KillWitness  Kill = "witness"
	KillEach     Kill = "each" // one after the other: the leader, the other member, the witness
	KillNone     Kill = "none"
)

// How long each wait may take at most; a wait that takes longer ends the demo.
const (
	stallTimeout    = 60 * time.Second // writers go without an acknowledgement
	failoverTimeout = 30 * time.Second // another member leads
)

// victims returns how to choose what is killed, one after the other, from how the zone
// stands and what was killed before.
func (k Kill) victims() []func(c *cluster, v survey, before []*unit) *unit {
	leader := func(_ *cluster, v survey, _ []*unit) *unit { return v.leader }
	follower := func(c *cluster, v survey, _ []*unit) *unit { return c.otherMember(v.leader) }
	survivor := func(c *cluster, _ survey, before []*unit) *unit { return c.otherMember(before[0]) }
	witness := func(c *cluster, _ survey, _ []*unit) *unit { return c.units[2] }
	switch k {
	case KillLeader:
		return []func(*cluster, survey, []*unit) *unit{leader, leader}
	case KillFollower:
		return []func(*cluster, survey, []*unit) *unit{follower}
	case KillWitness:
		return []func(*cluster, survey, []*unit) *unit{witness}
	case KillEach:
		return []func(*cluster, survey, []*unit) *unit{leader, survivor, witness}
	}
	return nil
}

// errStopped ends the writers without being an error.
var errStopped = errors.New("stopped")

// load is the writers at work.
type load struct {
	writers *writers
	began   time.Time
	span    time.Duration // planned
	cancel  context.CancelCauseFunc
	ended   chan struct{} // closed when they have ended; err is set before
	err     error
}

func startLoad(ctx context.Context, w *writers, span time.Duration) *load {
	ctx, cancel := context.WithCancelCause(ctx)
	l := &load{writers: w, began: time.Now(), span: span, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		l.err = w.run(ctx)
	}()
	return l
}

func (l *load) passed() time.Duration { return time.Since(l.began) }

// stop ends the writers and waits for them. It returns what ended them before, if anything.
func (l *load) stop() error {
	l.cancel(errStopped)
	<-l.ended
	return l.err
}

// outages kills what is to be killed and brings it back, while the writers run.
func (d *demo) outages(ctx context.Context, l *load) error {
	var killed []*unit
	for _, choose := range d.Kill.victims() {
		if err := d.writeFor(ctx, l, d.Load/5); err != nil {
			return err
		}
		v, err := d.cluster.awaitInSync(ctx)
		if err != nil {
			return err
		}
		victim := choose(d.cluster, v, killed)
		if err := d.outage(ctx, l, v, victim); err != nil {
			return err
		}
		killed = append(killed, victim)
	}
	return nil
}

// outage kills one unit, lets the writers go on without it, brings it back and waits until
// the zone is in sync.
func (d *demo) outage(ctx context.Context, l *load, v survey, victim *unit) error {
	leads := victim == v.leader
	begun := time.Now()
	victim.kill()
	sent := time.Now()
	if err := victim.wait(); err != nil {
		return err
	}
	first := d.ledger.firstAfter(sent)
	d.timeline.addAt(begun, "killed", "%s, %s, with SIGKILL", victim.name, v.role(victim))
	if leads {
		if err := d.elected(ctx, victim); err != nil {
			return err
		}
	}
	ack, err := d.acknowledged(ctx, first)
	if err != nil {
		return err
	}
	d.timeline.addAt(ack, "first acknowledgement", "of a write begun after the kill, %d ms after it",
		ack.Sub(begun).Milliseconds())
	if leads {
		d.summary.failed(ack.Sub(begun))
	}
	if err := d.writeFor(ctx, l, d.Load/10); err != nil {
		return err
	}
	return d.bringBack(ctx, victim)
}

// elected waits until another member than the victim leads.
func (d *demo) elected(ctx context.Context, victim *unit) error {
	c := d.cluster
	var v survey
	err := c.await(ctx, "another member leads than "+victim.name, failoverTimeout,
		func(ctx context.Context) (string, bool) {
			v = c.survey(ctx)
			return v.String(), v.leader != nil && v.leader != victim
		})
	if err == nil {
		d.timeline.add("elected", "%s in term %d", v.leader.name, v.zones[v.leader].Term)
	}
	return err
}

// acknowledged waits for first, and returns what it brings.
func (d *demo) acknowledged(ctx context.Context, first <-chan time.Time) (at time.Time, err error) {
	err = d.cluster.await(ctx, "a write begun after the kill is acknowledged", stallTimeout,
		func(ctx context.Context) (string, bool) {
			select {
			case at = <-first:
				return "", true
			default:
				return d.cluster.survey(ctx).String(), false
			}
		})
	return at, err
}

// bringBack starts a killed unit again and waits until the zone is in sync with it.
func (d *demo) bringBack(ctx context.Context, u *unit) error {
	c := d.cluster
	if err := c.restart(u); err != nil {
		return err
	}
	d.timeline.add("restarted", "%s (process %d)", u.name, u.pid())
	err := c.await(ctx, u.name+" has rejoined", syncTimeout, func(ctx context.Context) (string, bool) {
		z, err := c.zone(ctx, u)
		if err != nil {
			return err.Error(), false
		}
		return u.name + " knows no leader", z.Leader != 0
	})
	if err != nil {
		return err
	}
	d.timeline.add("rejoined", "%s", u.name)
	_, err = d.inSync(ctx)
	return err
}

// writeFor lets the writers write for so long.
func (d *demo) writeFor(ctx context.Context, l *load, span time.Duration) error {
	until := l.passed() + span
	return d.cluster.await(ctx, "the writers have written on", span+stallTimeout, func(context.Context) (string, bool) {
		return "", l.passed() >= until
	})
}

// meanwhile shows how far the writers are, and returns an error if they are at their end.
func (d *demo) meanwhile(l *load) error {
	select {
	case <-l.ended:
		return fmt.Errorf("the writers can't go on: %w", l.err)
	default:
	}
	d.timeline.progress(l.passed(), d.ledger.counts(), l.writers.complete())
	last := d.ledger.lastAcknowledgement()
	if last.IsZero() {
		last = l.began
	}
	if silent := time.Since(last); silent > stallTimeout {
		return fmt.Errorf("no write was acknowledged for %v%s", silent.Round(time.Second), d.cluster.logs())
	}
	return nil
}
