package main

import (
	"context"
	"fmt"
	"time"

	"github.com/nexi-lab/nexus-raft/client"
)

type retainCommand struct {
	Events uint64        `arg:"" help:"How many events to keep; 0 turns the zone's events off."`
	Age    time.Duration `help:"Keep none that is older; 0 for no such limit." default:"0s"`
	remote
}

func (*retainCommand) Help() string {
	return `Changes how many events a zone keeps for later subscribers. The oldest are deleted first, from time to
time: the zone may keep somewhat more.

Example:

  nexus-raft retain 100000 --age 72h`
}

func (c *retainCommand) Run(ctx context.Context, s streams) error {
	if c.Age < 0 {
		return usageError{fmt.Errorf("--age %v is below 0", c.Age)}
	}
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	if err := conn.RetainEvents(ctx, c.Events, c.Age); err != nil {
		return explain(err)
	}
	if c.JSON {
		return printJSON(s.out, struct {
			Events uint64        `json:"events"`
			Age    time.Duration `json:"age_nanos"`
		}{c.Events, c.Age})
	}
	_, err = fmt.Fprintln(s.out, "changed")
	return err
}
