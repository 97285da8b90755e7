package witness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
)

// Command is the witness as a command line, for a program that parses it with
// github.com/alecthomas/kong: nexus-witness is nothing else, nexus-raft has it as a
// sub-command.
type Command struct {
	DataDir   string   `help:"Directory of the witness's own data." required:"" placeholder:"DIR"`
	Listen    string   `help:"Address to serve on." default:"127.0.0.1:2027" placeholder:"HOST:PORT"`
	Advertise string   `help:"Address where other nodes reach this one; by default the one it serves on." placeholder:"HOST:PORT"`
	Join      []string `help:"Members of the cluster to join, separated by commas. Needed at the first start only." placeholder:"HOST:PORT"`
	Name      string   `help:"What people call this node; must be unique in the cluster." placeholder:"NAME"`
	LogLevel  string   `help:"How much to log: debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
	LogFormat string   `help:"How to log: text or json." enum:"text,json" default:"text"`
	Insecure  bool     `help:"Serve on an address that others can reach, although nothing is encrypted and nobody is authenticated."`

	StopWhenStdinCloses bool `hidden:"" help:"Stop in order when standard input ends, so that no witness outlives the process that started it."`
}

// Help is shown by --help.
func (c *Command) Help() string {
	return `A witness votes in a cluster of two members and holds no data, so that the cluster goes on
when any one of the three is lost. It is admitted after the second member.

Example:

  nexus-witness --data-dir /var/lib/nexus-witness --join 127.0.0.1:2026

The same command line starts it again. SIGTERM and SIGINT stop it in order.`
}

// Run serves until SIGTERM or SIGINT, which is no error, and logs to standard error.
func (c *Command) Run() error {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if c.StopWhenStdinCloses {
		go func() { // ends with the process: a read can't be called off
			io.Copy(io.Discard, os.Stdin)
			cancel()
		}()
	}
	return c.Serve(ctx, os.Stderr)
}

// Serve serves until ctx ends, which is no error, and logs to out.
func (c *Command) Serve(ctx context.Context, out io.Writer) error {
	if err := c.checkAddresses(); err != nil {
		return err
	}
	logger, err := c.logger(out)
	if err != nil {
		return err
	}
	w, err := Open(Config{Dir: c.DataDir, Name: c.Name, Advertise: c.Advertise, Join: c.Join, Logger: logger})
	if err != nil {
		return err
	}
	lis, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return errors.Join(err, w.Close())
	}
	return w.Run(ctx, lis)
}

// checkAddresses refuses to serve the world without being told to, and an address that
// nobody can dial.
func (c *Command) checkAddresses() error {
	addr, err := net.ResolveTCPAddr("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("--listen %q: %w", c.Listen, err)
	}
	everywhere := addr.IP == nil || addr.IP.IsUnspecified()
	switch {
	case !c.Insecure && (everywhere || !addr.IP.IsLoopback()):
		return fmt.Errorf("--listen %s can be reached from other machines, and nothing is encrypted or authenticated yet: add --insecure if the network is trusted", c.Listen)
	case everywhere && c.Advertise == "":
		return fmt.Errorf("--listen %s names no address that others could dial: add --advertise HOST:PORT", c.Listen)
	case c.Advertise == "":
		return nil
	}
	if _, _, err := net.SplitHostPort(c.Advertise); err != nil {
		return fmt.Errorf("--advertise %q is not host:port", c.Advertise)
	}
	return nil
}

func (c *Command) logger(out io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	options := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(out, options)), nil
	}
	return slog.New(slog.NewTextHandler(out, options)), nil
}
