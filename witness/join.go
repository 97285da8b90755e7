package witness

import (
	"context"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// join brings the witness into its cluster, if it is in none, and gives its zones to the worker.
func (w *Witness) join(ctx context.Context) error {
	if w.peering.Self().Cluster == 0 {
		if err := w.peering.Join(ctx); err != nil {
			return err
		}
	}
	groups, err := w.newGroups(w.logs)
	if err != nil {
		return err
	}
	w.logs = nil
	return w.hand(ctx, groups, nil)
}

// newGroups returns the groups of logs, which the worker is to get.
func (w *Witness) newGroups(logs []*Log) (groups []*group, err error) {
	for _, log := range logs {
		connect := w.connect
		if log.Origin().Zone == nexusraft.RootZone {
			connect = w.learn
		}
		g, err := newGroup(log, w.peering.Self().Incarnation, w.config, connect, w.peering.Vouched, w.errRemoved,
			w.worker.neighbors)
		if err != nil {
			return nil, err
		}
		groups = append(groups, g)
	}
	return groups, nil
}

// hand gives groups to the worker, has it give up zones that were deleted, and waits until it has done
// both. After an error, the context's or ErrClosed, it may have.
func (w *Witness) hand(ctx context.Context, groups []*group, deleted []nexusraft.ZoneID) error {
	done := make(chan struct{})
	w.worker.loop.Inbox().Post(func() { // one for the start, and one for each step of taking zones over
		w.worker.host(groups)
		w.worker.drop(deleted)
		close(done)
	})
	select {
	case <-done:
		return nil
	case <-w.stopped:
		return nexusraft.ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// createLog stores the log of an admission, or finds it stored by an earlier attempt that
// was cut off.
func (w *Witness) createLog(self nexusraft.NodeID, a transport.JoinResult) (*Log, error) {
	c := w.config
	o := Origin{Cluster: a.Cluster, Node: self, Zone: a.Zone, Replica: a.Replica}
	log, err := OpenLog(c.FS, c.Dir, a.Zone)
	if isMissing(err) {
		return CreateLog(c.FS, c.Dir, o, a.Membership)
	}
	if err == nil && log.Origin() != o {
		err = fmt.Errorf("%w: %s holds the log of another replica of zone %v: clear the directory to join as a new node",
			nexusraft.ErrRefused, c.Dir, a.Zone)
	}
	return log, err
}
