package witness

import (
	"context"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/transport"
)

// handler is what a witness does for its peers. It owns nothing: it hands over to the
// worker and waits.
type handler struct {
	w *Witness
	*raftwire.Receiver
}

func (w *Witness) handler() handler {
	return handler{w, raftwire.NewReceiver(w.worker.loop.Inbox(), w.logger, true)}
}

func (w *Witness) handlers() transport.Handlers {
	h := w.handler()
	return transport.Handlers{Peer: h, Trust: h.Trust, HostZones: h.HostZones}
}

// Hello implements transport.PeerHandler.
func (h handler) Hello(peer transport.Identity) error { return h.w.peering.Hello(peer) }

// Trust is transport.Handlers.Trust: a witness takes over which authorities a full node believes.
func (h handler) Trust(
	_ context.Context, from transport.Identity, a transport.CABundle,
) (t transport.Trust, err error) {
	p := h.w.peering
	if from.Full && p.Credentials() != nil {
		if err := p.Believe(a); err != nil {
			return t, err
		}
	}
	return p.Trust()
}

// HostZones is transport.Handlers.HostZones: a witness takes over which zones there are, as a full node
// says.
func (h handler) HostZones(
	ctx context.Context, from transport.Identity, t transport.HostedZones,
) (version uint64, err error) {
	switch {
	case t.Version == 0:
		return h.w.keeper.stored().ZonesVersion, nil
	case !from.Full:
		return 0, fmt.Errorf("%w: node %v does not prove that it is a full one, and no other says which zones there are: "+
			"its certificate has to name its role", nexusraft.ErrRefused, from.Node)
	}
	return h.w.takeOver(ctx, t)
}

// Leaving implements transport.PeerHandler. A witness waits for nobody.
func (h handler) Leaving(nexusraft.NodeID) {}

// Status implements transport.PeerHandler.
func (h handler) Status(ctx context.Context, only nexusraft.ZoneID) (nexusraft.NodeStatus, error) {
	return h.w.status(ctx, only)
}

// Status returns what the witness says of itself. If its worker does not answer within a
// second, a stalled disk most of all, the status has no zones and says so; the error is
// ctx's, or ErrClosed.
func (w *Witness) Status(ctx context.Context) (nexusraft.NodeStatus, error) { return w.status(ctx, 0) }

func (w *Witness) status(ctx context.Context, only nexusraft.ZoneID) (nexusraft.NodeStatus, error) {
	self := w.peering.Self()
	st := nexusraft.NodeStatus{
		Cluster: self.Cluster, Node: self.Node, Name: self.Name, Address: self.Address, Witness: true,
		Incarnation: self.Incarnation, DiskBytes: w.keeper.bytes(), CertificateUntil: w.peering.TLS().Until(),
		Refused: w.counters.Refusals(), Minor: self.Minor,
	}
	if self.Cluster == 0 {
		st.Problem = "not admitted to a cluster yet"
		return st, nil
	}
	inbox := w.worker.loop.Inbox()
	zones, err := driver.Statuses(ctx, inbox, only, w.worker.ids, w.worker.status)
	var bytes int64
	if err == nil {
		bytes, err = driver.AskSoon(ctx, inbox, w.worker.bytes)
	}
	switch {
	case err == nil:
		st.Zones, st.Problem = zones, w.peering.Problem()
		st.Healthy, st.Peers = st.Problem == "", w.server.Links(w.peers)
		st.DiskBytes += bytes
		return st, nil
	case errors.Is(err, nexusraft.ErrOverloaded):
		st.Problem = "the worker has too much to do"
		return st, nil
	case errors.Is(err, driver.ErrNoAnswer):
		st.Problem = err.Error()
		return st, nil
	}
	return st, err
}
