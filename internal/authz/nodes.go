package authz

import (
	"context"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Nodes decides what callers may do that show a node's certificate. Its methods may be called from
// many goroutines.
type Nodes struct {
	Members func() nexusraft.Membership // the root zone's records, as they are here
}

// Admits refuses the certificate of a node that was removed, however long it is good for, and that
// of a witness for what is not a witness's: with a token or a change of the membership it could let
// a member of its own in, and so get at all that is kept from it.
func (n Nodes) Admits(c mtls.Caller, method string) error {
	switch {
	case c.Node == 0:
		return nil
	case n.Members().IsRemovedNode(c.Node):
		return peering.ErrNodeRemoved(c.Node)
	case !n.trusts(c) && method != pb.Cluster_Status_FullMethodName:
		return fmt.Errorf("%w: node %v is a witness, or not known here, and its certificate is for what witnesses do",
			nexusraft.ErrRefused, c.Node)
	}
	return nil
}

// MayPropose refuses commands of a witness, which never has any to pass on, and of a node that may
// be one; see Admits. A leader that has just been elected may not know all records yet.
func (n Nodes) MayPropose(ctx context.Context) error {
	c, ok := mtls.CallerOf(ctx)
	if !ok || c.Node == 0 || n.trusts(c) {
		return nil
	}
	if _, known := n.Members().Node(c.Node); !known {
		return fmt.Errorf("%w: node %v is not known here, and its certificate does not say that it is a member",
			nexusraft.ErrOverloaded, c.Node)
	}
	return fmt.Errorf("%w: node %v is a witness and proposes nothing", nexusraft.ErrRefused, c.Node)
}

// trusts reports whether a node is trusted with more than votes (I13): by its record, or if there
// is none here by its certificate.
func (n Nodes) trusts(c mtls.Caller) bool {
	if m, ok := n.Members().Node(c.Node); ok {
		return m.Role.Full()
	}
	return c.Role == nexusraft.RoleMember
}
