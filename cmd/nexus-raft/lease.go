package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nexi-lab/nexus-raft/client"
)

type leaseCommand struct {
	Grant  leaseGrantCommand  `cmd:"" help:"Make a lease."`
	Revoke leaseRevokeCommand `cmd:"" help:"End a lease, and delete its keys."`
	Keep   leaseKeepCommand   `cmd:"" help:"Keep a lease alive, until interrupted."`
	List   leaseListCommand   `cmd:"" help:"Print the IDs of all leases."`
	TTL    leaseTTLCommand    `cmd:"" name:"ttl" help:"Print how long a lease lives."`
}

// timeToLive is a lease's, as a command line has it: seconds, as in etcdctl, or a duration.
type timeToLive time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (t *timeToLive) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if n, notSeconds := strconv.ParseInt(string(text), 10, 32); notSeconds == nil {
		d, err = time.Duration(n)*time.Second, nil
	}
	if err != nil || d <= 0 {
		return fmt.Errorf("%.40q is no time to live above 0: expected seconds, as in 60, or a duration, as in 1m30s", text)
	}
	*t = timeToLive(d)
	return nil
}

func (t timeToLive) String() string { return time.Duration(t).String() }

// explainLease adds the way out to an error of a request that names a lease.
func explainLease(err error) error {
	if errors.Is(err, client.ErrLeaseNotFound) {
		return fmt.Errorf("%w; nexus-raft lease list shows which there are", err)
	}
	return explain(err)
}

// leaseOut is a lease as JSON.
type leaseOut struct {
	Lease     client.LeaseID `json:"lease"`
	TTL       int64          `json:"ttl_seconds,omitempty"`
	Remaining int64          `json:"remaining_seconds,omitempty"`
}

func newLeaseOut(l client.GrantedLease) leaseOut {
	return leaseOut{l.ID, int64(l.TTL / time.Second), int64(l.Remaining / time.Second)}
}

type leaseGrantCommand struct {
	TTL timeToLive `arg:"" name:"ttl" help:"How long it lives without being renewed: seconds, or a duration."`
	remote
}

func (*leaseGrantCommand) Help() string {
	return `Makes a lease, and prints its ID, which is hexadecimal, and its time to live. Keys that are put with it are
deleted when it ends: when it is revoked, or its time is over and nobody has renewed it. What is below
the cluster's minimum is raised.

Examples:

  nexus-raft lease grant 60
  nexus-raft put here "$HOSTNAME" --lease 694d81417acd4754`
}

func (c *leaseGrantCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	l, err := conn.GrantLease(ctx, time.Duration(c.TTL))
	if err != nil {
		return explain(err)
	}
	if c.JSON {
		return printJSON(s.out, newLeaseOut(l))
	}
	_, err = fmt.Fprintf(s.out, "lease %v, time to live %v\n", l.ID, l.TTL)
	return err
}

type leaseRevokeCommand struct {
	ID client.LeaseID `arg:"" name:"id" help:"The lease's ID, which is hexadecimal."`
	remote
}

func (*leaseRevokeCommand) Help() string {
	return `Ends a lease before its time, and deletes all its keys, as one revision.

Example:

  nexus-raft lease revoke 694d81417acd4754`
}

func (c *leaseRevokeCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	if err := conn.RevokeLease(ctx, c.ID); err != nil {
		return explainLease(err)
	}
	if c.JSON {
		return printJSON(s.out, leaseOut{Lease: c.ID})
	}
	_, err = fmt.Fprintf(s.out, "lease %v is revoked\n", c.ID)
	return err
}

type leaseKeepCommand struct {
	ID client.LeaseID `arg:"" name:"id" help:"The lease's ID, which is hexadecimal."`
	remote
}

func (*leaseKeepCommand) Help() string {
	return `Renews a lease, each third of its time, through whichever endpoint answers, until SIGINT or SIGTERM. It is not
revoked then, and lives for its time. A lease that ends all the same is a failure.

Example:

  nexus-raft lease keep 694d81417acd4754 --endpoints 127.0.0.1:2026,127.0.0.1:2036`
}

func (c *leaseKeepCommand) Run(ctx context.Context, s streams) error {
	conn, bounded, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	l, err := conn.KeepGranted(bounded, c.ID)
	if err != nil {
		return explainLease(err)
	}
	defer l.Stop()
	if c.JSON {
		err = printJSON(s.out, leaseOut{Lease: l.ID(), TTL: int64(l.TTL() / time.Second)})
	} else {
		_, err = fmt.Fprintf(s.out, "lease %v, time to live %v, is kept alive\n", l.ID(), l.TTL())
	}
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil // SIGINT or SIGTERM is how it ends
	case <-l.Context().Done():
		return fmt.Errorf("lease keep: %w", context.Cause(l.Context()))
	}
}

type leaseListCommand struct {
	remote
}

func (*leaseListCommand) Help() string {
	return `Prints the ID of each lease on a line of its own, in hexadecimal, in ascending order.

Example:

  nexus-raft lease list`
}

func (c *leaseListCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	ids, err := conn.Leases(ctx)
	if err != nil {
		return explain(err)
	}
	for _, id := range ids {
		if c.JSON {
			err = printJSON(s.out, leaseOut{Lease: id})
		} else {
			_, err = fmt.Fprintln(s.out, id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type leaseTTLCommand struct {
	ID   client.LeaseID `arg:"" name:"id" help:"The lease's ID, which is hexadecimal."`
	Keys bool           `help:"Print also the keys that are deleted when it ends, each on a line of its own."`
	hexFlag
	remote
}

func (*leaseTTLCommand) Help() string {
	return `Prints the time that was granted to a lease, and how much is left of it if nobody renews it.

Examples:

  nexus-raft lease ttl 694d81417acd4754
  nexus-raft lease ttl 694d81417acd4754 --keys --json`
}

// keyOut is a key as JSON.
type keyOut struct {
	Key       *string `json:"key,omitempty"`
	KeyBase64 []byte  `json:"key_base64,omitempty"`
}

func (c *leaseTTLCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	l, err := conn.Lease(ctx, c.ID)
	var keys [][]byte
	if err == nil && c.Keys {
		keys, err = conn.LeaseKeys(ctx, c.ID)
	}
	if err != nil {
		return explainLease(err)
	}
	if c.JSON {
		return c.printJSON(s, l, keys)
	}
	fmt.Fprintf(s.out, "lease %v, time to live %v, left %v\n", l.ID, l.TTL, l.Remaining)
	for _, key := range keys {
		if _, err = fmt.Fprintln(s.out, c.text(key)); err != nil {
			return err
		}
	}
	return nil
}

func (c *leaseTTLCommand) printJSON(s streams, l client.GrantedLease, keys [][]byte) error {
	out := struct {
		Lease     client.LeaseID `json:"lease"`
		TTL       int64          `json:"ttl_seconds"`
		Remaining int64          `json:"remaining_seconds"`
		Keys      []keyOut       `json:"keys,omitempty"`
	}{Lease: l.ID, TTL: int64(l.TTL / time.Second), Remaining: int64(l.Remaining / time.Second)}
	for _, key := range keys {
		var k keyOut
		k.Key, k.KeyBase64 = textOrBytes(key)
		out.Keys = append(out.Keys, k)
	}
	return printJSON(s.out, out)
}
