package etcd

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/feed"
	"github.com/nexi-lab/nexus-raft/kv"
)

// Why a watch is refused; the texts are etcd's where it has them.
var (
	errWatchID    = errors.New("mvcc: duplicate watch ID provided on the WatchStream")
	errWatchEmpty = errors.New("mvcc: watcher range is empty")
	errWatchKey   = fmt.Errorf("nexusraft: a watch's key and range end are no longer than keys: %d bytes", kv.MaxKeyBytes)
	errWatches    = fmt.Errorf("nexusraft: the watches of a caller have %d MiB at most, and those of a node %d MiB; have "+
		"fewer of them", budget.WatchBytesOfPrincipal>>20, budget.WatchBytes>>20)
)

// create begins a watch, and says so before anything else of it is sent; or it says that it has not.
func (s *watchStream) create(req *etcdserverpb.WatchCreateRequest) error {
	newest, compacted, err := s.feed.Standing(s.ctx)
	if err != nil {
		return err
	}
	w, err := s.newWatch(req, newest)
	if err != nil {
		return s.send(&etcdserverpb.WatchResponse{
			WatchId: anyWatch, Created: true, Canceled: true, CancelReason: err.Error(),
		}, newest)
	}
	if err := s.send(&etcdserverpb.WatchResponse{WatchId: w.id, Created: true}, newest); err != nil {
		s.service.bytes.Leave(s.principal, w.counted)
		return err
	}
	if w.from < compacted { // whatever is still in memory
		s.service.bytes.Leave(s.principal, w.counted)
		return s.send(&etcdserverpb.WatchResponse{WatchId: w.id, Canceled: true, CompactRevision: compacted}, newest)
	}
	s.watches[w.id] = w
	s.place(w, newest)
	s.postpone(w)
	return nil
}

// newWatch returns the watch that is asked for, for which it counts, or why there is none.
func (s *watchStream) newWatch(req *etcdserverpb.WatchCreateRequest, newest int64) (*watch, error) {
	key, end := req.GetKey(), req.GetRangeEnd()
	if len(key) == 0 {
		key = []byte{0} // the smallest key
	}
	counted := int64(budget.WatchOverhead + len(key) + len(end))
	switch {
	case max(len(key), len(end)) > kv.MaxKeyBytes+1: // a bound right after a key has a byte more
		return nil, errWatchKey
	case req.GetStartRevision() < 0:
		return nil, rpctypes.ErrCompacted
	case len(end) > 0 && !bytes.Equal(end, []byte{0}) && bytes.Compare(key, end) >= 0:
		return nil, errWatchEmpty
	case req.GetWatchId() != 0 && s.watches[req.GetWatchId()] != nil:
		return nil, errWatchID
	case !s.service.bytes.Enter(s.principal, counted):
		return nil, errWatches
	}
	w := &watch{
		id: req.GetWatchId(), from: req.GetStartRevision(), fragment: req.GetFragment(), counted: counted,
		progress: req.GetProgressNotify(),
		want: feed.Want{
			Key: slices.Clone(key), RangeEnd: slices.Clone(end), PrevKV: req.GetPrevKv(),
			NoPut:    slices.Contains(req.GetFilters(), etcdserverpb.WatchCreateRequest_NOPUT),
			NoDelete: slices.Contains(req.GetFilters(), etcdserverpb.WatchCreateRequest_NODELETE),
		},
	}
	if w.from == 0 {
		w.from = newest + 1
	}
	if w.id == 0 {
		for s.watches[s.next] != nil {
			s.next++
		}
		w.id = s.next
		s.next++
	}
	return w, nil
}

// place puts a new watch among those that read together.
func (s *watchStream) place(w *watch, newest int64) {
	if len(s.now.watches) == 0 {
		s.now.position = max(s.now.position, newest)
	}
	if w.from > s.now.position {
		s.now.add(w)
		return
	}
	g := &s.late
	switch before := w.from - 1; {
	case len(g.watches) == 0:
		g.position = before
	case before < g.position:
		for other := range g.watches {
			other.from = max(other.from, g.position+1)
		}
		g.position = before
	default: // it gets nothing twice: from is above the position
	}
	g.add(w)
}
