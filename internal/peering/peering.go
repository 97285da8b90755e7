package peering

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Options configure a Peering. Fields without a comment are as in the owner's Config; the owner has
// set their defaults.
type Options struct {
	Dir         string // for errors
	Name        string
	Advertise   string
	Join        []string
	JoinTimeout time.Duration
	Role        nexusraft.Role // RoleMember or RoleWitness: what the node joins as
	MaxPeers    int            // how many peers of all time are known at most; 0: any number

	TLS        *mtls.TLS
	ClusterTLS bool
	JoinToken  string
	Insecure   bool

	TickInterval time.Duration
	Clock        func() time.Time
	Logger       *slog.Logger
	Store        RecordStore

	// Members returns the root zone's records, as far as they are known here. It is called from many
	// goroutines and must be quick.
	Members func() nexusraft.Membership

	// Admits is as in mtls.TLS.Admitting; nil admits all.
	Admits func(mtls.Caller, string) error

	// Fail is told why this node can't go on, and ends it. It may be told more than once.
	Fail func(error)
}

// Peering is the part of an open node that deals with peers. Its methods may be called from many
// goroutines, once Open, Secure and Dial have returned.
type Peering struct {
	o      Options
	stored Records          // as they were read; for Open, Secure and Join, which come one after the other
	peers  *transport.Peers // set by Dial
	server *transport.Server

	self    atomic.Pointer[transport.Identity]
	storing sync.Mutex // held while the identity is replaced on the disk
	counted bool       // the present incarnation is there; guarded by storing

	refusals Refusals
	full     sync.Map // by node: those that have proved to be full ones

	meeting sync.Mutex // held while a peer's record is compared and stored
	mu      sync.Mutex // guards what follows; never held during a write, since workers take it
	known   map[nexusraft.NodeID]Peer
	minors  map[nexusraft.NodeID]uint32 // what peers speak that were accepted since this opening began

	tls          *mtls.TLS
	certificates atomic.Pointer[mtls.Certificates] // of the cluster's own authority; nil without
	own          atomic.Pointer[Credentials]       // what certificates was made of; nil until there is one
	certifying   sync.Mutex                        // held while own is replaced

	// The key that a certificate is asked for; it belongs to the goroutine that renews, and stays the
	// same until there is an answer: answers may be lost, and a token that was used with a key is good
	// for no other one.
	request, key []byte
	resign       chan struct{} // has room for one: another authority signs by now

	ask func(ctx context.Context, addr string, r transport.JoinRequest) (transport.JoinResult, error)
}

// Open reads what the node's directory knows, and mints an identity for one that has none. It
// returns ErrNotFounded for a directory that belongs to no cluster if there is none to join; then
// nothing was stored. Secure and Dial must follow, in this order.
func Open(o Options) (*Peering, error) {
	stored, err := o.Store.Load()
	if err != nil {
		return nil, err
	}
	p := &Peering{o: o, stored: stored, known: stored.Peers, resign: make(chan struct{}, 1)}
	p.minors = make(map[nexusraft.NodeID]uint32)
	if p.known == nil {
		p.known = make(map[nexusraft.NodeID]Peer)
	}
	return p, p.openIdentity()
}

// Dial returns the senders to peers. Options that are this package's are set.
func (p *Peering) Dial(o transport.PeersOptions) *transport.Peers {
	o.Logger, o.TLS = p.o.Logger, p.tls
	o.Accept, o.OnFenced, o.BeforeCall = p.accepted, p.refusedBy, p.Count
	p.peers = transport.NewPeers(p.Self, o)
	p.ask = p.peers.Join
	return p.peers
}

// Serve says which server peers call. It comes before the first call of Removed.
func (p *Peering) Serve(s *transport.Server) { p.server = s }

// TLS returns what encrypts all connections; nil: nothing does.
func (p *Peering) TLS() *mtls.TLS { return p.tls }

// Tend follows hints and keeps the certificate, in a goroutine each, until ctx ends or stop is called,
// which waits for both.
func (p *Peering) Tend(ctx context.Context, r RenewalPlan) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var both sync.WaitGroup
	both.Go(func() { p.followHints(ctx) })
	both.Go(func() { p.keepCertificate(ctx, r) })
	return func() {
		cancel()
		both.Wait()
	}
}

// Problem says which refusal or certificate needs an operator, "" if none does.
func (p *Peering) Problem() string {
	if problem := p.refusals.Problem(); problem != "" {
		return problem
	}
	return p.tls.Problem(p.o.Clock())
}

// kind is what errors call this node.
func (p *Peering) kind() string {
	if p.o.Role == nexusraft.RoleWitness {
		return "witness"
	}
	return "node"
}

// WayBack is what an operator does with a directory whose node is no longer let in.
func WayBack(dir string) string { return fmt.Sprintf("clear %s and join as a new node", dir) }
