package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/wire"
)

// quietAttempts is after how many times Options.AttemptTimeout a silent node is asked for a sign of life: longer than
// the five seconds in which nodes give one by themselves. It has one such time more to answer.
const quietAttempts = 3

// watch is a Watch under way. It owns its fields; one goroutine at a time uses it.
type watch struct {
	follower
	request *etcdserverpb.WatchCreateRequest // of the next stream; start_revision says where to go on, 0: not known yet
	stands  bool                             // a first batch has been yielded
	done    int                              // changes of start_revision that were yielded
	seen    int                              // changes of start_revision that the current stream has brought
	reached int64                            // newest revision that its node has named
}

func newWatch(c *Client, keys KeySet, o WatchOptions) *watch {
	w := &watch{
		follower: follower{client: c, endpoints: c.opts.Endpoints},
		request: &etcdserverpb.WatchCreateRequest{
			Key: keys.key, RangeEnd: keys.end, StartRevision: wireRevision(o.From), PrevKv: o.Previous,
			ProgressNotify: true, Fragment: true,
		},
	}
	if o.NoPuts {
		w.request.Filters = append(w.request.Filters, etcdserverpb.WatchCreateRequest_NOPUT)
	}
	if o.NoDeletes {
		w.request.Filters = append(w.request.Filters, etcdserverpb.WatchCreateRequest_NODELETE)
	}
	return w
}

func (w *watch) follow(ctx context.Context, yield func(KeyChanges, error) bool) error {
	return w.follower.follow(ctx, func(address string) (class, time.Duration, error) {
		return w.stream(ctx, address, yield)
	})
}

// stream yields what one stream to one endpoint brings. It returns nil when the caller wants no more.
func (w *watch) stream(
	ctx context.Context, address string, yield func(KeyChanges, error) bool,
) (v class, after time.Duration, err error) {
	e, err := w.client.node(address)
	if err != nil {
		return final, 0, err
	}
	if err := e.ready(ctx, w.client.opts.DialTimeout); err != nil {
		return again, 0, err
	}
	w.seen, w.reached = 0, 0
	s, err := w.open(ctx, e)
	defer s.close()
	created := false
	for err == nil {
		var resp *etcdserverpb.WatchResponse
		if resp, err = s.receive(); err != nil {
			break
		}
		if resp.GetCreated() && !created {
			created = true
			w.client.prefer(address)
		}
		if resp.GetCanceled() {
			v, err = w.cancelled(resp)
			return v, 0, fmt.Errorf("client: %s: %w", address, err)
		}
		batch, tell := w.take(resp)
		if tell && !yield(batch, nil) {
			return final, 0, nil
		}
	}
	if context.Cause(s.ctx) == errSilent {
		return again, 0, fmt.Errorf("client: %s: %w", address, w.silent(created))
	}
	after = retryAfter(err)
	v, err = classifyStream(err, created, "watches")
	return v, after, fmt.Errorf("client: %s: %w", address, err)
}

// silent is the error for a stream that brings nothing. One whose node is not that far yet may do better elsewhere.
func (w *watch) silent(created bool) error {
	if created && w.reached+1 < w.request.StartRevision {
		return fmt.Errorf("it is at revision %d, and the watch waits for %d", w.reached, w.request.StartRevision)
	}
	return errSilent
}

// take turns a response into a batch, and notes where to go on. It leaves out what was yielded before; tell is
// whether the batch is worth yielding.
func (w *watch) take(resp *etcdserverpb.WatchResponse) (batch KeyChanges, tell bool) {
	before := w.request.StartRevision
	w.reached = max(w.reached, resp.GetHeader().GetRevision())
	for _, event := range resp.GetEvents() {
		if w.advance(event) {
			batch.Changes = append(batch.Changes, keyChange(event))
		}
	}
	switch revision := resp.GetHeader().GetRevision(); {
	case resp.GetFragment(): // more of the last revision may come
	case len(resp.GetEvents()) > 0:
		last := resp.Events[len(resp.Events)-1].GetKv().GetModRevision()
		w.goOn(last + 1)
	case resp.GetCreated() && w.request.StartRevision == 0, !resp.GetCreated():
		w.goOn(revision + 1)
	}
	moved := w.request.StartRevision != before
	tell = !w.stands || moved || len(batch.Changes) > 0
	w.stands = true
	w.moved = w.moved || moved || len(batch.Changes) > 0
	batch.Through = nexusraft.Revision(w.request.StartRevision - 1)
	return batch, tell
}

// goOn moves the position forward to a revision of which nothing was yielded.
func (w *watch) goOn(revision int64) {
	if revision > w.request.StartRevision {
		w.request.StartRevision, w.done, w.seen = revision, 0, 0
	}
}

// advance moves the position beyond an event, and reports whether it is new. Those of one revision are counted: a
// stream that breaks among them is followed by one that begins with the first.
func (w *watch) advance(event *mvccpb.Event) bool {
	revision := event.GetKv().GetModRevision()
	w.goOn(revision)
	if revision < w.request.StartRevision {
		return false
	}
	w.seen++
	if w.seen <= w.done {
		return false
	}
	w.done = w.seen
	return true
}

// cancelled is what the node's end of the watch means.
func (w *watch) cancelled(resp *etcdserverpb.WatchResponse) (class, error) {
	if compacted := resp.GetCompactRevision(); compacted > 0 {
		return final, &WatchCompactedError{nexusraft.Revision(w.request.StartRevision), nexusraft.Revision(compacted)}
	}
	reason := status.New(codes.FailedPrecondition, resp.GetCancelReason())
	if known, ok := errors.AsType[rpctypes.EtcdError](rpctypes.Error(reason.Err())); ok {
		reason = status.New(known.Code(), resp.GetCancelReason())
	}
	if resp.GetCancelReason() == "" {
		reason = status.New(codes.Unavailable, "the node has ended the watch")
	}
	return classify(reason.Err(), false, true)
}

// watchStream is one stream of a node's, with one watch, and whether that node lives.
type watchStream struct {
	ctx      context.Context // ends with errSilent if it does not
	cancel   context.CancelCauseFunc
	patience time.Duration // Options.AttemptTimeout
	stream   etcdserverpb.Watch_WatchClient

	sending sync.Mutex  // held while something is sent
	silence *time.Timer // gives up
	quiet   *time.Timer // asks for a sign of life; nil before the first response
}

// open opens a stream with the watch. It returns one to close in any case.
func (w *watch) open(ctx context.Context, e *endpoint) (s *watchStream, err error) {
	s = &watchStream{patience: w.client.opts.AttemptTimeout}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.silence = time.AfterFunc(s.patience, func() { s.cancel(errSilent) })
	out := metadata.AppendToOutgoingContext(s.ctx, wire.ZoneHeader, w.client.opts.Zone.String(),
		rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	if s.stream, err = etcdserverpb.NewWatchClient(e.conn).Watch(out); err != nil {
		return s, err
	}
	create := &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: w.request}
	s.send(&etcdserverpb.WatchRequest{RequestUnion: create})
	return s, nil
}

// send sends a request, unless another one is on its way. That the stream has ended is Recv's to tell.
func (s *watchStream) send(req *etcdserverpb.WatchRequest) {
	if s.sending.TryLock() {
		defer s.sending.Unlock()
		_ = s.stream.Send(req)
	}
}

// ask asks for a sign of life.
func (s *watchStream) ask() {
	progress := &etcdserverpb.WatchRequest_ProgressRequest{ProgressRequest: &etcdserverpb.WatchProgressRequest{}}
	s.send(&etcdserverpb.WatchRequest{RequestUnion: progress})
}

// receive returns the next response. Only while it waits does the node's silence count.
func (s *watchStream) receive() (*etcdserverpb.WatchResponse, error) {
	if s.quiet != nil {
		s.quiet.Reset(quietAttempts * s.patience)
		s.silence.Reset((quietAttempts + 1) * s.patience)
	}
	resp, err := s.stream.Recv()
	s.silence.Stop()
	if s.quiet == nil {
		s.quiet = time.AfterFunc(quietAttempts*s.patience, s.ask)
	}
	s.quiet.Stop()
	return resp, err
}

func (s *watchStream) close() {
	s.silence.Stop()
	s.cancel(nil)
}

func keyChange(event *mvccpb.Event) KeyChange {
	change := KeyChange{Pair: keyValue(event.GetKv()), Deleted: event.GetType() == mvccpb.Event_DELETE}
	if event.GetPrevKv() != nil {
		previous := keyValue(event.GetPrevKv())
		change.Previous = &previous
	}
	return change
}
