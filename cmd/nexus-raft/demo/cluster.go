package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// How long each wait may take at most; a wait that takes longer ends the demo.
const (
	startTimeout = 30 * time.Second // a started process answers
	foundTimeout = 30 * time.Second // the founding command ends
	syncTimeout  = 60 * time.Second // the zone gets in sync
	pollInterval = 10 * time.Millisecond
	pollTimeout  = time.Second // one question to one node
)

// startAttempts is how many addresses a unit tries when others take them first.
const startAttempts = 5

// unit is one of the three, over all runs of its program.
type unit struct {
	name    string
	witness bool
	dir     string
	address string
	*process
}

// cluster keeps two members and a witness, each as a process of its own. It is for one
// goroutine.
type cluster struct {
	programs programs
	units    []*unit // the two members, then the witness
	id       nexusraft.ClusterID
	asker    *client.Client
	died     context.CancelCauseFunc // told of a process that ends unasked
	watchers sync.WaitGroup

	meanwhile func() error // called at each look of a wait; its error ends the wait
}

// programs says what to run.
type programs struct {
	node    string // nexus-raft
	witness string // nexus-witness; empty for nexus-raft's sub-command
}

// newCluster prepares directories below dir; it starts nothing. It calls died when one of
// the processes ends unasked.
func newCluster(p programs, dir string, died context.CancelCauseFunc) (*cluster, error) {
	asker, err := client.New(client.Options{Endpoints: []string{"127.0.0.1:1"}}) // each question names its node
	if err != nil {
		return nil, err
	}
	c := &cluster{programs: p, asker: asker, died: died}
	for _, name := range []string{"n1", "n2", "w1"} {
		c.units = append(c.units, &unit{name: name, dir: filepath.Join(dir, name), witness: name == "w1"})
	}
	return c, nil
}

// members returns those that hold data.
func (c *cluster) members() []*unit { return c.units[:2] }

func (c *cluster) endpoints() []string {
	var out []string
	for _, u := range c.members() {
		out = append(out, u.address)
	}
	return out
}

// found makes the first member's directory the founder of a cluster, and starts it.
func (c *cluster) found(ctx context.Context) error {
	u := c.units[0]
	address, err := freeAddress()
	if err != nil {
		return err
	}
	ctx2, cancel := context.WithTimeout(ctx, foundTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx2, c.programs.node, "init", "--json", "--data-dir", u.dir, "--name", u.name, "--listen",
		address)
	cmd.Env = childEnvironment()
	cmd.SysProcAttr = childAttributes()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("found the cluster: %s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	var founded struct{ Cluster nexusraft.ClusterID }
	if err := json.Unmarshal(out, &founded); err != nil {
		return fmt.Errorf("found the cluster: read the answer %q: %w", out, err)
	}
	c.id = founded.Cluster
	return c.start(ctx, u)
}

// start runs a unit for the first time, at a free address, and waits until it answers. If another
// process took the address meanwhile, it tries another one.
func (c *cluster) start(ctx context.Context, u *unit) error {
	for range startAttempts {
		address, err := freeAddress()
		if err != nil {
			return err
		}
		u.address = address
		if err := c.launch(u); err != nil {
			return err
		}
		err = c.await(ctx, u.name+" answers", startTimeout, func(ctx context.Context) (string, bool) {
			if u.ended() {
				return "it ended", true
			}
			return c.answers(ctx, u)
		})
		if err != nil {
			return err
		}
		if !u.ended() {
			c.watch(u)
			return nil
		}
		if probe(address) == nil {
			return u.unexpected()
		}
	}
	return fmt.Errorf("start %s: each of %d addresses was taken by another process, last %s", u.name, startAttempts,
		u.address)
}

// restart runs a unit again, with the same command line.
func (c *cluster) restart(u *unit) error {
	if err := c.launch(u); err != nil {
		return err
	}
	c.watch(u)
	return nil
}

func (c *cluster) launch(u *unit) error {
	program, args := c.programs.node, []string{"serve"}
	switch {
	case u.witness && c.programs.witness != "":
		program, args = c.programs.witness, nil
	case u.witness:
		args = []string{"witness"}
	}
	args = append(args, "--stop-when-stdin-closes", "--data-dir", u.dir, "--name", u.name, "--listen", u.address)
	if u != c.units[0] {
		args = append(args, "--join", c.units[0].address)
	}
	p, err := startProcess(u.name, u.dir+".log", program, args...)
	u.process = p
	return err
}

func (c *cluster) watch(u *unit) {
	p := u.process
	c.watchers.Go(func() { p.watch(c.died) })
}

// stop ends all processes and waits for them: in order if that is asked for, otherwise
// with SIGKILL. It returns what did not end as it should.
func (c *cluster) stop(inOrder bool) error {
	var errs []error
	for _, u := range c.units {
		switch {
		case u.process == nil:
		case inOrder:
			errs = append(errs, u.stop(stopTimeout))
		default:
			u.kill()
			errs = append(errs, u.wait())
		}
	}
	if errors.Join(errs...) == nil {
		c.watchers.Wait()
	}
	return errors.Join(append(errs, c.asker.Close())...)
}

// logs returns the ends of all logs, to be appended to an error.
func (c *cluster) logs() string {
	var b strings.Builder
	for _, u := range c.units {
		if u.process != nil {
			fmt.Fprintf(&b, "\n%s%s", u.name, u.tail())
		}
	}
	return b.String()
}

// diskBytes returns what each unit's directory takes, by name.
func (c *cluster) diskBytes() (map[string]int64, error) {
	out := make(map[string]int64)
	for _, u := range c.units {
		n, err := sizeOf(u.dir)
		if err != nil {
			return nil, fmt.Errorf("measure the directory of %s: %w", u.name, err)
		}
		out[u.name] = n
	}
	return out, nil
}

// sizeOf adds up the files below dir; files that vanish meanwhile do not count.
func sizeOf(dir string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			var info os.FileInfo
			if info, err = d.Info(); err == nil {
				sum += info.Size()
			}
		}
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return err
	})
	return sum, err
}

// await polls until ready reports true. Its error says what was waited for, what was seen
// last, and what the processes said.
func (c *cluster) await(
	ctx context.Context, what string, timeout time.Duration, ready func(context.Context) (seen string, ok bool),
) error {
	deadline := time.Now().Add(timeout)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if c.meanwhile != nil {
			if err := c.meanwhile(); err != nil {
				return err
			}
		}
		seen, ok := ready(ctx)
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %v until %s, in vain: %s%s", timeout, what, seen, c.logs())
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// answers reports whether the unit's process answers, and is of this cluster.
func (c *cluster) answers(ctx context.Context, u *unit) (string, bool) {
	s, err := c.ask(ctx, u)
	if err != nil {
		return err.Error(), false
	}
	return fmt.Sprintf("the node at %s is %q of cluster %v", u.address, s.Name, s.Cluster), s.Name == u.name &&
		s.Cluster == c.id
}

func (c *cluster) ask(ctx context.Context, u *unit) (nexusraft.NodeStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	return c.asker.Status(ctx, u.address)
}

// otherMember returns the member that u is not.
func (c *cluster) otherMember(u *unit) *unit {
	if u == c.units[0] {
		return c.units[1]
	}
	return c.units[0]
}
