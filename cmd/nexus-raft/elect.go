package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nexi-lab/nexus-raft/client"
)

type electCommand struct {
	Name   string     `arg:"" help:"The election's name."`
	Value  *string    `arg:"" optional:"" help:"What everybody sees of the one who is elected, such as an address."`
	TTL    timeToLive `name:"ttl" help:"${lockTTL}" default:"10s"`
	Listen bool       `help:"Print who is elected, now and after each change, instead of being a candidate."`
	remote
}

func (*electCommand) Help() string {
	return `Waits until it is elected, prints token and key, and holds the office until SIGINT or SIGTERM; then it
resigns. One candidate is elected at a time, in the order of their coming, together with the candidates of
etcdctl elect. If it loses the office, because no node could be reached for its time to live or
because its key was deleted, it ends with status 124. The token is higher for each one who is elected than for
all before: see nexus-raft lock.

With --listen it prints a line for each one who is elected: token, key and value, separated by tabs, or
"nobody"; until SIGINT or SIGTERM. --timeout is for the first answer.

Examples:

  nexus-raft elect primary 10.0.0.7:5432 --endpoints 127.0.0.1:2026,127.0.0.1:2036
  nexus-raft elect primary --listen --json`
}

func (c *electCommand) Run(ctx context.Context, s streams) error {
	switch {
	case c.Listen && c.Value != nil:
		return usageError{errors.New("elect: --listen is no candidate, and has no VALUE")}
	case !c.Listen && c.Value == nil:
		return usageError{errors.New("elect: give a VALUE, or --listen")}
	}
	var o client.Options
	if c.Listen {
		o.OnWait = sayWhy(s.err)
	}
	conn, err := c.client(ctx, o)
	if err != nil {
		return err
	}
	defer conn.Close()
	bounded, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	leader, err := conn.ElectedLeader(bounded, []byte(c.Name))
	if err != nil {
		return explain(err)
	}
	if c.Listen {
		return c.listen(ctx, conn, s.out)
	}
	if leader.Token != 0 {
		fmt.Fprintf(s.err, "waiting: %s is elected\n", printable(string(leader.Value)))
	}
	return c.campaign(ctx, conn, s.out)
}

func (c *electCommand) campaign(ctx context.Context, conn *client.Client, out io.Writer) error {
	won, err := conn.Campaign(ctx, []byte(c.Name), []byte(*c.Value), time.Duration(c.TTL))
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("elect: interrupted before it was elected")
		}
		return explain(err)
	}
	if c.JSON {
		err = printJSON(out, newHoldOut(won.Key(), won.Token()))
	} else {
		_, err = fmt.Fprintf(out, "elected, token %d, key %s\n", won.Token(), printable(string(won.Key())))
	}
	if err == nil {
		select {
		case <-ctx.Done(): // SIGINT or SIGTERM is how it ends
		case <-won.Context().Done():
		}
	}
	bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Timeout)
	defer cancel()
	failed := won.Resign(bounded)
	if errors.Is(failed, client.ErrLost) {
		return statusError{failed, exitLost}
	}
	return errors.Join(err, failed)
}

// leaderOut is who is elected, as JSON; without a key it is nobody.
type leaderOut struct {
	holdOut
	Value       *string `json:"value,omitempty"`
	ValueBase64 []byte  `json:"value_base64,omitempty"`
}

func (c *electCommand) listen(ctx context.Context, conn *client.Client, out io.Writer) error {
	for leader, err := range conn.ElectedLeaders(ctx, []byte(c.Name)) {
		if ctx.Err() != nil {
			return nil // SIGINT or SIGTERM is how it ends
		}
		switch {
		case err != nil:
			return explain(err)
		case c.JSON && leader.Token == 0:
			err = printJSON(out, leaderOut{})
		case c.JSON:
			o := leaderOut{holdOut: newHoldOut(leader.Key, leader.Token)}
			o.Value, o.ValueBase64 = textOrBytes(leader.Value)
			err = printJSON(out, o)
		case leader.Token == 0:
			_, err = fmt.Fprintln(out, "nobody")
		default:
			key, value := printable(string(leader.Key)), printable(string(leader.Value))
			_, err = fmt.Fprintf(out, "%d\t%s\t%s\n", leader.Token, key, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
