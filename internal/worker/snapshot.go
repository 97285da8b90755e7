package worker

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/datadir"
	"github.com/nexi-lab/nexus-raft/internal/snapshot"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// sendSnapshot starts a job that sends the zone's state as it is now, which is as new as
// what raft asked for or newer. Index, term, configuration, records and data come from
// one moment: the worker is between two writes.
func (g *group) sendSnapshot(node nexusraft.NodeID, m *raftpb.Message) {
	to := nexusraft.ReplicaID(m.GetTo())
	if rec, known := g.replica.Membership().Replica(to); known && rec.Role == nexusraft.RoleWitness {
		g.w.out.Send(g.group, node, m) // metadata is all that a witness gets
		return
	}
	if g.sending[to] != 0 || !g.w.o.Sending.TryStart() {
		g.replica.ReportSnapshot(to, false)
		return
	}
	var header transport.SnapshotHeader
	s, err := g.log.Snapshot()
	if err == nil {
		header, err = snapshot.Header(g.id, m, s)
	}
	if err != nil {
		g.w.o.Sending.End()
		g.replica.ReportSnapshot(to, false)
		g.logger.Error("snapshot not sent", "peer", node, "err", err)
		return
	}
	snap, state := g.w.o.Dir.Store.NewSnapshot(), g.state
	g.sending[to] = header.Index
	g.logger.Info("sending snapshot", "peer", node, "term", header.Term, "index", header.Index)
	go g.w.runSnapshot(g, node, header, snapshot.NewEncoder(snap.Reader(state)), snap)
}

// runSnapshot is the job, a goroutine of its own. It tells raft how it ended, whatever happened; of a failure only
// after a pause, since raft then asks for another one at the next heartbeat, and a receiver
// that is full or busy would be asked twenty times a second.
func (w *worker) runSnapshot(
	g *group, to nexusraft.NodeID, header transport.SnapshotHeader, state *snapshot.Encoder, snap *storage.Snapshot,
) {
	defer w.o.Sending.End()
	x := w.o.Snapshots.Begin(header.Zone, nexusraft.SnapshotStatus{Peer: to, Sending: true, Index: header.Index})
	err := transport.SendSnapshot(w.o.Sending.Context, w.o.Peers, to, transport.Snapshot{
		SnapshotHeader: header, State: state.From,
		Progress: x.At,
	})
	x.End()
	snap.Close()
	w.o.Events.Snapshot(header.Zone, to, header.Index, header.Term, err)
	if err != nil {
		w.o.Logger.Warn("snapshot failed", "zone", header.Zone, "peer", to, "term", header.Term, "index", header.Index, "err",
			err)
		select {
		case <-w.o.Sending.Context.Done():
		case <-time.After(2 * w.o.electionTimeout()):
		}
	} else {
		w.o.Logger.Info("snapshot arrived", "zone", header.Zone, "peer", to, "term", header.Term, "index", header.Index)
	}
	w.inbox.Post(func() {
		delete(g.sending, header.To)
		if w.group(g.id) == g { // it was not dropped meanwhile
			g.replica.ReportSnapshot(header.To, err == nil)
		}
	})
}

// CheckSnapshot is transport.Handlers.CheckSnapshot: what raft's message may not be stepped for,
// nothing is taken of (I13).
func (x *Workers) CheckSnapshot(ctx context.Context, from nexusraft.NodeID, h transport.SnapshotHeader) error {
	message, err := snapshot.Message(h)
	if err != nil {
		return err
	}
	_, err = ask(ctx, x.of(h.Zone), h.Zone, func(z *group) (struct{}, error) {
		return struct{}{}, z.replica.Check(from, message)
	})
	return err
}

// InstallSnapshot is as in transport.MemberHandler: it receives the state into a tree of its own, and
// only when all of it is there, verified and synced, raft hears of the snapshot.
func (x *Workers) InstallSnapshot(
	ctx context.Context, from nexusraft.NodeID, h transport.SnapshotHeader, chunks iter.Seq2[[]byte, error],
) error {
	message, err := snapshot.Message(h)
	if err != nil {
		return err
	}
	w := x.of(h.Zone)
	store := w.o.Dir.Store
	if err := store.Room(); err != nil {
		return err
	}
	under := w.o.Snapshots.Begin(h.Zone, nexusraft.SnapshotStatus{Peer: from, Index: h.Index})
	defer under.End()
	wanted := func() error { return w.checkWanted(ctx, from, h, message) }
	tree, err := snapshot.Receive(store, datadir.NewStateTreeName(h.Zone), snapshot.Wanted(chunks, wanted, under.At))
	if err != nil {
		return err
	}
	s := snapshot.NewReceived(h.Index, h.Term, tree)
	err = w.offerSnapshot(from, h.Zone, message, s)
	if err != nil {
		err = errors.Join(err, snapshot.Drop(store, tree))
	}
	return err
}

// checkWanted refuses a snapshot that raft would ignore, and one whose sender may send none any
// more. Raft gets its message all the same, and so answers how far this replica is: the leader that
// is not told would send another one.
func (w *worker) checkWanted(
	ctx context.Context, from nexusraft.NodeID, h transport.SnapshotHeader, message *raftpb.Message,
) error {
	_, err := ask(ctx, w, h.Zone, func(z *group) (struct{}, error) {
		if err := z.replica.Check(from, message); err != nil {
			return struct{}{}, err
		}
		if z.replica.Status().Commit < h.Index {
			return struct{}{}, nil
		}
		if err := z.group.Step(from, message, nil); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, snapshot.ErrIgnored
	})
	return err
}

// offerSnapshot has raft decide, and waits for the switch, however long that takes: the worker always
// answers, so the tree is never dropped while the worker uses it.
func (w *worker) offerSnapshot(
	from nexusraft.NodeID, z nexusraft.ZoneID, message *raftpb.Message, s *snapshot.Received,
) error {
	if err := w.putSnapshot(from, z, message, s); err != nil {
		return err
	}
	return <-s.Ended()
}

// putSnapshot hands a received state and its message to the worker. After an error the worker does not
// have them.
func (w *worker) putSnapshot(
	from nexusraft.NodeID, z nexusraft.ZoneID, message *raftpb.Message, s *snapshot.Received,
) error {
	return w.inbox.Call(func(err error) {
		if g := w.group(z); err == nil && g == nil {
			err = w.o.Replicas.Absent(z)
		} else if err == nil {
			err = g.offer(from, message, s)
		}
		if errors.Is(err, nexusraft.ErrRefused) {
			w.o.Logger.Warn("snapshot refused", "zone", z, "peer", from, "term", message.GetTerm(), "err", err)
		}
		if err != nil {
			s.End(err)
		}
	})
}

// offer steps a snapshot's message. Without an error the zone has the state, and ends it.
func (g *group) offer(from nexusraft.NodeID, message *raftpb.Message, s *snapshot.Received) error {
	err := g.group.Step(from, message, nil)
	if err == nil {
		g.received = append(g.received, s)
	}
	return err
}

// stageSnapshot stages the switch to the received state: one small synced write (I2).
func (g *group) stageSnapshot(b *storage.Batch, s *raftpb.Snapshot, hs *raftpb.HardState) error {
	meta := s.GetMetadata()
	i := snapshot.Find(g.received, s)
	if i < 0 {
		return fmt.Errorf("%w: raft installs a snapshot at %d whose state is not here", nexusraft.ErrCorrupt, meta.GetIndex())
	}
	x, members := g.received[i], g.replica.Membership()
	err := g.log.InstallSnapshot(b, x.Index, x.Term, meta.GetConfState(), members, x.Tree.Name(), hs)
	if err != nil {
		return err
	}
	return b.DropTree(g.state)
}

// switched ends the switch, after the write and before any reader may look again.
func (g *group) switched() {
	i := snapshot.Find(g.received, g.switching)
	x := g.received[i]
	g.received, g.switching = slices.Delete(g.received, i, i+1), nil
	g.state = x.Tree
	g.overlay = storage.NewOverlay(g.state)
	g.w.o.Replicas.PublishLocked(g.id, g.published())
	g.logger.Info("snapshot installed", "term", x.Term, "index", x.Index)
	g.w.o.Events.Snapshot(g.id, 0, x.Index, x.Term, nil)
	x.End(nil)
}

// endReceived ends the received snapshots that are left: raft had no use for them, or it is
// over with the zone.
func (g *group) endReceived(err error) {
	for _, x := range g.received {
		x.End(err)
	}
	g.received = nil
}
