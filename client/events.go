package client

import (
	"context"
	"fmt"
	"iter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// Subscription says which events to follow, and from where on. The zero value means all
// events of the client's zone, from now on.
type Subscription struct {
	// Topics selects the events whose topic is one of these or lies below one: "app"
	// includes "app/orders", and not "apple". None means all; at most 64.
	Topics []string

	// Types selects the events of these types. None means all; at most 64.
	Types []string

	// From is the first sequence to get; 0 means what happens from now on.
	From uint64

	// Node, if set, is the address of a node whose own events are followed instead of
	// the zone's: its view of leaders, sync states and peers.
	Node string

	// Incarnation is what From is of, for a node's own events; if it is over, they begin
	// with the oldest that the node still has.
	Incarnation nexusraft.Incarnation
}

// GapType is the type of an event of a node's own that stands for events that are missing,
// the last of which has its sequence: the node did not keep them long enough, or, with the
// sequence 0, they were of a former incarnation. No subscription leaves it out.
const GapType = "gap"

// Publish appends an event to the client's zone and returns its sequence once it is
// committed. The topic begins with "app/"; topic and kind have at most 256 bytes each, the
// payload at most 1 MiB. It borrows the payload. Errors are as those of Put.
func (c *Client) Publish(ctx context.Context, topic, kind string, payload []byte) (uint64, error) {
	if n := len(topic) + len(kind) + len(payload); n > maxPutBytes { // beyond gRPC's own limit the node could not say so
		return 0, fmt.Errorf("publish %s: client: %w: the event has %d bytes, and no node takes over %d",
			brief([]byte(topic)), nexusraft.ErrTooLarge, n, maxPutBytes)
	}
	var sequence uint64
	req := &pb.PublishRequest{Zone: uint64(c.opts.Zone), Topic: topic, Type: kind, Payload: payload}
	err := c.write(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := pb.NewEventStreamClient(conn).Publish(ctx, req)
		sequence = resp.GetSequence()
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("publish %s: %w", brief([]byte(topic)), err)
	}
	return sequence, nil
}

// RetainEvents changes how many events the client's zone keeps, and for how long, by the
// zone's time; 0 for how long means for ever, 0 events turns them off. Errors are as those of Put.
func (c *Client) RetainEvents(ctx context.Context, count uint64, age time.Duration) error {
	req := &pb.RetainRequest{Zone: uint64(c.opts.Zone), Count: count, AgeNanos: age.Nanoseconds()}
	err := c.write(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := pb.NewEventStreamClient(conn).Retain(ctx, req)
		return err
	})
	if err != nil {
		return fmt.Errorf("retain: %w", err)
	}
	return nil
}

// Subscribe follows a zone's events through whichever endpoint answers, or one node's own.
// The first batch comes as soon as the subscription stands, and may be empty; later ones
// tell of new events or move Next. An error is yielded once and last.
//
// When the stream breaks, or its node is silent for three seconds, Subscribe goes on where it
// stopped, through the same endpoint or the next, and yields no event of a zone twice and misses
// none; while no endpoint answers it tries again until ctx ends, and tells Options.OnWait why. To
// go on in a later process, store Next once a batch has been dealt with, and begin from there.
//
// It ends with ctx's error, with a *nexusraft.GoneError if events from where it stands on
// are no longer kept, or when a node refuses it for good. A node's own events are not
// kept for long: an event of GapType stands for those that are missing.
//
// The caller may take as long as it likes over a batch: the client buffers nothing meanwhile.
func (c *Client) Subscribe(ctx context.Context, s Subscription) iter.Seq2[nexusraft.EventBatch, error] {
	return func(yield func(nexusraft.EventBatch, error) bool) {
		if err := newSubscription(c, s).follow(ctx, yield); err != nil {
			yield(nexusraft.EventBatch{}, fmt.Errorf("subscribe: %w", err))
		}
	}
}

// subscription is a Subscribe under way.
type subscription struct {
	follower
	request *pb.SubscribeRequest // of the next stream: it says where to go on
	stands  bool                 // a first batch has been yielded
}

func newSubscription(c *Client, s Subscription) *subscription {
	f := &subscription{follower: follower{client: c, endpoints: c.opts.Endpoints}, request: &pb.SubscribeRequest{
		Zone: uint64(c.opts.Zone), Topics: s.Topics, Types: s.Types, FromSequence: s.From,
	}}
	if s.Node != "" {
		f.endpoints = []string{s.Node}
		f.request.Zone, f.request.Incarnation = 0, uint64(s.Incarnation)
	}
	return f
}

// follow keeps a stream open until the caller wants no more, which is no error, or there is
// an error that trying again does not mend.
func (f *subscription) follow(ctx context.Context, yield func(nexusraft.EventBatch, error) bool) error {
	return f.follower.follow(ctx, func(address string) (class, time.Duration, error) {
		return f.stream(ctx, address, yield)
	})
}

// maxSilence is how long a stream may be silent, in units of what its node promises.
const maxSilence = 3

// stream yields what one stream to one endpoint brings. It returns nil when the caller
// wants no more. Another one makes sense after a while.
func (f *subscription) stream(
	ctx context.Context, address string, yield func(nexusraft.EventBatch, error) bool,
) (v class, after time.Duration, err error) {
	e, err := f.client.node(address)
	if err != nil {
		return final, 0, err
	}
	if err := e.ready(ctx, f.client.opts.DialTimeout); err != nil {
		return again, 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx = metadata.AppendToOutgoingContext(ctx, wire.ZoneHeader, f.client.opts.Zone.String())
	silence := time.AfterFunc(f.client.opts.AttemptTimeout, func() { cancel(errSilent) })
	defer silence.Stop()
	opened := false
	responses, err := pb.NewEventStreamClient(e.conn).Subscribe(ctx, f.request)
	for err == nil {
		var resp *pb.SubscribeResponse
		if resp, err = responses.Recv(); err != nil {
			break
		}
		silence.Stop()
		if !opened {
			opened = true
			f.client.prefer(address)
		}
		batch, tell, err := f.take(resp)
		if err != nil {
			return final, 0, fmt.Errorf("client: %s: %w", address, err)
		}
		if tell && !yield(batch, nil) {
			return final, 0, nil
		}
		if idle := time.Duration(resp.GetIdleMillis()) * time.Millisecond; idle > 0 {
			silence.Reset(maxSilence * idle)
		}
	}
	if context.Cause(ctx) == errSilent {
		return again, 0, fmt.Errorf("client: %s: %w", address, errSilent)
	}
	after = retryAfter(err)
	v, err = classifyStream(err, opened, "events")
	return v, after, fmt.Errorf("client: %s: %w", address, err)
}

// take turns a response into a batch, and notes where to go on. It leaves out what came
// before; tell is whether the batch is worth yielding.
func (f *subscription) take(resp *pb.SubscribeResponse) (batch nexusraft.EventBatch, tell bool, err error) {
	before := f.at()
	f.enter(resp.GetIncarnation())
	for _, m := range resp.GetEvents() {
		fresh, err := f.advance(m)
		if err != nil {
			return nexusraft.EventBatch{}, false, err
		}
		if fresh {
			batch.Events = append(batch.Events, wire.EventFromProto(m))
		}
	}
	f.request.FromSequence = max(f.request.FromSequence, resp.GetNextSequence())
	moved := f.at() != before
	tell = !f.stands || moved || len(batch.Events) > 0
	f.stands, f.moved = true, f.moved || moved
	batch.Next, batch.Incarnation = f.request.FromSequence, nexusraft.Incarnation(f.request.Incarnation)
	return batch, tell, nil
}

// at is where to go on: the incarnation and the sequence.
func (f *subscription) at() [2]uint64 {
	return [2]uint64{f.request.Incarnation, f.request.FromSequence}
}

// enter begins anew if a node whose own events are followed has.
func (f *subscription) enter(incarnation uint64) {
	if f.request.Zone == 0 && incarnation != f.request.Incarnation {
		f.request.Incarnation, f.request.FromSequence = incarnation, 0
	}
}

// advance moves the position beyond an event, and reports whether the event is new.
func (f *subscription) advance(m *pb.Event) (bool, error) {
	r := f.request
	if m.GetSequence() < r.FromSequence {
		return false, nil
	}
	all := r.Zone != 0 && len(r.Topics) == 0 && len(r.Types) == 0
	if all && r.FromSequence != 0 && m.GetSequence() != r.FromSequence {
		return false, fmt.Errorf("%w: after event %d comes event %d", nexusraft.ErrCorrupt, r.FromSequence-1, m.GetSequence())
	}
	r.FromSequence = m.GetSequence() + 1
	return true, nil
}
