package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// zoneCluster is three processes of one system on this machine.
type zoneCluster struct {
	setup     zoneSetup // of each, but for Replica and Dir
	dir       string
	processes [3]*zoneProcess // nil: not running
	most      time.Duration   // what one question may take
}

// zoneProcess is one of them, seen from the command.
type zoneProcess struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	lines chan []byte // its answers; closed when it has ended
	pid   int         // whose resources are measured

	ended chan struct{} // closed when it has ended
}

// newZoneCluster starts a new cluster below dir, without zones. The caller ends it by stop, also
// after an error.
func newZoneCluster(ctx context.Context, dir string, s zoneSetup, most time.Duration) (*zoneCluster, error) {
	c := &zoneCluster{setup: s, dir: dir, most: most}
	var err error
	if c.setup.Addresses, err = freeAddresses(len(c.processes)); err != nil {
		return c, err
	}
	for i := range c.processes { // one after the other: each joins those before it
		if err := c.spawn(i); err != nil {
			return c, err
		}
		if err := c.ready(ctx, i); err != nil {
			return c, err
		}
	}
	return c, nil
}

// freeAddresses returns addresses on which nobody listens. They are outside the ports that systems give to
// connections by themselves, so that they are still free when a process is started anew.
func freeAddresses(n int) (free []string, err error) {
	for range 1000 {
		lis, listenErr := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(15_000+rand.IntN(15_000))))
		if listenErr != nil {
			err = listenErr
			continue
		}
		defer lis.Close() // not before all are found, so that they differ
		if free = append(free, lis.Addr().String()); len(free) == n {
			return free, nil
		}
	}
	return nil, fmt.Errorf("find free ports: %w", err)
}

// spawn starts a process without waiting for it.
func (c *zoneCluster) spawn(i int) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	s := c.setup
	s.Replica, s.Dir = i+1, filepath.Join(c.dir, strconv.Itoa(i+1))
	p := &zoneProcess{cmd: exec.Command(program, "zone-host"), lines: make(chan []byte, 1), ended: make(chan struct{})}
	p.cmd.Stderr = os.Stderr
	if p.stdin, err = p.cmd.StdinPipe(); err != nil { // so that the process ends with this one
		return err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	c.processes[i] = p
	go p.read(stdout)
	return json.NewEncoder(p.stdin).Encode(s)
}

func (p *zoneProcess) read(stdout io.Reader) {
	defer close(p.ended)
	defer close(p.lines)
	input := bufio.NewReader(stdout)
	for {
		line, err := input.ReadBytes('\n')
		if err != nil {
			_ = p.cmd.Wait() // what it was asked has no answer, which says enough
			return
		}
		p.lines <- line
	}
}

// ready waits until a process serves.
func (c *zoneCluster) ready(ctx context.Context, i int) error {
	a, err := c.answer(ctx, i)
	if err != nil {
		return fmt.Errorf("start process %d: %w", i+1, err)
	}
	c.processes[i].pid = a.Pid
	return nil
}

// slack is how much later than the process itself the command gives up.
const slack = 10 * time.Second

func (c *zoneCluster) answer(ctx context.Context, i int) (a zoneAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.most+slack)
	defer cancel()
	select {
	case line, ok := <-c.processes[i].lines:
		if !ok {
			return a, errors.New("it has ended")
		}
		if err := json.Unmarshal(line, &a); err != nil {
			return a, fmt.Errorf("it said %q: %w", line, err)
		}
	case <-ctx.Done():
		return a, ctx.Err()
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// ask asks a process, and waits for its answer.
func (c *zoneCluster) ask(ctx context.Context, i int, q question) (zoneAnswer, error) {
	q.Most = cmp.Or(q.Most, c.most)
	if q.Zones == 0 {
		q.Zones = c.setup.Zones
	}
	if err := json.NewEncoder(c.processes[i].stdin).Encode(q); err != nil {
		return zoneAnswer{}, fmt.Errorf("ask process %d: %w", i+1, err)
	}
	a, err := c.answer(ctx, i)
	if err != nil {
		err = fmt.Errorf("process %d: %w", i+1, err)
	}
	return a, err
}

// askAll asks all processes that run at the same time.
func (c *zoneCluster) askAll(ctx context.Context, q question) error {
	return c.all(func(i int) error {
		_, err := c.ask(ctx, i, q)
		return err
	})
}

// all does something for all processes that run at the same time.
func (c *zoneCluster) all(do func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, len(c.processes))
	for i, p := range c.processes {
		if p != nil {
			wg.Go(func() { errs[i] = do(i) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// create creates the zones, and returns how long it took until all are led.
func (c *zoneCluster) create(ctx context.Context, zones int) (seconds float64, err error) {
	start := time.Now()
	if err := c.askAll(ctx, question{Do: "create", Zones: zones}); err != nil {
		return 0, err
	}
	c.setup.Zones = zones
	_, err = c.ask(ctx, 0, question{Do: "led"})
	return time.Since(start).Seconds(), err
}

// gather has one member lead all zones, with all of them whole.
func (c *zoneCluster) gather(ctx context.Context, leader int) error {
	if err := c.askAll(ctx, question{Do: "whole"}); err != nil {
		return err
	}
	for end := time.Now().Add(c.most); ; {
		if _, err := c.ask(ctx, 1-leader, question{Do: "handover"}); err != nil {
			return err
		}
		_, err := c.ask(ctx, leader, question{Do: "led", Mine: true, Most: min(c.most, gatherAgain)})
		if err == nil || ctx.Err() != nil || time.Now().After(end) {
			return err
		}
	}
}

// gatherAgain is how long it is waited for zones to be led by one member before they are handed over once
// more: a member that was too busy may have lost some again meanwhile.
const gatherAgain = 5 * time.Second

// restart ends all processes in order, starts all at once, and returns how long it took from
// there until all zones are led.
func (c *zoneCluster) restart(ctx context.Context) (seconds float64, err error) {
	c.stop()
	start := time.Now()
	for i := range c.processes {
		if err := c.spawn(i); err != nil {
			return 0, err
		}
	}
	if err := c.all(func(i int) error { return c.ready(ctx, i) }); err != nil {
		return 0, err
	}
	_, err = c.ask(ctx, 0, question{Do: "led"})
	return time.Since(start).Seconds(), err
}

// kill kills a process, and returns when that was.
func (c *zoneCluster) kill(i int) (time.Time, error) {
	p := c.processes[i]
	at := time.Now()
	err := p.cmd.Process.Kill()
	p.stdin.Close()
	<-p.ended
	c.processes[i] = nil
	return at, err
}

// revive starts a process that was killed.
func (c *zoneCluster) revive(ctx context.Context, i int) error {
	if err := c.spawn(i); err != nil {
		return err
	}
	return c.ready(ctx, i)
}

// stop ends all processes, in order if they can.
func (c *zoneCluster) stop() {
	_ = c.all(func(i int) error {
		p := c.processes[i]
		late := time.AfterFunc(endTimeout+slack, func() { _ = p.cmd.Process.Kill() })
		defer late.Stop()
		p.stdin.Close()
		for range p.lines { // an answer that nobody has waited for
		}
		<-p.ended
		return nil
	})
	c.processes = [3]*zoneProcess{}
}

// usage is what a process has used so far.
type usage struct {
	cpu      float64 // seconds
	resident float64 // bytes
	writes   float64 // system calls that write, to files and connections
}

const clockTicks = 100 // a second, on every Linux

// usage is what a process of the cluster has used.
func (c *zoneCluster) usage(i int) (usage, error) { return usageOf(c.processes[i].pid) }

// usageOf asks the system. It returns errNotMeasured where that doesn't tell.
func usageOf(pid int) (u usage, err error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return u, fmt.Errorf("%w: %w", errNotMeasured, err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ") // the name may have blanks
	fields := strings.Fields(rest)
	if len(fields) < 22 {
		return u, fmt.Errorf("%w: %q", errNotMeasured, stat)
	}
	number := func(field int) float64 {
		v, _ := strconv.ParseFloat(fields[field-3], 64) // the kernel's numbers; fields as proc(5) counts them
		return v
	}
	u.cpu = (number(14) + number(15)) / clockTicks
	u.resident = number(24) * float64(os.Getpagesize())
	io, err := os.ReadFile(filepath.Join(dir, "io"))
	if err != nil {
		return u, fmt.Errorf("%w: %w", errNotMeasured, err)
	}
	for line := range strings.Lines(string(io)) {
		_, _ = fmt.Sscanf(line, "syscw: %f", &u.writes)
	}
	return u, nil
}

// diskBytes is what a process has in files.
func (c *zoneCluster) diskBytes(i int) (total float64, err error) {
	err = filepath.WalkDir(filepath.Join(c.dir, strconv.Itoa(i+1)), func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || err == nil && d.IsDir() {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil {
			total += float64(info.Size())
		}
		return err
	})
	return total, err
}
