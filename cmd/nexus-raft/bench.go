package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/nexi-lab/nexus-raft/client"
	"github.com/nexi-lab/nexus-raft/cmd/nexus-raft/bench"
)

type benchCommand struct {
	Op        string   `arg:"" optional:"" help:"${benchOp}" enum:"put,get" default:"put"`
	Endpoints []string `help:"${benchEndpoints}" default:"127.0.0.1:2026" placeholder:"HOST:PORT"`

	proof

	Clients   int           `help:"Concurrent clients; each waits for its answer before it asks again." default:"16"`
	ValueSize int           `help:"Size of values, in bytes." default:"256"`
	KeySpace  int           `help:"How many different keys; all begin with bench/ and stay afterwards." default:"10000"`
	Duration  time.Duration `help:"How long to measure." default:"10s"`
	Zone      *zoneFlag     `help:"Zone to ask, by its name or its ID; by default the root zone." placeholder:"NAME"`
	HTML      string        `name:"html" help:"Write a page with charts to this file, too." placeholder:"FILE"`
	JSON      bool          `help:"Print the result as JSON."`
}

// zoneTimeout is how long bench tries to find the zone of a name.
const zoneTimeout = 5 * time.Second

func (*benchCommand) Help() string {
	return `Prints throughput, errors and the latency of what succeeded; progress goes to standard error. It needs
the role write where access is restricted. It speaks etcd's v3 API, so that the same command measures
an etcd. A failed put is counted and never repeated. An interrupt ends the measurement early and still
prints the result.

Examples:

  nexus-raft bench --endpoints 127.0.0.1:2026,127.0.0.1:2036 --html bench.html
  nexus-raft bench get --clients 64 --value-size 1024 --duration 30s`
}

func (c *benchCommand) Run(ctx context.Context, s streams) error {
	config, err := c.config(s)
	if err != nil {
		return usageError{err}
	}
	var page *bench.Page
	if c.HTML != "" {
		if page, err = bench.NewPage(c.HTML); err != nil {
			return fmt.Errorf("bench: --html: %w", err)
		}
		defer page.Close()
	}
	if c.Zone != nil { // an etcd is asked for none
		if err := c.Zone.find(ctx, &asking{Endpoints: c.Endpoints, proof: c.proof, Timeout: zoneTimeout}); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		config.Zone = c.Zone.id.String()
	}
	result, err := bench.Run(ctx, config)
	if result == nil {
		return fmt.Errorf("bench: %w", err)
	}
	if c.JSON {
		err = errors.Join(err, printJSON(s.out, result))
	} else {
		err = errors.Join(err, result.Print(s.out))
	}
	if page != nil {
		err = errors.Join(err, page.Write(result))
	}
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

func (c *benchCommand) config(s streams) (bench.Config, error) {
	for i, endpoint := range c.Endpoints {
		endpoint = strings.TrimSpace(endpoint) // as in "a:1, b:1"
		c.Endpoints[i] = endpoint
		if _, _, err := net.SplitHostPort(endpoint); err != nil {
			return bench.Config{}, fmt.Errorf("--endpoints: %q is not host:port", endpoint)
		}
	}
	switch {
	case len(c.Endpoints) == 0:
		return bench.Config{}, errors.New("--endpoints names none")
	case c.Clients < 1 || c.Clients > 10_000:
		return bench.Config{}, fmt.Errorf("--clients %d is not between 1 and 10000", c.Clients)
	case c.ValueSize < 0 || c.ValueSize > 64<<20:
		return bench.Config{}, fmt.Errorf("--value-size %d is not between 0 and 64 MiB", c.ValueSize)
	case c.KeySpace < 1 || c.KeySpace > 1_000_000_000:
		return bench.Config{}, fmt.Errorf("--key-space %d is not between 1 and 1000000000", c.KeySpace)
	case c.Duration < time.Millisecond:
		return bench.Config{}, fmt.Errorf("--duration %v is below a millisecond", c.Duration)
	}
	security, err := c.security()
	if err != nil {
		return bench.Config{}, err
	}
	return bench.Config{
		Security: security,
		Op:       bench.Op(c.Op), Endpoints: c.Endpoints, Clients: c.Clients, ValueSize: c.ValueSize, KeySpace: c.KeySpace,
		Duration: c.Duration, Progress: s.err, Bar: isTerminal(s.err),
	}, nil
}

// security returns what the credentials make of a connection.
func (c *benchCommand) security() ([]grpc.DialOption, error) {
	credentials, token, err := c.read()
	if err != nil || credentials == nil {
		return nil, err
	}
	options, err := client.DialOptions(credentials, token)
	if err != nil {
		return nil, fmt.Errorf("--credentials: %w", err)
	}
	return options, nil
}
