package transport

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// PeersOptions configures Peers; the zero value is the documented default.
type PeersOptions struct {
	// Logger is told of connections made and lost; nil discards.
	Logger *slog.Logger

	// TLS encrypts all connections: endpoints that begin with http:// are refused with it. nil: none
	// is encrypted, and https:// is an error.
	TLS *mtls.TLS

	// Dialer opens a connection; nil dials TCP.
	Dialer func(ctx context.Context, addr string) (net.Conn, error)

	// QueueMessages and QueueBytes bound what waits for one peer, in each class by itself;
	// 0 for 4096 messages and 16 MiB.
	QueueMessages int
	QueueBytes    int

	// VoteTimeout is one election timeout: half of a RequestVote call's deadline, since a
	// candidate waits for up to two, and how
	// long Propose waits for a connection; 0 for 300 ms.
	VoteTimeout time.Duration

	// ConnectTimeout and SilenceTimeout are as in PoolOptions, except that 0 is for what suits
	// VoteTimeout: five sixths of it, 250 ms at least; and as long as it is, 300 ms at least.
	ConnectTimeout time.Duration
	SilenceTimeout time.Duration

	// SnapshotBandwidth and SnapshotCompression are as in PoolOptions.
	SnapshotBandwidth   int
	SnapshotCompression bool

	// UnaryInterceptors and StreamInterceptors are as in PoolOptions.
	UnaryInterceptors  []grpc.UnaryClientInterceptor
	StreamInterceptors []grpc.StreamClientInterceptor

	// OnUnreachable is told that messages to a peer were lost: its stream broke, or its
	// queue was full. It is called from inside Send too, so it must not block and must
	// not call back into Peers. nil is told nothing.
	OnUnreachable func(nexusraft.NodeID)

	// OnConnection is told when messages to a peer begin to flow, at the address that is given, and
	// when its connection is lost. It must not block and must not call back into Peers. nil is told
	// nothing.
	OnConnection func(peer nexusraft.NodeID, addr string, connected bool)

	// Accept decides, for the answer to every stream and call, whether a peer is believed,
	// from what it says of itself: a node that remembers openings checks them (Opening.Check). It
	// may write to the disk; it must not call back into Peers. nil accepts whatever these
	// Peers have not seen in a later opening.
	Accept func(Identity) error

	// OnFenced is told that a peer of this node's cluster, which these Peers have not seen in a later
	// opening, refuses this node for good, with its words: err matches ErrFenced. It is called
	// where Accept is, which has not been asked, and may be told again and again. nil is
	// told nothing.
	OnFenced func(peer Identity, err error)

	// BeforeCall is as in PoolOptions.
	BeforeCall func() error
}

// minSilence is what a peer that is alive may leave unanswered however short elections are: its
// process may wait for a core that long.
const minSilence = 300 * time.Millisecond

func (o PeersOptions) withDefaults() PeersOptions {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.QueueMessages = cmp.Or(o.QueueMessages, 4096)
	o.QueueBytes = cmp.Or(o.QueueBytes, 16<<20)
	o.VoteTimeout = cmp.Or(o.VoteTimeout, 300*time.Millisecond)
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, max(5*o.VoteTimeout/6, 250*time.Millisecond))
	o.SilenceTimeout = cmp.Or(o.SilenceTimeout, max(o.VoteTimeout, minSilence))
	if o.OnConnection == nil {
		o.OnConnection = func(nexusraft.NodeID, string, bool) {}
	}
	if o.OnUnreachable == nil {
		o.OnUnreachable = func(nexusraft.NodeID) {}
	}
	if o.OnFenced == nil {
		o.OnFenced = func(Identity, error) {}
	}
	return o
}

// pool is the part of the options that is of connections.
func (o PeersOptions) pool() PoolOptions {
	return PoolOptions{
		TLS:                 o.TLS,
		Dialer:              o.Dialer,
		ConnectTimeout:      o.ConnectTimeout,
		SilenceTimeout:      o.SilenceTimeout,
		SnapshotBandwidth:   o.SnapshotBandwidth,
		SnapshotCompression: o.SnapshotCompression,
		UnaryInterceptors:   o.UnaryInterceptors,
		StreamInterceptors:  o.StreamInterceptors,
		Accept:              o.Accept,
		BeforeCall:          o.BeforeCall,
	}
}

// PeerStats is what Peers knows of one peer.
type PeerStats struct {
	Peer      nexusraft.NodeID
	Address   string
	Connected bool      // an Exchange stream is open
	Since     time.Time // when that became so
	Err       error     // why the last attempt to connect has failed, or the last stream has broken; nil while one is open
	Queued    int       // messages waiting
	Sent      uint64    // messages handed to a stream since the peer was added
	Dropped   uint64    // messages lost before that
}

// Peers sends to other nodes. A peer is added by SetAddress, and a connection to it is kept
// up from then on. The methods may be called from many goroutines.
type Peers struct {
	id     func() Identity
	o      PeersOptions
	pool   *ClientPool
	ctx    context.Context // ends with Close
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // every goroutine of every peer
	leave  chan struct{}  // closed by Close: say good-bye and end
	byes   sync.WaitGroup // senders that have not said good-bye yet

	mu    sync.Mutex
	peers map[nexusraft.NodeID]*peer // nil after Close
}

// NewPeers returns Peers without any peer. It speaks for the node that id describes; id is
// called for each handshake and must not call into Peers.
func NewPeers(id func() Identity, o PeersOptions) *Peers {
	ctx, cancel := context.WithCancelCause(context.Background())
	o = o.withDefaults()
	pool := NewClientPool(id, o.pool())
	pool.nodes = true
	return &Peers{
		id:     id,
		o:      o,
		pool:   pool,
		ctx:    ctx,
		cancel: cancel,
		leave:  make(chan struct{}),
		peers:  make(map[nexusraft.NodeID]*peer),
	}
}

// SetAddress says where a node is reached, an endpoint of a NodeAddress, and adds it if it is new.
// A changed address breaks the old connection. Any call ends a pause between two attempts, so
// calling it for each handshake that comes in reconnects to a peer as soon as it is back.
func (p *Peers) SetAddress(node nexusraft.NodeID, addr string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.peers == nil {
		return
	}
	if known, ok := p.peers[node]; ok {
		known.setAddress(addr)
		return
	}
	x := newPeer(p, node, addr)
	p.peers[node] = x
	p.byes.Add(1)
	p.wg.Go(x.send)
	p.wg.Go(x.callVotes)
}

// Remove forgets a node: what waits for it is dropped, its connection closed. It doesn't
// wait for the end of its goroutines; Close does.
func (p *Peers) Remove(node nexusraft.NodeID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x, ok := p.peers[node]; ok {
		x.cancel(errRemoved)
		delete(p.peers, node)
	}
}

// Send queues a message and never blocks. It takes over m.Data. A message to an unknown
// peer, over 7 MiB or beyond a full queue is dropped and reported unreachable.
func (p *Peers) Send(to nexusraft.NodeID, class Class, m Message) {
	x := p.peer(to)
	if (x == nil || !x.enqueue(class, m)) && p.ctx.Err() == nil {
		p.o.OnUnreachable(to)
	}
}

// RequestVote asks a peer for votes of several zones, at most 4,096. It doesn't block,
// and takes over the slice.
//
// One call at a time is under way to a peer; what arrives meanwhile waits and goes out
// together. A call whose every zone was asked for again is superseded: it doesn't go out, or
// is cancelled, and ends with an error that says so. A call's deadline is twice VoteTimeout from
// when it goes out.
//
// Done is called exactly once and must not block: from the peer's vote caller, or before
// RequestVote returns if the call is not even queued (ErrUnreachable: unknown peer;
// ErrClosed; ErrTooLarge; ErrOverloaded). Results are this call's, in any order; votes
// without one were ignored.
func (p *Peers) RequestVote(to nexusraft.NodeID, votes []Vote, done func([]VoteResult, error)) {
	x := p.peer(to)
	switch {
	case x == nil:
		done(nil, p.errUnknown(to))
	case len(votes) > MaxVotes:
		done(nil, fmt.Errorf("%w: request %d votes, limit %d", nexusraft.ErrTooLarge, len(votes), MaxVotes))
	default:
		if err := x.votes.add(&voteCall{votes: votes, done: done}); err != nil {
			done(nil, fmt.Errorf("request votes of node %v: %w", to, err))
		}
	}
}

// Stats returns a row for each peer, ascending by node.
func (p *Peers) Stats() []PeerStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	rows := make([]PeerStats, 0, len(p.peers))
	for _, id := range slices.Sorted(maps.Keys(p.peers)) {
		rows = append(rows, p.peers[id].stats())
	}
	return rows
}

// goodbyeTimeout bounds how long Close waits for peers to hear that this node leaves.
const goodbyeTimeout = 200 * time.Millisecond

// Close sends what is queued and tells every peer that is connected that this node leaves
// (PeerHandler.Leaving), for a moment at most; then it breaks all connections, ends all
// calls and waits for every goroutine of Peers. What is called afterwards fails with
// ErrClosed. Only the first call does anything.
func (p *Peers) Close() {
	p.mu.Lock()
	peers := p.peers
	p.peers = nil
	p.mu.Unlock()
	if peers == nil {
		return
	}
	for _, x := range peers {
		if !x.stats().Connected {
			x.cancel(nexusraft.ErrClosed)
		}
	}
	close(p.leave)
	timer := time.AfterFunc(goodbyeTimeout, func() { p.cancel(nexusraft.ErrClosed) })
	defer timer.Stop()
	p.byes.Wait()
	p.cancel(nexusraft.ErrClosed)
	p.wg.Wait()
	p.pool.Close()
}

func (p *Peers) peer(node nexusraft.NodeID) *peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.peers[node]
}

// errUnknown is why there is no such peer.
func (p *Peers) errUnknown(node nexusraft.NodeID) error {
	if p.ctx.Err() != nil {
		return nexusraft.ErrClosed
	}
	return fmt.Errorf("%w: no address is known of node %v", ErrUnreachable, node)
}

// bound returns a context that also ends with Close.
func (p *Peers) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.ctx, func() { cancel(nexusraft.ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}
