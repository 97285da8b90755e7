package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
	"github.com/nexi-lab/nexus-raft/internal/webhook"
)

// bridgeFlags turn events into webhook posts.
type bridgeFlags struct {
	Webhook           string `help:"Post each event to this URL as JSON, instead of printing it." placeholder:"URL"`
	WebhookSecretFile string `help:"Sign the posts with the secret in this file." placeholder:"FILE"`
	State             string `help:"${webhookState}" placeholder:"FILE"`
}

// secretVariable has the secret itself. There is no flag for it: command lines are seen by
// everyone on a machine.
const secretVariable = "NEXUS_RAFT_WEBHOOK_SECRET"

// eventBridge is the sink that posts.
type eventBridge struct {
	poster *webhook.Poster
	state  *webhook.State // nil without --state
}

// bridge returns the sink, and moves at to where an earlier one has stopped.
func (c *eventsCommand) bridge(at *client.Subscription, log io.Writer) (*eventBridge, error) {
	secret, err := c.secret()
	if err != nil {
		return nil, err
	}
	poster, err := webhook.New(webhook.Options{
		URL: c.Webhook, Secret: secret,
		OnRetry: func(err error, wait time.Duration) {
			fmt.Fprintf(log, "%v; trying again in %v\n", err, wait.Round(10*time.Millisecond))
		},
	})
	if err != nil {
		return nil, usageError{fmt.Errorf("--webhook: %w", err)}
	}
	b := &eventBridge{poster: poster}
	if c.State != "" {
		if b.state, err = webhook.OpenState(c.State, c.source()); err != nil {
			return nil, err
		}
		if p := b.state.Position(); p.Next != 0 {
			at.From, at.Incarnation = p.Next, p.Incarnation
		}
	}
	if poster.Exposed() {
		fmt.Fprintf(log, "warning: %s is not encrypted: others on the network can read the events\n", poster.Target())
	}
	from := "from now on"
	if at.From != 0 {
		from = fmt.Sprintf("from sequence %d on", at.From)
	}
	fmt.Fprintf(log, "posting the events of %s to %s, %s\n", c.source(), poster.Target(), from)
	return b, nil
}

// secret returns what signs the posts, nil for nothing.
func (c *eventsCommand) secret() ([]byte, error) {
	if c.WebhookSecretFile != "" {
		return webhook.ReadSecret(c.WebhookSecretFile)
	}
	if secret, ok := os.LookupEnv(secretVariable); ok {
		if secret == "" {
			return nil, usageError{fmt.Errorf("$%s is empty: unset it, and the posts are not signed", secretVariable)}
		}
		return []byte(secret), nil
	}
	return nil, nil
}

func (b *eventBridge) take(ctx context.Context, e nexusraft.Event) error {
	var body bytes.Buffer
	if err := printJSON(&body, newEventObject(e)); err != nil {
		return fmt.Errorf("webhook: encode event %d: %w", e.Sequence, err)
	}
	return b.poster.Post(ctx, e.Sequence, body.Bytes())
}

func (b *eventBridge) done(next uint64, incarnation nexusraft.Incarnation) error {
	if b.state == nil {
		return nil
	}
	return b.state.Done(next, incarnation)
}

func (b *eventBridge) close() error {
	b.poster.Close()
	if b.state == nil {
		return nil
	}
	return b.state.Close()
}
