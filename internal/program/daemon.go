package program

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os/signal"
	"syscall"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// How long an orderly stop may take. What it misses is as if the process had been killed.
const stopTimeout = 4500 * time.Millisecond

// Daemon is the flags of a node of either kind. The variable listen is the default of
// --listen.
type Daemon struct {
	Config configFile `help:"${config}" placeholder:"FILE"`

	DataDir     string        `help:"Directory of the node's data." required:"" placeholder:"DIR"`
	Name        string        `help:"Name of the node, unique in the cluster." placeholder:"NAME"`
	Listen      string        `help:"Address to serve on." default:"${listen}" placeholder:"HOST:PORT"`
	Advertise   string        `help:"Address for other nodes; by default that of --listen." placeholder:"HOST:PORT"`
	Join        []string      `help:"${join}" placeholder:"HOST:PORT"`
	JoinTimeout time.Duration `help:"${joinTimeout}" default:"30s"`
	// ElectionTimeout is told to the nodes as the length of a tick.
	ElectionTimeout time.Duration `help:"${electionTimeout}" default:"300ms"`

	LogLevel  string `help:"How much to log: debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
	LogFormat string `help:"How to log: text or json." enum:"text,json" default:"text"`

	Security

	// StopWhenStdinCloses makes a node end with the process that started it.
	StopWhenStdinCloses bool `hidden:"" env:"-" help:"Stop in order when standard input ends."`
}

// AfterApply is called by kong once all flags are known. It returns what is wrong with them
// and can be told before anything is touched.
func (d *Daemon) AfterApply(ctx context.Context) error {
	if err := CheckNode(d.DataDir, d.Name); err != nil {
		return err
	}
	if err := d.check(ctx, d.Listen, d.Advertise); err != nil {
		return err
	}
	if err := CheckReachable(d.Listen, d.Advertise); err != nil {
		return err
	}
	for _, address := range d.Join {
		if err := checkDialled("--join", address); err != nil {
			return err
		}
	}
	if d.JoinTimeout <= 0 {
		return fmt.Errorf("--join-timeout %v is not above 0", d.JoinTimeout)
	}
	if t := d.ElectionTimeout; t < minElectionTimeout || t > maxElectionTimeout {
		return fmt.Errorf("--election-timeout %v is not within %v and %v", t, minElectionTimeout, maxElectionTimeout)
	}
	return nil
}

// Bounds of --election-timeout: a stall of a shared machine must not depose a leader, and minutes
// without a leader help no one.
const (
	minElectionTimeout = 100 * time.Millisecond
	maxElectionTimeout = time.Minute
)

// electionTicks is how many ticks an election timeout has.
const electionTicks = 6

// Ticks returns --election-timeout as a node counts it: so many ticks, and how long one is.
func (d *Daemon) Ticks() (election int, tick time.Duration) {
	return electionTicks, d.ElectionTimeout / electionTicks
}

// CheckNode returns what is wrong with --data-dir or --name.
func CheckNode(dataDir, name string) error {
	if dataDir == "" {
		return errors.New("--data-dir is empty: name the directory of the node's data")
	}
	if err := nexusraft.ValidateName(name); err != nil {
		return fmt.Errorf("--name: %w", err)
	}
	return nil
}

// Logger returns a logger to w, in the format and at the level of the flags.
func (d *Daemon) Logger(w io.Writer) *slog.Logger {
	levels := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn,
		"error": slog.LevelError,
	}
	options := &slog.HandlerOptions{Level: levels[d.LogLevel]}
	if d.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// Serve binds the address, calls run with the listener, which run closes, and returns what
// run returns. The context given to run ends with ctx, or with in if the flags say so. Soon
// after that Serve returns, even if run does not: the process is to end then.
//
// From then on the process ignores SIGPIPE: a node outlives the reader of its log.
func (d *Daemon) Serve(ctx context.Context, in io.Reader, run func(context.Context, net.Listener) error) error {
	signal.Ignore(syscall.SIGPIPE)
	lis, err := d.bind(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if d.StopWhenStdinCloses {
		go func() { // ends with the process: a read can't be called off
			io.Copy(io.Discard, in)
			cancel()
		}()
	}
	return watch(ctx, func(ctx context.Context) error { return run(ctx, lis) })
}

// watch returns what run returns, or an error if it goes on for too long after the end of
// ctx.
func watch(ctx context.Context, run func(context.Context) error) error {
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(stopTimeout):
		return fmt.Errorf("no orderly stop within %v, so the process ends as if it were killed: nothing acknowledged is "+
			"lost, but look at the disk", stopTimeout)
	}
}

// bind listens, before the data directory is touched.
func (d *Daemon) bind(ctx context.Context) (net.Listener, error) {
	var c net.ListenConfig
	lis, err := c.Listen(ctx, "tcp", d.Listen)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("--listen %s is in use by another program; give --listen another address or stop that one: %w",
			d.Listen, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("--listen %s is no address of this machine: %w", d.Listen, err)
	case err != nil:
		return nil, fmt.Errorf("--listen %s: %w", d.Listen, err)
	}
	return lis, nil
}
