package raftwire

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/time/rate"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Intake is the way to a worker, as a driver.Inbox is, or to several. Its methods may be called from many goroutines.
type Intake interface {
	// Put takes messages in, and reports how many have found room. Each vote request is answered, also one that
	// has found none.
	Put([]driver.Inbound) (taken int)

	Hear(from nexusraft.NodeID, s zone.Signal)
	Closed() bool
}

// Receiver hands what peers send to a worker. It has the methods of a transport.PeerHandler that are
// raft's, which may be called from many goroutines.
type Receiver struct {
	inbox     Intake
	logger    *slog.Logger
	snapshots bool

	refusals rate.Sometimes // in the log
}

// NewReceiver returns the receiver of a worker's messages. snapshots says that a MsgSnap is good by
// itself, as it is for a witness; a member's comes with the state, by a call of its own.
func NewReceiver(b Intake, logger *slog.Logger, snapshots bool) *Receiver {
	return &Receiver{inbox: b, logger: logger, snapshots: snapshots, refusals: driver.BadMessages()}
}

// Receive decodes messages and hands them over. It does not wait.
func (r *Receiver) Receive(from nexusraft.NodeID, msgs []transport.Message) {
	in := make([]driver.Inbound, 0, len(msgs))
	for _, m := range msgs {
		if s, ok := decodeSignal(m); ok {
			r.inbox.Hear(from, s)
			continue
		}
		message := &raftpb.Message{}
		if err := proto.Unmarshal(m.Data, message); err != nil {
			r.refusals.Do(func() {
				r.logger.Warn("peer sent a message that can't be read", "zone", m.Zone, "peer", from, "err", err)
			})
			continue
		}
		if typ := message.GetType(); !r.streamed(typ) {
			r.refusals.Do(func() {
				r.logger.Warn("peer sent a message the wrong way", "zone", m.Zone, "peer", from, "type", typ)
			})
			continue
		}
		in = append(in, driver.Inbound{Zone: m.Zone, From: from, Message: message, Bytes: len(m.Data)})
	}
	if taken := r.inbox.Put(in); taken < len(in) && !r.inbox.Closed() {
		r.refusals.Do(func() {
			r.logger.Warn("inbox full, raft messages dropped", "peer", from, "count", len(in)-taken)
		})
	}
}

// streamed reports whether messages of a type come by a stream.
func (r *Receiver) streamed(typ raftpb.MessageType) bool {
	switch typ {
	case raftpb.MsgVote, raftpb.MsgPreVote: // they are calls
		return false
	case raftpb.MsgSnap:
		return r.snapshots
	}
	return true
}

// RequestVote waits until the rounds that answer the requests are on the disk. A request whose round is not
// written before ctx ends has no result, which counts as ignored, as does one that finds no room. Once half
// of the time is over it returns with the results that there are, if any: a worker that stands still keeps no
// other zone from its vote. The error is ErrClosed, once the worker has ended and has decided none of them.
func (r *Receiver) RequestVote(
	ctx context.Context, from nexusraft.NodeID, votes []transport.Vote,
) ([]transport.VoteResult, error) {
	calls, in := make([]*Waiter, len(votes)), make([]driver.Inbound, len(votes))
	for i, v := range votes {
		calls[i] = NewWaiter(v)
		in[i] = driver.Inbound{
			Zone: v.Zone, From: from, Message: calls[i].Message(), Bytes: len(v.Context), Vote: calls[i],
		}
	}
	r.inbox.Put(in)
	results := r.await(ctx, calls)
	decided := func(v transport.VoteResult) bool { return v.Outcome != transport.VoteIgnored }
	if len(results) == len(calls) && r.inbox.Closed() && !slices.ContainsFunc(results, decided) {
		return nil, nexusraft.ErrClosed
	}
	return results, nil
}

// await returns the results that come in time; see RequestVote.
func (r *Receiver) await(ctx context.Context, calls []*Waiter) (results []transport.VoteResult) {
	end, ends := ctx.Deadline()
	if !ends {
		end = time.Now().Add(time.Hour)
	}
	timer := time.NewTimer(time.Until(end) / 2)
	defer timer.Stop()
	left := calls
	for len(left) > 0 {
		select {
		case result := <-left[0].Done():
			results, left = append(results, result), left[1:]
			continue
		case <-timer.C:
		case <-ctx.Done():
		}
		left = slices.DeleteFunc(slices.Clone(left), func(c *Waiter) bool {
			select {
			case result := <-c.Done():
				results = append(results, result)
				return true
			default:
				return false
			}
		})
		if len(results) > 0 || ctx.Err() != nil {
			return results
		}
		timer.Reset(max(time.Until(end)/2, time.Millisecond))
	}
	return results
}
