package transport

import (
	"context"
	"fmt"
	"slices"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// voteCall is one RequestVote of a user of Peers.
type voteCall struct {
	votes []Vote
	done  func([]VoteResult, error)

	// Guarded by the queue.
	zones      int  // those of its zones in which no newer call asks
	superseded bool // zones was above 0 and fell to 0
	running    bool // in the request that is under way
}

// voteQueue holds the vote calls of one peer. Any goroutine adds, the vote caller runs.
type voteQueue struct {
	wake chan struct{} // capacity 1: something was added

	mu      sync.Mutex
	newest  map[nexusraft.ZoneID]*voteCall // of those that wait or run
	waiting []*voteCall                    // superseded ones included, until their done was called
	running []*voteCall                    // what the request that is under way asks for
	live    int                            // those of running that are not superseded
	cancel  context.CancelFunc             // ends that request
	closed  bool
}

func newVoteQueue() *voteQueue {
	return &voteQueue{wake: make(chan struct{}, 1), newest: make(map[nexusraft.ZoneID]*voteCall)}
}

// add queues a call, unless the queue is closed or full of calls for other zones.
func (q *voteQueue) add(c *voteCall) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nexusraft.ErrClosed
	}
	if len(q.waiting) >= MaxVotes {
		return nexusraft.ErrOverloaded
	}
	for _, v := range c.votes {
		if old := q.newest[v.Zone]; old != c {
			q.newest[v.Zone] = c
			c.zones++
			q.lose(old)
		}
	}
	q.waiting = append(q.waiting, c)
	signal(q.wake)
	return nil
}

// lose takes a zone from old, the call that was its newest; nil if none was.
func (q *voteQueue) lose(old *voteCall) {
	if old == nil {
		return
	}
	if old.zones--; old.zones > 0 {
		return
	}
	old.superseded = true
	if old.running {
		if q.live--; q.live == 0 {
			q.cancel()
		}
	}
}

// next forgets the calls of the last request and takes those for the next one, which cancel
// ends, and the superseded ones. It leaves calls that don't fit, or that ask again in a
// zone of the same request.
func (q *voteQueue) next(cancel context.CancelFunc) (run, superseded []*voteCall) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forget(q.running)
	var rest []*voteCall
	total, taken := 0, make(map[nexusraft.ZoneID]bool)
	for _, c := range q.waiting {
		again := slices.ContainsFunc(c.votes, func(v Vote) bool { return taken[v.Zone] })
		switch {
		case c.superseded:
			superseded = append(superseded, c)
		case again || total+len(c.votes) > MaxVotes:
			rest = append(rest, c)
		default:
			run = append(run, c)
			c.running = true
			total += len(c.votes)
			for _, v := range c.votes {
				taken[v.Zone] = true
			}
		}
	}
	q.waiting, q.running, q.live, q.cancel = rest, run, len(run), cancel
	return run, superseded
}

// forget drops calls that have ended, so that nothing can supersede them any more.
func (q *voteQueue) forget(ended []*voteCall) {
	for _, c := range ended {
		for _, v := range c.votes {
			if q.newest[v.Zone] == c {
				delete(q.newest, v.Zone)
			}
		}
	}
}

// close refuses further calls and returns those that wait.
func (q *voteQueue) close() []*voteCall {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	return q.waiting
}

// callVotes is the vote caller: it runs calls until the peer is removed.
func (x *peer) callVotes() {
	for x.ctx.Err() == nil {
		if x.callVotesOnce() {
			continue
		}
		select {
		case <-x.votes.wake:
		case <-x.ctx.Done():
		}
	}
	for _, c := range x.votes.close() {
		c.done(nil, fmt.Errorf("request votes of node %v: %w", x.node, nexusraft.ErrClosed))
	}
}

// callVotesOnce makes one request of what waits, and reports whether anything did.
func (x *peer) callVotesOnce() bool {
	ctx, cancel := context.WithTimeout(x.ctx, 2*x.peers.o.VoteTimeout) // for as long as a candidate waits
	defer cancel()
	run, superseded := x.votes.next(cancel)
	for _, c := range superseded {
		c.done(nil, fmt.Errorf("request votes of node %v: %w", x.node, errSuperseded))
	}
	if len(run) == 0 {
		return len(superseded) > 0
	}
	var votes []Vote
	for _, c := range run {
		votes = append(votes, c.votes...)
	}
	results, err := x.requestVotes(ctx, votes)
	for _, c := range run {
		c.finish(results, x.voteError(c, err))
	}
	return true
}

// requestVotes makes the call itself.
func (x *peer) requestVotes(ctx context.Context, votes []Vote) ([]VoteResult, error) {
	client, err := x.await(ctx)
	if err != nil {
		return nil, err
	}
	results, err := client.RequestVote(ctx, votes)
	if err != nil {
		x.noteFence(err)
	}
	return results, err
}

// voteError is how one of a request's calls ended, given how the request did.
func (x *peer) voteError(c *voteCall, err error) error {
	if err == nil {
		return nil
	}
	x.votes.mu.Lock()
	defer x.votes.mu.Unlock()
	switch {
	case x.ctx.Err() != nil:
		err = nexusraft.ErrClosed
	case c.superseded:
		err = errSuperseded
	}
	return fmt.Errorf("request votes of node %v: %w", x.node, err)
}

// finish hands a call its own part of a request's results.
func (c *voteCall) finish(results []VoteResult, err error) {
	if err != nil {
		c.done(nil, err)
		return
	}
	type question struct {
		zone             nexusraft.ZoneID
		pre              bool
		candidate, voter nexusraft.ReplicaID
	}
	asked := make(map[question]bool, len(c.votes))
	for _, v := range c.votes {
		asked[question{v.Zone, v.Pre, v.From, v.To}] = true
	}
	var own []VoteResult
	for _, r := range results {
		if asked[question{r.Zone, r.Pre, r.To, r.From}] {
			own = append(own, r)
		}
	}
	c.done(own, nil)
}
