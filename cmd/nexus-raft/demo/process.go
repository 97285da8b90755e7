package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// How long the end of a process may take.
const (
	stopTimeout = 10 * time.Second // in order, before it is killed
	killTimeout = 30 * time.Second // after SIGKILL
)

// process is one run of a program as a child of this one. Its standard error goes to a
// log file. It does not outlive this process, however that ends: its standard input is a
// pipe that closes with it, which the programs take as a signal to stop when they are told
// to (--stop-when-stdin-closes), and on Linux the kernel kills it besides.
type process struct {
	name  string
	log   string // path of its log file
	cmd   *exec.Cmd
	in    io.WriteCloser
	meant atomic.Bool   // its end is wanted
	done  chan struct{} // closed when it has ended; err is set before
	err   error
}

// startProcess runs the program and appends its standard error to the file log.
func startProcess(name, log, program string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer out.Close() // the child has its own
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = childEnvironment()
	cmd.SysProcAttr = childAttributes()
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, log: log, cmd: cmd, in: in, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// childEnvironment is this process's own without the variables that stand for flags, which
// are meant for another node.
func childEnvironment() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NEXUS_RAFT_") })
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill sends SIGKILL and does not wait for the end.
func (p *process) kill() {
	p.meant.Store(true)
	p.cmd.Process.Kill() // fails only if it has ended already
}

// wait waits for the end of a process that was killed.
func (p *process) wait() error {
	select {
	case <-p.done:
		return nil
	case <-time.After(killTimeout):
		return fmt.Errorf("%s (process %d) has not ended %v after SIGKILL", p.name, p.pid(), killTimeout)
	}
}

// stop asks it to stop in order, waits for its end, and kills it if it takes longer than
// patience. Its error is that of a process that did not stop as it should.
func (p *process) stop(patience time.Duration) error {
	p.meant.Store(true)
	if err := interrupt(p.cmd.Process); errors.Is(err, errors.ErrUnsupported) {
		p.kill()
		return p.wait()
	}
	select {
	case <-p.done:
		if p.err != nil {
			return fmt.Errorf("%s did not stop in order: %w%s", p.name, p.err, p.tail())
		}
		return nil
	case <-time.After(patience):
		p.kill()
		err := fmt.Errorf("%s did not stop within %v and was killed%s", p.name, patience, p.tail())
		return errors.Join(err, p.wait())
	}
}

// watch calls died, once, if the process ends without having been meant to.
func (p *process) watch(died context.CancelCauseFunc) {
	<-p.done
	if !p.meant.Load() {
		died(p.unexpected())
	}
}

func (p *process) unexpected() error {
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	return fmt.Errorf("%s ended without being stopped: %s%s", p.name, how, p.tail())
}

// ended reports whether it has.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// tailBytes is how much of the end of a log an error shows, at most.
const tailBytes = 2 << 10

// tail returns the end of the log, to be appended to an error.
func (p *process) tail() string {
	last, err := lastLines(p.log)
	switch {
	case err != nil:
		return fmt.Sprintf("; its log can't be read: %v", err)
	case last == "":
		return "; its log is empty"
	}
	return fmt.Sprintf("; the end of its log:\n%s", last)
}

func lastLines(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return "", err
	}
	b := make([]byte, min(end, tailBytes))
	if _, err := f.ReadAt(b, end-int64(len(b))); err != nil && !errors.Is(err, io.EOF) {
		return "", err
	}
	lines := string(b)
	if _, rest, ok := strings.Cut(lines, "\n"); ok && end > tailBytes {
		lines = rest // the first is cut
	}
	return "    " + strings.ReplaceAll(strings.TrimSpace(lines), "\n", "\n    "), nil
}
