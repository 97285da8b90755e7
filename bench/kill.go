package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"
)

// fillCommand is what the process runs that is killed.
type fillCommand struct {
	Name string `arg:""`
	Dir  string `arg:""`
	Keys int    `arg:""`
}

// killTimeout is how long a process has to write what it is killed with.
const killTimeout = 5 * time.Minute

// Run fills a store, says so, and waits for its end.
func (c *fillCommand) Run(out io.Writer) error {
	for _, e := range engines {
		if e.name != c.Name {
			continue
		}
		s, err := e.open(c.Dir, 0)
		if err != nil {
			return err
		}
		for i := range c.Keys {
			if err := s.put(newKey(i), value(i)); err != nil {
				return err
			}
		}
		if err := s.flush(); err != nil {
			return err
		}
		fmt.Fprintln(out, "filled")
		_, err = io.Copy(io.Discard, os.Stdin) // until the parent is gone
		return err
	}
	return fmt.Errorf("no engine is called %q", c.Name)
}

// reopen is how long it takes to open a store, and to read what was written last, after
// its process was killed when a memory table of it was almost full and in no table yet.
func reopen(r *runner, e engine) (float64, error) {
	dir, err := r.newDir()
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	n := min(r.keys, fullMemTable)
	if err := fillAndKill(e, dir, n); err != nil {
		return 0, fmt.Errorf("fill a store and kill its process: %w", err)
	}
	start := time.Now()
	s, err := e.open(dir, 0)
	if err != nil {
		return 0, err
	}
	_, err = s.get(newKey(n - 1))
	took := time.Since(start)
	return took.Seconds(), errors.Join(err, s.close())
}

func fillAndKill(e engine, dir string, n int) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(program, "fill", e.name, dir, strconv.Itoa(n))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // so that the child ends with this process
	if err != nil {
		return err
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	late := time.AfterFunc(killTimeout, func() { _ = cmd.Process.Kill() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	late.Stop()
	err = errors.Join(err, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
	if err == nil && line != "filled\n" {
		err = fmt.Errorf("it said %q", line)
	}
	return err
}
