package transport

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// voteEnd is how a call ended.
type voteEnd struct {
	results []VoteResult
	err     error
}

// ask requests votes of B and returns where the outcome goes. A done that is called twice
// fails the test.
func ask(t *testing.T, p *Peers, votes ...Vote) <-chan voteEnd {
	t.Helper()
	ended := make(chan voteEnd, 1)
	p.RequestVote(nodeB, votes, func(results []VoteResult, err error) {
		select {
		case ended <- voteEnd{results, err}:
		default:
			t.Error("done was called twice")
		}
	})
	return ended
}

// grantAll answers every vote.
func grantAll(_ context.Context, _ nexusraft.NodeID, votes []Vote) ([]VoteResult, error) {
	var results []VoteResult
	for _, v := range votes {
		results = append(results, grant(v))
	}
	return results, nil
}

func grant(v Vote) VoteResult {
	return VoteResult{Zone: v.Zone, Pre: v.Pre, From: v.To, To: v.From, Outcome: VoteGranted, Term: v.Term}
}

func TestRequestVoteCarriesEverything(t *testing.T) {
	asked := Vote{Zone: 9, Pre: true, From: 1, To: 2, Term: 3, LastIndex: 4, LastTerm: 5, Context: []byte("transfer")}
	for _, answer := range []VoteResult{
		grant(asked),
		{Zone: 9, Pre: true, From: 2, To: 1, Outcome: VoteRejected, Term: 8},
		{
			Zone: 9, Pre: true, From: 2, To: 1, Outcome: VoteIgnored, Term: 7, Why: "lease", LastTerm: 6, LastIndex: 70,
			LeaseTicksLeft: 5,
		},
	} {
		t.Run(answer.Outcome.String(), func(t *testing.T) {
			got := make(chan []Vote, 1)
			addr, _ := serve(t, identityB, &fakeNode{vote: func(_ context.Context, from nexusraft.NodeID,
				votes []Vote,
			) ([]VoteResult, error) {
				if from != nodeA {
					t.Errorf("from: got %v, want %v", from, nodeA)
				}
				got <- votes
				return []VoteResult{answer}, nil
			}})
			p := peersOf(t, identityA, PeersOptions{VoteTimeout: 10 * time.Second})
			connect(t, p, addr)
			end := await(t, "done", ask(t, p, asked))
			if end.err != nil {
				t.Fatalf("RequestVote: %v", end.err)
			}
			if diff := cmp.Diff([]Vote{asked}, <-got); diff != "" {
				t.Errorf("votes (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]VoteResult{answer}, end.results); diff != "" {
				t.Errorf("results (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNewerVotesCancelOlder(t *testing.T) {
	arrived := make(chan Vote)
	addr, _ := serve(t, identityB, &fakeNode{vote: func(ctx context.Context, from nexusraft.NodeID,
		votes []Vote,
	) ([]VoteResult, error) {
		arrived <- votes[0]
		if votes[0].Term == 1 {
			<-ctx.Done() // stuck until it is cancelled
			return nil, ctx.Err()
		}
		return grantAll(ctx, from, votes)
	}})
	p := peersOf(t, identityA, PeersOptions{VoteTimeout: time.Minute})
	connect(t, p, addr)
	first := ask(t, p, Vote{Zone: 1, Term: 1})
	await(t, "the first call at B", arrived)
	second := ask(t, p, Vote{Zone: 1, Term: 2})
	if end := await(t, "the first call's end", first); !errors.Is(end.err, errSuperseded) {
		t.Errorf("first: got %v, want errSuperseded", end.err)
	}
	await(t, "the second call at B", arrived)
	if end := await(t, "the second call's end", second); end.err != nil || len(end.results) != 1 ||
		end.results[0].Term != 2 {
		t.Errorf("second: got %+v, want a grant in term 2", end)
	}
}

func TestWaitingVotesGoOutTogether(t *testing.T) {
	type request struct {
		votes []Vote
		reply chan struct{}
	}
	requests := make(chan request)
	addr, _ := serve(t, identityB, &fakeNode{vote: func(ctx context.Context, from nexusraft.NodeID,
		votes []Vote,
	) ([]VoteResult, error) {
		r := request{votes, make(chan struct{})}
		requests <- r
		<-r.reply
		return grantAll(ctx, from, votes)
	}})
	p := peersOf(t, identityA, PeersOptions{VoteTimeout: time.Minute})
	connect(t, p, addr)
	busy := ask(t, p, Vote{Zone: 1, Term: 1})
	first := await(t, "the first request", requests)
	stale := ask(t, p, Vote{Zone: 2, Term: 1, Pre: true})
	fresh := ask(t, p, Vote{Zone: 2, Term: 1})
	other := ask(t, p, Vote{Zone: 3, Term: 4})
	close(first.reply)
	if end := await(t, "the first call's end", busy); end.err != nil {
		t.Errorf("zone 1: %v; a call for other zones must not cancel it", end.err)
	}
	if end := await(t, "the stale call's end", stale); !errors.Is(end.err, errSuperseded) {
		t.Errorf("zone 2, pre-vote: got %v, want errSuperseded", end.err)
	}
	second := await(t, "the second request", requests)
	if diff := cmp.Diff([]Vote{{Zone: 2, Term: 1}, {Zone: 3, Term: 4}}, second.votes); diff != "" {
		t.Errorf("second request (-want +got):\n%s", diff)
	}
	close(second.reply)
	for zone, ended := range map[nexusraft.ZoneID]<-chan voteEnd{2: fresh, 3: other} {
		end := await(t, "the call's end", ended)
		if end.err != nil || len(end.results) != 1 || end.results[0].Zone != zone {
			t.Errorf("zone %v: got %+v, want its own result only", zone, end)
		}
	}
}

func TestVoteDeadline(t *testing.T) {
	stuck := func(ctx context.Context, _ nexusraft.NodeID, _ []Vote) ([]VoteResult, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	t.Run("silent voter", func(t *testing.T) {
		addr, _ := serve(t, identityB, &fakeNode{vote: stuck})
		p := peersOf(t, identityA, PeersOptions{VoteTimeout: 20 * time.Millisecond})
		connect(t, p, addr)
		if end := await(t, "done", ask(t, p, Vote{Zone: 1})); end.err == nil {
			t.Error("got no error, want that the deadline passed")
		}
	})
	t.Run("no connection", func(t *testing.T) {
		p := peersOf(t, identityA, PeersOptions{VoteTimeout: 20 * time.Millisecond, Dialer: gatedDialer(nil)})
		p.SetAddress(nodeB, "nowhere:1")
		if end := await(t, "done", ask(t, p, Vote{Zone: 1})); !errors.Is(end.err, ErrUnreachable) {
			t.Errorf("got %v, want ErrUnreachable", end.err)
		}
	})
}

func TestCloseEndsVotes(t *testing.T) {
	dialed := make(chan struct{}, 1)
	p := NewPeers(as(identityA), PeersOptions{
		VoteTimeout: time.Minute,
		Dialer: func(ctx context.Context, _ string) (net.Conn, error) {
			signal(dialed)
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	p.SetAddress(nodeB, "nowhere:1")
	await(t, "the attempt", dialed)
	running := ask(t, p, Vote{Zone: 1})
	waiting := ask(t, p, Vote{Zone: 2})
	p.Close()
	for name, ended := range map[string]<-chan voteEnd{"running": running, "waiting": waiting} {
		select {
		case end := <-ended:
			if !errors.Is(end.err, nexusraft.ErrClosed) {
				t.Errorf("%s: got %v, want ErrClosed", name, end.err)
			}
		default:
			t.Errorf("%s: done was not called before Close returned", name)
		}
	}
}

func TestRequestVoteRefusesAtOnce(t *testing.T) {
	p := peersOf(t, identityA, PeersOptions{})
	if end := <-ask(t, p, Vote{Zone: 1}); !errors.Is(end.err, ErrUnreachable) {
		t.Errorf("unknown peer: got %v, want ErrUnreachable", end.err)
	}
	p.SetAddress(nodeB, "127.0.0.1:1")
	if end := <-ask(t, p, make([]Vote, MaxVotes+1)...); !errors.Is(end.err, nexusraft.ErrTooLarge) {
		t.Errorf("too many votes: got %v, want ErrTooLarge", end.err)
	}
}

func TestVoteQueueIsBounded(t *testing.T) {
	q := newVoteQueue()
	for zone := range nexusraft.ZoneID(MaxVotes) {
		if err := q.add(&voteCall{votes: []Vote{{Zone: zone}}}); err != nil {
			t.Fatalf("call %v: %v", zone, err)
		}
	}
	if err := q.add(&voteCall{votes: []Vote{{Zone: MaxVotes}}}); !errors.Is(err, nexusraft.ErrOverloaded) {
		t.Errorf("got %v, want ErrOverloaded", err)
	}
}

func TestVoteQueueTakesEachZoneOncePerRequest(t *testing.T) {
	call := func(zones ...nexusraft.ZoneID) *voteCall {
		c := &voteCall{}
		for _, zone := range zones {
			c.votes = append(c.votes, Vote{Zone: zone})
		}
		return c
	}
	q := newVoteQueue()
	cancelled := false
	old, both, again, alone := call(1), call(1, 2), call(2, 3), call(4)
	for _, c := range []*voteCall{old, both, again, alone} {
		if err := q.add(c); err != nil {
			t.Fatal(err)
		}
	}
	run, superseded := q.next(func() { cancelled = true })
	if !slices.Equal(superseded, []*voteCall{old}) || !slices.Equal(run, []*voteCall{both, alone}) {
		t.Fatalf("first request: got %d calls and %d superseded, want zones 1 2 and 4; the old 1 superseded", len(run),
			len(superseded))
	}
	for _, c := range []*voteCall{call(1), call(4)} { // zone 2 has a newer call already
		if cancelled {
			t.Error("cancelled while a call of the request was wanted")
		}
		if err := q.add(c); err != nil {
			t.Fatal(err)
		}
	}
	if !cancelled {
		t.Error("the request was not cancelled when all its calls were superseded")
	}
	run, superseded = q.next(func() {})
	if len(run) != 3 || len(superseded) != 0 {
		t.Errorf("second request: got %d calls and %d superseded, want 3 and 0", len(run), len(superseded))
	}
	if run, _ = q.next(func() {}); len(run) != 0 || len(q.newest) != 0 {
		t.Errorf("third request: got %d calls and %d zones remembered, want none", len(run), len(q.newest))
	}
}

func TestVoteRefusalNamesTheReason(t *testing.T) {
	var refuse atomic.Bool
	addr, _ := serve(t, identityB, &fakeNode{hello: func(Identity) error {
		if refuse.Load() {
			return errors.New("the node was removed")
		}
		return nil
	}})
	p := peersOf(t, identityA, PeersOptions{VoteTimeout: 10 * time.Second})
	connect(t, p, addr)
	refuse.Store(true)
	if end := await(t, "done", ask(t, p, Vote{Zone: 1})); !errors.Is(end.err, nexusraft.ErrRefused) {
		t.Errorf("got %v, want ErrRefused", end.err)
	}
}
