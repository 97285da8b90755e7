package etcd

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/feed"
)

// watchStream is one stream of watches. One goroutine owns it: it takes requests, reads what has changed, and sends,
// one after the other, so that what it sends is in the order in which it came to know it.
//
// Each watch is in one of two groups: those that have seen all changes up to a revision that is near the newest, and
// those that have still to catch up, whose reads don't hold up the others.
type watchStream struct {
	service   *Watches
	stream    grpc.BidiStreamingServer[etcdserverpb.WatchRequest, etcdserverpb.WatchResponse]
	ctx       context.Context
	zone      Zone
	feed      *feed.Feed
	principal string
	began     time.Time

	watches   map[int64]*watch
	next      int64 // the ID of the next watch that names none
	now, late watchGroup

	asked  int   // requests for progress that are not answered
	needed int64 // the revision that the answer needs

	progress *time.Timer  // when a watch may have to be told how far it is
	due      int64        // when that is, as in watch; 0: it is not set
	leader   *time.Ticker // looks for a leader; nil: the client does not require one
	without  int          // how often it has found none, one after the other
}

// watchGroup are watches of a stream that read together. No watch of it has anything to get of the revisions up to
// position.
type watchGroup struct {
	position int64
	watches  map[*watch]struct{}
	index    watchIndex
	prevKV   int // watches that want previous pairs
}

// electionsWithoutLeader is how many election timeouts a stream that requires a leader goes on without one.
const electionsWithoutLeader = 3

func newWatchStream(
	s *Watches, stream grpc.BidiStreamingServer[etcdserverpb.WatchRequest, etcdserverpb.WatchResponse], z Zone,
	f *feed.Feed, principal string,
) *watchStream {
	x := &watchStream{
		service: s, stream: stream, ctx: stream.Context(), zone: z, feed: f, principal: principal, began: time.Now(),
		watches: make(map[int64]*watch), progress: time.NewTimer(time.Hour),
		now: watchGroup{watches: make(map[*watch]struct{})}, late: watchGroup{watches: make(map[*watch]struct{})},
	}
	x.progress.Stop()
	if requiresLeader(x.ctx) {
		x.leader = time.NewTicker(s.keys.config.ElectionTimeout)
	}
	return x
}

// end gives back what the stream has.
func (s *watchStream) end() {
	s.progress.Stop()
	if s.leader != nil {
		s.leader.Stop()
	}
	for _, w := range s.watches {
		s.service.bytes.Leave(s.principal, w.counted)
	}
}

// run serves the stream until it ends; the error is a status.
func (s *watchStream) run(requests <-chan received) error {
	var looks <-chan time.Time
	if s.leader != nil {
		looks = s.leader.C
	}
	for {
		more, err := s.steps()
		if err == nil {
			err = s.answerProgress()
		}
		if err != nil {
			return s.status(err)
		}
		select {
		case <-more:
		case in := <-requests:
			err = s.take(in)
		case <-s.progress.C:
			err = s.tellProgress()
		case <-looks:
			err = s.lookForLeader()
		case <-s.ctx.Done():
			err = context.Cause(s.ctx)
		}
		if err != nil {
			return s.status(err)
		}
	}
}

// status returns the status that the stream ends with.
func (s *watchStream) status(err error) error {
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	if _, is := err.(interface{ GRPCStatus() *status.Status }); is {
		return err
	}
	return toStatus(err)
}

// take does what the client asks for. After the last request of a client the stream goes on.
func (s *watchStream) take(in received) error {
	switch {
	case errors.Is(in.err, io.EOF):
		return nil
	case in.err != nil:
		return in.err
	}
	switch req := in.req.GetRequestUnion().(type) {
	case *etcdserverpb.WatchRequest_CreateRequest:
		if req.CreateRequest != nil {
			return s.create(req.CreateRequest)
		}
	case *etcdserverpb.WatchRequest_CancelRequest:
		if w := s.watches[req.CancelRequest.GetWatchId()]; w != nil && req.CancelRequest != nil {
			s.forget(w)
			return s.send(&etcdserverpb.WatchResponse{WatchId: w.id, Canceled: true}, s.now.position)
		}
	case *etcdserverpb.WatchRequest_ProgressRequest:
		newest, _, err := s.feed.Standing(s.ctx)
		if err != nil {
			return err
		}
		s.asked, s.needed = s.asked+1, max(s.needed, newest)
	}
	return nil
}

// forget takes a watch out of the stream: nothing is sent to it any more.
func (s *watchStream) forget(w *watch) {
	w.gone = true
	delete(s.watches, w.id)
	for _, g := range [...]*watchGroup{&s.now, &s.late} {
		g.remove(w)
	}
	s.service.bytes.Leave(s.principal, w.counted)
}

func (g *watchGroup) add(w *watch) {
	g.watches[w] = struct{}{}
	g.index.add(w)
	if w.want.PrevKV {
		g.prevKV++
	}
}

func (g *watchGroup) remove(w *watch) {
	if _, in := g.watches[w]; !in {
		return
	}
	delete(g.watches, w)
	g.index.cancelled(w)
	if w.want.PrevKV {
		g.prevKV--
	}
}

// send sends an answer whose header has a revision. A larger one reserves its place first, and waits for it: it is in
// memory once, as it is encoded.
func (s *watchStream) send(resp *etcdserverpb.WatchResponse, rev int64) error {
	if size := proto.Size(resp); size > budget.AnswerBytesFree {
		if err := s.reserve(2 * int64(size)); err != nil {
			return err
		}
	}
	return s.sendReserved(resp, rev)
}

// sendReserved is send for an answer whose place is reserved.
func (s *watchStream) sendReserved(resp *etcdserverpb.WatchResponse, rev int64) error {
	resp.Header = &etcdserverpb.ResponseHeader{Revision: rev}
	s.service.keys.complete(resp.Header, s.zone)
	return s.stream.Send(resp)
}

// reserve waits until the budget of answers has room for so many bytes, or the stream ends.
func (s *watchStream) reserve(n int64) error {
	for {
		err := budget.Reserve(s.ctx, n)
		if _, full := errors.AsType[*budget.Exceeded](err); !full {
			return err
		}
	}
}

// lookForLeader ends a stream that requires a leader after a while without one.
func (s *watchStream) lookForLeader() error {
	if s.zone.HasLeader() {
		s.without = 0
		return nil
	}
	if s.without++; s.without < electionsWithoutLeader {
		return nil
	}
	return rpctypes.ErrGRPCNoLeader
}

// answerProgress answers the requests for progress once all watches have seen all changes up to the revision that was
// the newest when they came. A watch whose beginning is still to come is waited for, or its client would take
// the answer for its progress.
func (s *watchStream) answerProgress() error {
	if s.asked == 0 || len(s.late.watches) > 0 {
		return nil
	}
	rev := s.now.position
	if len(s.now.watches) == 0 {
		rev = max(rev, s.needed)
	}
	if rev < s.needed {
		return nil
	}
	for w := range s.now.watches {
		if w.from > rev+1 {
			return nil
		}
	}
	for ; s.asked > 0; s.asked-- {
		if err := s.send(&etcdserverpb.WatchResponse{WatchId: anyWatch}, rev); err != nil {
			return err
		}
	}
	return nil
}

// anyWatch is the ID in answers that are about no watch, or about all of a stream.
const anyWatch = -1

// elapsed returns how long the stream has been there.
func (s *watchStream) elapsed() int64 { return int64(time.Since(s.began)) }

// postpone sets when a watch is told of its progress, unless it gets something before.
func (s *watchStream) postpone(w *watch) {
	if !w.progress {
		return
	}
	interval := s.service.keys.config.WatchProgressInterval
	w.due = s.elapsed() + int64(interval) + rand.Int64N(int64(interval)/10+1)
	s.remind(w)
}

// tellProgress tells the watches that are due how far they are. Those that have still to catch up, or to begin, are
// asked again later.
func (s *watchStream) tellProgress() error {
	s.due = 0
	for w := range s.now.watches {
		if !w.progress || w.due > s.elapsed() {
			s.remind(w)
			continue
		}
		s.postpone(w)
		if w.from > s.now.position+1 {
			continue
		}
		if err := s.send(&etcdserverpb.WatchResponse{WatchId: w.id}, s.now.position); err != nil {
			return err
		}
	}
	for w := range s.late.watches {
		s.postpone(w)
	}
	return nil
}

// remind sets the timer so that it fires when a watch is due.
func (s *watchStream) remind(w *watch) {
	if w.progress && (s.due == 0 || w.due < s.due) {
		s.due = w.due
		s.progress.Reset(time.Duration(w.due - s.elapsed()))
	}
}
