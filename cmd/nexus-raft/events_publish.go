package main

import (
	"context"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

type publishCommand struct {
	Topic   string  `arg:"" help:"Topic: app/ and what you like, parts separated by slashes; at most 256 bytes."`
	Type    string  `arg:"" help:"What happened; at most 256 bytes."`
	Payload *string `arg:"" optional:"" help:"More about it; at most 1 MiB."`
	File    string  `help:"Read the payload from this file instead; - is standard input." placeholder:"FILE"`
	remote
}

func (*publishCommand) Help() string {
	return `Appends an event to the zone's events, for all subscribers, and prints its sequence once it is committed.
If the outcome is not known, the event may be there, or may still come.

Examples:

  nexus-raft publish app/orders/1234 paid
  nexus-raft publish app/pictures added --file picture.png`
}

// maxPayloadBytes is the most that a zone takes as an event's payload.
const maxPayloadBytes = 1 << 20

func (c *publishCommand) Run(ctx context.Context, s streams) error {
	var payload []byte
	if c.Payload != nil || c.File != "" {
		var err error
		if payload, err = argumentOrFile("publish", "PAYLOAD", c.Payload, c.File, s.in, maxPayloadBytes); err != nil {
			return err
		}
	}
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	sequence, err := conn.Publish(ctx, c.Topic, c.Type, payload)
	switch {
	case errors.Is(err, nexusraft.ErrUncertain):
		return fmt.Errorf("%w; look whether it is among the events before you publish it again", err)
	case err != nil:
		return explainEvents(err)
	case c.JSON:
		return printJSON(s.out, struct {
			Sequence uint64 `json:"sequence"`
		}{sequence})
	}
	_, err = fmt.Fprintf(s.out, "sequence %d\n", sequence)
	return err
}
