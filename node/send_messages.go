package node

import (
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
)

// Send implements driver.Sender: a snapshot leaves with its state, by a job.
func (w *worker) Send(of *driver.Group, to nexusraft.NodeID, m *raftpb.Message) {
	if m.GetType() == raftpb.MsgSnap {
		w.zones[of.Zone()].sendSnapshot(to, m)
		return
	}
	w.out.Send(of, to, m)
}

// RequestVotes implements driver.Sender.
func (w *worker) RequestVotes(to nexusraft.NodeID, votes []driver.VoteRequest) {
	w.out.RequestVotes(to, votes)
}

// unreachable tells every zone that does not sleep that messages to a node were lost: once for all that
// are lost before the worker comes to it, since a full queue loses one after the other.
func (n *Node) unreachable(node nexusraft.NodeID) {
	if _, waits := n.lost.LoadOrStore(node, true); waits {
		return
	}
	n.worker.inbox.Post(func() {
		n.lost.Delete(node)
		for g := range n.worker.all {
			if m, ok := g.replica.Membership().Node(node); ok && m.Replica != g.self {
				g.replica.ReportUnreachable(m.Replica)
			}
		}
	})
}

// Leaving implements transport.PeerHandler: the peer shuts down in order, so nothing is
// held back for it.
func (n handler) Leaving(node nexusraft.NodeID) {
	n.worker.inbox.Post(func() {
		n.worker.neighbors.WakeIf(func(x *driver.Group) bool { return x.Replica().RestsOn(node) })
		for g := range n.worker.all {
			if m, ok := g.replica.Membership().Node(node); ok && m.Replica != g.self {
				g.replica.ReportLeaving(m.Replica)
			}
		}
	})
}
