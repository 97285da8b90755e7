package node

import (
	"context"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/authority"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/transport"
)

func (n *Node) newAuthority() *authority.Service {
	return authority.New(authority.Options{
		Zone: rootZone{n}, Peering: n.peering,
		AskTrust: func(
			ctx context.Context, node nexusraft.NodeID, a transport.CABundle,
		) (transport.Trust, error) {
			return n.peers.Trust(ctx, node, a)
		},
		Changed:      func() <-chan struct{} { return n.access.NextChange() },
		TickInterval: n.config.TickInterval, Clock: n.config.Clock, Logger: n.logger,
	})
}

// Credentials gives, lists and takes back roles, tokens and certificates of clients, and tokens with which
// nodes join. If a method's ctx is that of a client's gRPC call, it is checked once more that the client may
// make it, as Zone.Propose does.
func (n *Node) Credentials() nexusraft.Credentials { return n.authority }

// Authenticate returns nil if a text is the access token of a client's name, and good, by the records of this member.
// Otherwise it is ErrDenied, with the same words whatever is wrong. Method is the gRPC method that asks, for the log,
// which gets neither the name nor the text.
func (n *Node) Authenticate(ctx context.Context, method, name, text string) error {
	return n.access.Authenticate(ctx, method, name, text)
}

// rootZone is the node's authority.RootZone and hosting.Root.
type rootZone struct{ node *Node }

func (z rootZone) Propose(ctx context.Context, c *pb.NodeCommand) error {
	_, err := z.node.proposeSystem(ctx, nexusraft.RootZone, c)
	return err
}

// Command implements hosting.Root.
func (z rootZone) Command(ctx context.Context, c *pb.NodeCommand) ([]byte, error) {
	return z.node.proposeSystem(ctx, nexusraft.RootZone, c)
}

// LeadsIn implements hosting.Root.
func (z rootZone) LeadsIn() nexusraft.Term {
	ctx, cancel := context.WithTimeout(context.Background(), driver.StatusTimeout)
	defer cancel()
	term, err := z.node.workers.LeadsIn(ctx, nexusraft.RootZone)
	if err != nil {
		return 0
	}
	return term
}

func (z rootZone) Read(ctx context.Context, fn func(nexusraft.Reader) error) error {
	return z.node.readSystem(ctx, nexusraft.RootZone, fn)
}

func (z rootZone) ReadLocal(fn func(nexusraft.Reader) error) error {
	return z.node.readSystemLocal(nexusraft.RootZone, fn)
}

func (z rootZone) Confirm(ctx context.Context) error {
	return z.node.workers.Confirm(ctx, nexusraft.RootZone)
}

func (z rootZone) Members() (nexusraft.Membership, error) {
	k, err := z.node.replicas.View(nexusraft.RootZone)
	return k.Members, err
}

func (z rootZone) MayJoin(ctx context.Context, r transport.JoinRequest) (refusal, err error) {
	return z.node.workers.Changer(nexusraft.RootZone).MayJoin(ctx, joiner(r))
}
