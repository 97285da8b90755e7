package worker

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

// unreachable is Workers.Unreachable for the worker's zones.
func (w *worker) unreachable(node nexusraft.NodeID) {
	if _, waits := w.lost.LoadOrStore(node, true); waits {
		return
	}
	w.inbox.Post(func() {
		w.lost.Delete(node)
		for g := range w.all {
			if m, ok := g.replica.Membership().Node(node); ok && m.Replica != g.self {
				g.replica.ReportUnreachable(m.Replica)
			}
		}
	})
}

// leaving is Workers.Leaving for the worker's zones.
func (w *worker) leaving(node nexusraft.NodeID) {
	w.inbox.Post(func() {
		w.neighbors.WakeIf(func(x *driver.Group) bool { return x.Replica().RestsOn(node) })
		for g := range w.all {
			if m, ok := g.replica.Membership().Node(node); ok && m.Replica != g.self {
				g.replica.ReportLeaving(m.Replica)
			}
		}
	})
}
