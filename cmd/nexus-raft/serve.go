package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"

	"github.com/nexi-lab/nexus-raft/internal/server"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/node"
)

// initCommand founds a cluster.
type initCommand struct {
	DataDir   string `help:"Directory to make; it must hold no node yet." required:"" placeholder:"DIR"`
	Name      string `help:"What people call this node." placeholder:"NAME"`
	Listen    string `help:"Address that the node will serve on." default:"127.0.0.1:2026" placeholder:"HOST:PORT"`
	Advertise string `help:"Address where other nodes will reach it; by default the one it serves on." placeholder:"HOST:PORT"`
	JSON      bool   `help:"Print what was founded as JSON: cluster, node, name."`
}

func (*initCommand) Help() string {
	return `A cluster is founded once, on one directory; all other nodes join. Serving an empty directory
never founds one, so that a founder whose disk was lost can't open a second, empty cluster.

Example:

  nexus-raft init --data-dir D1 --name n1`
}

func (c *initCommand) Run(s streams) error {
	address := c.Advertise
	if address == "" {
		address = c.Listen
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return usageError{fmt.Errorf("address %q is not host:port", address)}
	}
	founded, err := node.Init(node.Config{Dir: c.DataDir, Name: c.Name, Advertise: address, StateMachine: kv.StateMachine{}})
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(s.out).Encode(founded)
	}
	_, err = fmt.Fprintf(s.out, "founded cluster %v with node %v in %s\nstart it with: nexus-raft serve --data-dir %s --listen %s\n",
		founded.Cluster, founded.Node, c.DataDir, c.DataDir, c.Listen)
	return err
}

// serveCommand runs a member.
type serveCommand struct {
	DataDir   string   `help:"Directory of the node's data." required:"" placeholder:"DIR"`
	Listen    string   `help:"Address to serve on." default:"127.0.0.1:2026" placeholder:"HOST:PORT"`
	Advertise string   `help:"Address where other nodes reach this one; by default the one it serves on." placeholder:"HOST:PORT"`
	Join      []string `help:"Nodes of the cluster to join, separated by commas. Needed at the first start only." placeholder:"HOST:PORT"`
	Name      string   `help:"What people call this node; must be unique in the cluster." placeholder:"NAME"`
	LogLevel  string   `help:"How much to log: debug, info, warn or error." enum:"debug,info,warn,error" default:"info"`
	LogFormat string   `help:"How to log: text or json." enum:"text,json" default:"text"`
	Insecure  bool     `help:"Serve on an address that others can reach, although nothing is encrypted and nobody is authenticated."`

	StopWhenStdinCloses bool `hidden:"" help:"Stop in order when standard input ends, so that no node outlives the process that started it."`
}

func (*serveCommand) Help() string {
	return `A member holds data and votes. It logs to standard error, "ready" once it serves; SIGTERM and
SIGINT stop it in order. The same command line starts it again.

Examples:

  nexus-raft serve --data-dir D1
  nexus-raft serve --data-dir D2 --name n2 --listen 127.0.0.1:2036 --join 127.0.0.1:2026`
}

func (c *serveCommand) Run(ctx context.Context, s streams) error {
	if err := c.checkAddresses(); err != nil {
		return usageError{err}
	}
	if c.StopWhenStdinCloses {
		var cancel context.CancelFunc
		ctx, cancel = context.WithCancel(ctx)
		defer cancel()
		go func() { // ends with the process: a read can't be called off
			io.Copy(io.Discard, s.in)
			cancel()
		}()
	}
	n, err := node.Open(node.Config{
		Dir: c.DataDir, Name: c.Name, Advertise: c.Advertise, Join: c.Join,
		StateMachine: kv.StateMachine{}, Logger: c.logger(s.err), ServerOptions: server.Options(),
	})
	if err != nil {
		return err
	}
	lis, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return errors.Join(err, n.Close())
	}
	service := server.NewKV(zones{n}, func() server.Identity { return server.Identity{Cluster: n.Cluster(), Node: n.ID()} })
	return n.Run(ctx, lis, service.Register)
}

// checkAddresses refuses to serve the world without being told to, and an address that
// nobody can dial.
func (c *serveCommand) checkAddresses() error {
	addr, err := net.ResolveTCPAddr("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("--listen %q: %w", c.Listen, err)
	}
	everywhere := addr.IP == nil || addr.IP.IsUnspecified()
	switch {
	case !c.Insecure && !addr.IP.IsLoopback():
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

func (c *serveCommand) logger(w io.Writer) *slog.Logger {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	options := &slog.HandlerOptions{Level: levels[c.LogLevel]}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options))
	}
	return slog.New(slog.NewTextHandler(w, options))
}
