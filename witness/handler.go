package witness

import (
	"cmp"
	"context"
	"fmt"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// handler is the witness's transport.PeerHandler. It owns nothing: it hands over to the
// worker and waits.
type handler struct{ w *Witness }

var _ transport.PeerHandler = handler{}

// Hello implements transport.PeerHandler: it learns addresses, and refuses whoever can't
// be what it claims to be.
func (h handler) Hello(peer transport.Identity) error {
	if peer.Node == h.w.identity().Node {
		return fmt.Errorf("%w: node %v is this node; a copy of its data directory must not run", nexusraft.ErrRefused, peer.Node)
	}
	if err := h.w.meet(peer); err != nil {
		return err
	}
	h.w.setAddress(peer.Node, peer.Address)
	return nil
}

// Receive implements transport.PeerHandler: it decodes and hands over.
func (h handler) Receive(from nexusraft.NodeID, msgs []transport.Message) {
	in := make([]inbound, 0, len(msgs))
	for _, m := range msgs {
		message := &pb.Message{}
		if err := proto.Unmarshal(m.Data, message); err != nil {
			h.w.logger.Warn("peer sent a message that can't be read", "zone", m.Zone, "peer", from, "err", err)
			continue
		}
		if typ := message.GetType(); typ == pb.MsgVote || typ == pb.MsgPreVote {
			h.w.logger.Warn("peer sent a vote request that is no call", "zone", m.Zone, "peer", from)
			continue
		}
		in = append(in, inbound{zone: m.Zone, from: from, message: message, size: len(m.Data)})
	}
	if taken := h.w.inbox.put(in); taken < len(in) {
		h.w.logger.Warn("inbox full, raft messages dropped", "peer", from, "count", len(in)-taken)
	}
}

// Leaving implements transport.PeerHandler. A witness waits for nobody.
func (h handler) Leaving(nexusraft.NodeID) {}

// statusTimeout is how long a status waits for the worker before it says that the worker
// does not answer.
const statusTimeout = time.Second

// Status implements transport.PeerHandler.
func (h handler) Status(ctx context.Context) (nexusraft.NodeStatus, error) { return h.w.Status(ctx) }

// Status returns what the witness says of itself. If its worker does not answer within a
// second, a stalled disk most of all, the status has no zones and says so; the error is
// ctx's, or ErrClosed.
func (w *Witness) Status(ctx context.Context) (nexusraft.NodeStatus, error) {
	id, self := w.keeper.identity(), w.identity()
	st := nexusraft.NodeStatus{
		Cluster: id.Cluster, Node: id.Node, Name: id.Name, Address: self.Address, Witness: true,
		Incarnation: id.Incarnation, DiskBytes: w.keeper.bytes(), CertificateUntil: w.tls.Until(),
	}
	if id.Cluster == 0 {
		st.Problem = "not admitted to a cluster yet"
		return st, nil
	}
	answer := make(chan zonesStatus, 1)
	if !w.inbox.call(func() { answer <- w.worker.status() }) {
		st.Problem = "the worker has too much to do"
		return st, nil
	}
	timeout := time.NewTimer(statusTimeout)
	defer timeout.Stop()
	select {
	case z := <-answer:
		st.Zones, st.Problem = z.zones, cmp.Or(w.refusals.Problem(), w.tls.Problem(time.Now()))
		st.Healthy = st.Problem == ""
		st.DiskBytes += z.bytes
		return st, nil
	case <-timeout.C:
		st.Problem = fmt.Sprintf("the worker has not answered for %v: its disk may be stalled", statusTimeout)
		return st, nil
	case <-w.stopped:
		return st, nexusraft.ErrClosed
	case <-ctx.Done():
		return st, ctx.Err()
	}
}
