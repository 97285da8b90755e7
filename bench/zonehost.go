package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"sync"
	"time"
)

// zoneHostCommand is what each process of a cluster with many zones runs: a member, or the witness. The
// zones command starts it. It reads a zoneSetup and then questions, a line of JSON each, and answers each
// with a line of JSON; it ends when its standard input does.
type zoneHostCommand struct{}

// zoneSetup says what a process is to be.
type zoneSetup struct {
	System    string   `json:"system"`
	Replica   int      `json:"replica"` // its place in Addresses, from 1; the last one is the witness
	Dir       string   `json:"dir"`
	Addresses []string `json:"addresses"` // of the three processes
	Zones     int      `json:"zones"`     // how many were created before it starts
	Program   string   `json:"program"`   // nexus-witness; empty: the package
	Quiesce   bool     `json:"quiesce"`   // dragonboat's idle shards fall silent
	Workers   int      `json:"workers"`   // node.Config.Workers
}

func (s zoneSetup) isThird() bool { return s.Replica == len(s.Addresses) }

// zoneSystem is a system with many Raft groups, seen from one of its processes. Zones are numbered from 0.
// Every method returns when its context ends, at the latest.
type zoneSystem interface {
	// create makes this process's part of the zones 0 to n-1; it is called in all processes at once.
	create(ctx context.Context, n int) error

	// led reports whether this process leads the zone (mine), or knows who does.
	led(ctx context.Context, zone int) (mine, known bool, err error)

	// whole reports whether the zone can lose any one process, as far as that can be asked.
	whole(ctx context.Context, zone int) error

	// handOver has the other member lead a zone that this one leads, if it can now.
	handOver(ctx context.Context, zone int) error

	write(ctx context.Context, zone int, command []byte) error

	// read returns what is at key, linearizably; nil if there is nothing.
	read(ctx context.Context, zone int, key []byte) ([]byte, error)

	pid() int // of the process whose resources are measured
	close() error
}

// question is what a process is asked; Do says which of the other fields count.
type question struct {
	Do     string        `json:"do"`
	Zones  int           `json:"zones,omitempty"`
	Mine   bool          `json:"mine,omitempty"`
	Groups []loadGroup   `json:"groups,omitempty"`
	Warm   time.Duration `json:"warm,omitempty"`
	Span   time.Duration `json:"span,omitempty"`
	Since  time.Time     `json:"since,omitzero"`
	Acked  []ackedWrites `json:"acked,omitempty"`

	Profile string        `json:"profile,omitempty"` // a file; empty: none
	Most    time.Duration `json:"most"`              // the deadline
}

// zoneAnswer is what it answers; Error is empty if it could.
type zoneAnswer struct {
	Error   string        `json:"error,omitempty"`
	Pid     int           `json:"pid,omitempty"`
	Loads   []loadResult  `json:"loads,omitempty"`
	Seconds []float64     `json:"seconds,omitempty"` // of each zone, until a write succeeded again
	Acked   []ackedWrites `json:"acked,omitempty"`
	Lost    uint64        `json:"lost,omitempty"`
}

// zoneHost answers questions in its process.
type zoneHost struct {
	setup  zoneSetup
	system zoneSystem
	under  *zoneLoad // what "begin" has started; nil before
}

// Run serves one system until the standard input ends.
func (c *zoneHostCommand) Run(out io.Writer) error {
	signal.Ignore(os.Interrupt) // Ctrl-C reaches all processes; the command that started this one ends it
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	lines := make(chan []byte)
	go func() {
		defer cancel()
		input := bufio.NewReader(os.Stdin)
		for {
			line, err := input.ReadBytes('\n')
			if err != nil {
				time.AfterFunc(endTimeout, func() { os.Exit(1) }) // whatever hangs
				return
			}
			select {
			case lines <- line:
			case <-ctx.Done():
			}
		}
	}()
	return serveZones(ctx, lines, json.NewEncoder(out))
}

// endTimeout is how long a process has to end in order.
const endTimeout = 20 * time.Second

func serveZones(ctx context.Context, lines <-chan []byte, out *json.Encoder) (err error) {
	h := new(zoneHost)
	select {
	case line := <-lines:
		err = json.Unmarshal(line, &h.setup)
	case <-ctx.Done():
		return nil
	}
	if err == nil {
		h.system, err = openZones(ctx, h.setup)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start: %w", err), out.Encode(zoneAnswer{Error: err.Error()}))
	}
	defer func() { err = errors.Join(err, h.system.close()) }()
	if err := out.Encode(zoneAnswer{Pid: h.system.pid()}); err != nil {
		return err
	}
	for {
		select {
		case line := <-lines:
			if err := out.Encode(h.answer(ctx, line)); err != nil {
				return err
			}
		case <-ctx.Done():
			h.end()
			return nil
		}
	}
}

func openZones(ctx context.Context, s zoneSetup) (zoneSystem, error) {
	switch {
	case s.System == dragonboatSystem:
		return openDragonboat(s)
	case s.isThird() && s.Program != "":
		return openWitnessProgram(ctx, s)
	case s.isThird():
		return openOurWitness(ctx, s)
	default:
		return openOurMember(ctx, s)
	}
}

func (h *zoneHost) answer(ctx context.Context, line []byte) zoneAnswer {
	var q question
	if err := json.Unmarshal(line, &q); err != nil {
		return zoneAnswer{Error: err.Error()}
	}
	ctx, cancel := context.WithTimeout(ctx, q.Most)
	defer cancel()
	a, err := h.do(ctx, q)
	if err != nil {
		a.Error = fmt.Sprintf("%s: %v", q.Do, err)
	}
	return a
}

func (h *zoneHost) do(ctx context.Context, q question) (a zoneAnswer, err error) {
	switch q.Do {
	case "create":
		return a, h.system.create(ctx, q.Zones)
	case "led":
		return a, h.awaitLed(ctx, q.Zones, q.Mine)
	case "whole":
		return a, eachZone(q.Zones, func(zone int) error { return h.system.whole(ctx, zone) })
	case "handover":
		return a, h.handOver(ctx, q.Zones)
	case "load":
		end, err := startProfile(q.Profile)
		if err != nil {
			return a, err
		}
		a.Loads, err = newZoneLoad(h.system, q.Groups, attemptMost).measure(ctx, q.Warm, q.Span)
		return a, errors.Join(err, end())
	case "begin":
		h.end()
		h.under = newZoneLoad(h.system, q.Groups, attemptUnderKill)
		return a, h.under.begin(ctx)
	case "recovered":
		a.Seconds, err = h.under.recovered(ctx, q.Since)
		return a, err
	case "finish":
		h.end()
		a.Acked = h.under.acked()
		return a, nil
	case "check":
		a.Lost, err = lostWrites(ctx, h.system, q.Acked)
		return a, err
	default:
		return a, fmt.Errorf("no such question")
	}
}

// startProfile writes a CPU profile to a file until end is called; without a name it does nothing.
func startProfile(name string) (end func() error, err error) {
	if name == "" {
		return func() error { return nil }, nil
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// end ends what "begin" has begun, if it has not ended.
func (h *zoneHost) end() {
	if h.under != nil {
		h.under.end()
	}
}

// pollEvery is how often it is asked again who leads a zone, of one zone at a time.
const pollEvery = 5 * time.Millisecond

// awaitLed waits until this process leads each zone (mine), or knows who does.
func (h *zoneHost) awaitLed(ctx context.Context, zones int, mine bool) error {
	for zone := range zones {
		for {
			leads, known, err := h.system.led(ctx, zone)
			if err == nil && (leads || known && !mine) {
				break
			}
			if sleep(ctx, pollEvery) != nil {
				return fmt.Errorf("zone %d of %d is not led (mine %t, known %t): %w", zone, zones, leads, known,
					errors.Join(err, ctx.Err()))
			}
		}
	}
	return nil
}

// handOver has the other member lead all zones that this one leads.
func (h *zoneHost) handOver(ctx context.Context, zones int) error {
	return eachZone(zones, func(zone int) error {
		for {
			mine, known, err := h.system.led(ctx, zone)
			if err == nil && known && !mine {
				return nil
			}
			if mine {
				err = h.system.handOver(ctx, zone)
			}
			if sleep(ctx, 4*pollEvery) != nil {
				return fmt.Errorf("zone %d is still led here (%t): %w", zone, mine, errors.Join(err, ctx.Err()))
			}
		}
	})
}

// atOnce is how many zones are created, asked and checked at a time.
const atOnce = 16

// eachZone calls do for the zones 0 to n-1, and returns the first error.
func eachZone(n int, do func(zone int) error) error {
	var (
		wg    sync.WaitGroup
		slots = make(chan struct{}, atOnce)
		first = make(chan error, 1)
	)
	for zone := range n {
		slots <- struct{}{}
		if len(first) > 0 {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := do(zone); err != nil {
				select {
				case first <- err:
				default:
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-first:
		return err
	default:
		return nil
	}
}

// sleep returns the context's error if that ends first.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
