package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

type eventsCommand struct {
	Topic []string `help:"Only events of these topics or below them, separated by commas." placeholder:"TOPIC"`
	Type  []string `help:"Only events of these types, separated by commas." placeholder:"TYPE"`
	From  uint64   `help:"The first sequence; without it, what happens from now on." placeholder:"N"`
	Local bool     `help:"The local events of the one node that --endpoints names, instead of the zone's."`
	Count uint64   `help:"End after so many events." placeholder:"N"`
	bridgeFlags
	remote
}

func (*eventsCommand) Help() string {
	return `Follows what happens in a zone, through any endpoint that answers, and prints a line for each event:
time, sequence, topic, type and payload, separated by tabs, each as a quoted string if not all of it
can be printed. Topics are key (types put and delete), member (changes of the replicas), app/…, to which
publish appends, and in the root zone zone (types created and deleted). When a node fails, the command goes
on through another one, without a gap. SIGINT ends it; it then says on standard error from which sequence
to go on. Events are kept for a while only: if the wanted ones are gone, the command fails and says which
event is the oldest.

With --local: what one node sees of its leaders, peers and sync states. These events are in its memory,
and begin anew when it starts; an event of type gap stands for those that are missing.

With --json: one object per line. A key's event has a pair (or a range, if many keys were deleted at
once), a member's event its record, a zone's a zone_info, a local event a detail; any other event has
payload, or payload_base64 if the payload is not valid UTF-8.

With --webhook: nothing is printed; each event is posted to the URL as such an object, one at a time,
at least once. Network errors and the answers 408, 429 and 5xx are retried for ever, with growing pauses
and as Retry-After asks; any other answer but 2xx ends the command with status 1 and the event's
sequence. Redirects are not followed. HTTPS_PROXY, HTTP_PROXY and NO_PROXY name a proxy. The header
Nexus-Raft-Event-Sequence has the sequence, by which a receiver recognizes a repeated event. With a
secret, from --webhook-secret-file or $NEXUS_RAFT_WEBHOOK_SECRET, Nexus-Raft-Signature is
t=UNIXTIME,v1=HEX, where HEX is the HMAC-SHA256 of UNIXTIME, a full stop, and the body. With --state the
command goes on where it stopped; without, it begins from now on each time.

Examples:

  nexus-raft events --endpoints 127.0.0.1:2026,127.0.0.1:2036
  nexus-raft events --topic key --type delete --from 1 --json
  nexus-raft events --webhook https://example.com/hook --webhook-secret-file secret --state /var/lib/nexus/hook.json`
}

// An eventSink is what becomes of the events.
type eventSink interface {
	// take deals with one event.
	take(context.Context, nexusraft.Event) error
	// done hears that everything before next has been dealt with.
	done(next uint64, incarnation nexusraft.Incarnation) error
	close() error
}

func (c *eventsCommand) Run(ctx context.Context, s streams) (err error) {
	at, err := c.subscription()
	if err != nil {
		return err
	}
	conn, err := c.dial(ctx, client.Options{OnWait: sayWhy(s.err)})
	if err != nil {
		return err
	}
	defer conn.Close()
	var sink eventSink = &eventPrinter{out: s.out, json: c.JSON}
	if c.Webhook != "" {
		if sink, err = c.bridge(&at, s.err); err != nil {
			return err
		}
	}
	defer func() { err = errors.Join(err, sink.close()) }()
	err = c.follow(ctx, conn, &at, sink)
	if at.From != 0 {
		fmt.Fprintf(s.err, "to go on: --from %d\n", at.From)
	}
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil // SIGINT or SIGTERM is how it ends
	}
	return explainEvents(err)
}

// dial returns a client. One node's local events are of no zone: no other node need answer.
func (c *eventsCommand) dial(ctx context.Context, o client.Options) (*client.Client, error) {
	if c.Local {
		return c.asking.client(o)
	}
	return c.client(ctx, o)
}

// subscription returns what the flags ask for.
func (c *eventsCommand) subscription() (client.Subscription, error) {
	s := client.Subscription{Topics: c.Topic, Types: c.Type, From: c.From}
	switch {
	case c.Webhook == "" && (c.State != "" || c.WebhookSecretFile != ""):
		return s, usageError{errors.New("--state and --webhook-secret-file need --webhook")}
	case c.Local && len(c.Endpoints) != 1:
		return s, usageError{fmt.Errorf("--local follows one node, but --endpoints names %d", len(c.Endpoints))}
	case c.Local:
		s.Node = c.Endpoints[0]
	}
	return s, nil
}

// source names what is followed: with other filters, a position would say nothing of what they let
// pass.
func (c *eventsCommand) source() string {
	name := "zone " + c.Zone.id.String()
	if c.Local {
		name = "node " + c.Endpoints[0]
	}
	if len(c.Topic) > 0 {
		name += " topics " + strings.Join(c.Topic, ",")
	}
	if len(c.Type) > 0 {
		name += " types " + strings.Join(c.Type, ",")
	}
	return name
}

// errNoAnswer ends a subscription that does not come about.
var errNoAnswer = errors.New("no answer in time")

// follow hands the events from at on to the sink, and moves at along, until ctx ends, there
// were enough, or something fails.
func (c *eventsCommand) follow(
	ctx context.Context, conn *client.Client, at *client.Subscription, sink eventSink,
) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	impatience := time.AfterFunc(c.Timeout, func() { cancel(errNoAnswer) })
	defer impatience.Stop()
	left := c.Count // 0 is for ever: it wraps around
	for batch, err := range conn.Subscribe(ctx, *at) {
		impatience.Stop()
		if err != nil {
			if context.Cause(ctx) == errNoAnswer {
				return fmt.Errorf("events: %w within %v: %w", errNoAnswer, c.Timeout, err)
			}
			return err
		}
		for _, e := range batch.Events {
			if err := sink.take(ctx, e); err != nil {
				return err
			}
			at.From, at.Incarnation = e.Sequence+1, e.Incarnation
			if err := sink.done(at.From, at.Incarnation); err != nil {
				return err
			}
			if left--; left == 0 {
				return nil
			}
		}
		at.From, at.Incarnation = batch.Next, batch.Incarnation
		if err := sink.done(at.From, at.Incarnation); err != nil {
			return err
		}
	}
	return nil
}

// explainEvents adds the way out to an error of a subscription.
func explainEvents(err error) error {
	if gone, ok := errors.AsType[*nexusraft.GoneError](err); ok {
		return fmt.Errorf("%w; to go on without what is missing: --from %d, and a --state file of its own", err, gone.Oldest)
	}
	return explain(err)
}

// eventPrinter is the sink that prints.
type eventPrinter struct {
	out  io.Writer
	json bool
}

func (p *eventPrinter) take(_ context.Context, e nexusraft.Event) error {
	if p.json {
		return printJSON(p.out, newEventObject(e))
	}
	_, err := fmt.Fprintf(p.out, "%s\t%d\t%s\t%s\t%s\n",
		e.Time.UTC().Format("2006-01-02T15:04:05.000Z07:00"), e.Sequence, printable(e.Topic), printable(e.Type), brief(e))
	return err
}

func (*eventPrinter) done(uint64, nexusraft.Incarnation) error { return nil }
func (*eventPrinter) close() error                             { return nil }
