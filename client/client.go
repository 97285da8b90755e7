package client

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/numbering"
)

// Client reads and writes the keys of one zone. Its methods may be called from any number
// of goroutines.
type Client struct {
	opts    Options
	numbers *numbering.Numbers // of writes, with Options.ExactlyOnce

	mu     sync.Mutex // guards what follows
	nodes  map[string]*endpoint
	first  int // index in opts.Endpoints of the one to try first
	closed bool
}

// New returns a client of the cluster that o names. It does not connect; the errors are
// those of o, all at once.
func New(o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("client: options: %w", err)
	}
	c := &Client{opts: o, nodes: make(map[string]*endpoint)}
	c.numbers = numbering.New(c.register)
	return c, nil
}

// Close ends all connections; calls under way and later ones fail with
// nexusraft.ErrClosed, or with nexusraft.ErrUncertain for a write that was sent.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	var errs []error
	for _, e := range c.nodes {
		errs = append(errs, e.conn.Close())
	}
	clear(c.nodes)
	return errors.Join(errs...)
}

func (c *Client) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// node returns the endpoint at address, which need not be one of the options.
func (c *Client) node(address string) (*endpoint, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, fmt.Errorf("client: %w", nexusraft.ErrClosed)
	}
	if e, ok := c.nodes[address]; ok {
		return e, nil
	}
	e, err := newEndpoint(address, c.opts)
	if err != nil {
		return nil, err
	}
	c.nodes[address] = e
	return e, nil
}

// firstIndex returns the index of the endpoint to try first.
func (c *Client) firstIndex() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.first
}

// prefer makes the endpoint at address, if it is one of the options, the first to try.
func (c *Client) prefer(address string) {
	i := slices.Index(c.opts.Endpoints, address)
	if i < 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.first = i
}
