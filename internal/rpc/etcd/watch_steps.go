package etcd

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/nexi-lab/nexus-raft/internal/budget"
	"github.com/nexi-lab/nexus-raft/internal/feed"
	"github.com/nexi-lab/nexus-raft/kv"
)

// atOnce is a channel on which nobody waits.
var atOnce = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// steps has each group read and send once, and returns a channel that is closed when there may be more; nil: nobody
// waits for anything.
func (s *watchStream) steps() (more <-chan struct{}, err error) {
	if more, err = s.step(&s.now); err != nil {
		return nil, err
	}
	if len(s.late.watches) == 0 {
		return more, nil
	}
	if _, err := s.step(&s.late); err != nil {
		return nil, err
	}
	s.catchUp()
	return atOnce, nil
}

// catchUp has the watches that are late read with the others once they are as far.
func (s *watchStream) catchUp() {
	if len(s.late.watches) == 0 || s.late.position < s.now.position {
		return
	}
	if len(s.now.watches) == 0 {
		s.now.position = s.late.position
	}
	for w := range s.late.watches {
		w.from = max(w.from, s.late.position+1)
		s.now.add(w)
	}
	s.late = watchGroup{watches: make(map[*watch]struct{})}
}

// step reads what has changed after a group's position, some of it, and sends it. Nothing of the group is read for,
// and nothing is moved, if it has no watches.
func (s *watchStream) step(g *watchGroup) (more <-chan struct{}, err error) {
	if len(g.watches) == 0 {
		return nil, nil
	}
	b, more, err := s.feed.Take(s.ctx, g.position, feed.Want{Match: g.index.has, PrevKV: g.prevKV > 0})
	if compacted, ok := errors.AsType[*kv.CompactedError](err); ok {
		return atOnce, s.cancelCompacted(g, compacted.Revision)
	}
	if large, ok := errors.AsType[*kv.LargeRevisionError](err); ok {
		return atOnce, s.stepOver(g, large.Revision)
	}
	if err != nil {
		return nil, err
	}
	for _, w := range g.of(b.Events) {
		if err := s.deliver(w, w.some(b.Events), b.Through, false); err != nil {
			return nil, err
		}
	}
	g.position = max(g.position, b.Through)
	return more, nil
}

// cancelCompacted ends the watches that have missed something: the changes before a revision are not there any more.
func (s *watchStream) cancelCompacted(g *watchGroup, rev int64) error {
	for _, w := range byID(maps.Keys(g.watches)) {
		if max(w.from, g.position+1) >= rev {
			continue
		}
		s.forget(w)
		err := s.send(&etcdserverpb.WatchResponse{WatchId: w.id, Canceled: true, CompactRevision: rev}, s.now.position)
		if err != nil {
			return err
		}
	}
	g.position = max(g.position, rev-1)
	return nil
}

// of returns the watches that want some of the events.
func (g *watchGroup) of(events []*mvccpb.Event) []*watch {
	found := make(map[*watch]struct{})
	for _, e := range events {
		g.index.each(e.Kv.Key, func(w *watch) bool {
			if w.wants(e) {
				found[w] = struct{}{}
			}
			return true
		})
	}
	return byID(maps.Keys(found))
}

// byID sorts watches, so that what is sent does not hang on the order of a map.
func byID(watches func(func(*watch) bool)) []*watch {
	return slices.SortedFunc(watches, func(a, b *watch) int {
		switch {
		case a.id < b.id:
			return -1
		case a.id > b.id:
			return 1
		}
		return 0
	})
}

// wants reports whether a change of one of its keys is to be sent.
func (w *watch) wants(e *mvccpb.Event) bool {
	if e.Kv.ModRevision < w.from {
		return false
	}
	if e.Type == mvccpb.DELETE {
		return !w.want.NoDelete
	}
	return !w.want.NoPut
}

// some returns those of the events that a watch wants, as it wants them.
func (w *watch) some(events []*mvccpb.Event) (mine []*mvccpb.Event) {
	for _, e := range events {
		if !w.want.Has(e.Kv.Key) || !w.wants(e) {
			continue
		}
		if !w.want.PrevKV && e.PrevKv != nil {
			e = &mvccpb.Event{Type: e.Type, Kv: e.Kv}
		}
		mine = append(mine, e)
	}
	return mine
}

// stepOver sends what a large revision has for each watch, one after the other: one answer is in memory.
func (s *watchStream) stepOver(g *watchGroup, rev int64) error {
	found := make(map[*watch]struct{})
	looked, err := s.feed.TakeRevision(s.ctx, rev, feed.Want{Match: func(key []byte) bool {
		g.index.each(key, func(w *watch) bool {
			found[w] = struct{}{}
			return true
		})
		return false
	}})
	if err == nil {
		for _, w := range byID(maps.Keys(found)) {
			if err = s.deliverRevision(w, rev); err != nil {
				break
			}
		}
	}
	if compacted, ok := errors.AsType[*kv.CompactedError](err); ok {
		return s.cancelCompacted(g, compacted.Revision)
	}
	if err == nil {
		g.position = max(g.position, looked.Through)
	}
	return err
}

// deliverRevision sends what a revision has for a watch, which then has had it. Where that is more than any answer
// may have the watch is cancelled.
func (s *watchStream) deliverRevision(w *watch, rev int64) error {
	if w.from > rev {
		return nil
	}
	b, err := s.feed.TakeRevision(s.ctx, rev, w.want)
	for ; err != nil; b, err = s.feed.TakeRevision(s.ctx, rev, w.want) {
		if large, ok := errors.AsType[*kv.LargeRevisionError](err); ok {
			s.forget(w)
			return s.send(&etcdserverpb.WatchResponse{
				WatchId: w.id, Canceled: true,
				CancelReason: fmt.Sprintf("nexusraft: revision %d has %d bytes for the watch: it can't be sent, watch from %d on",
					rev, large.Bytes, rev+1),
			}, s.now.position)
		}
		if _, full := errors.AsType[*budget.Exceeded](err); !full {
			return err
		}
	}
	if len(b.Events) > 0 {
		if err := s.deliver(w, b.Events, rev, true); err != nil {
			return err
		}
	}
	budget.ShrinkAnswer(s.ctx, 0) // what is sent holds its own
	w.from = max(w.from, rev+1)
	return nil
}

// deliver sends events to a watch, in parts if they are many and it has asked for that. Through is up to which
// revision these are all.
func (s *watchStream) deliver(w *watch, events []*mvccpb.Event, through int64, reserved bool) error {
	s.postpone(w)
	for parts := w.parts(events, s.service.keys.config.MaxRequestBytes); len(parts) > 0; parts = parts[1:] {
		resp := &etcdserverpb.WatchResponse{WatchId: w.id, Events: parts[0], Fragment: len(parts) > 1}
		send := s.send
		if reserved {
			send, reserved = s.sendReserved, false
		}
		if err := send(resp, through); err != nil {
			return err
		}
	}
	return nil
}

// parts divides events into those of the answers to a watch, of less than some bytes each where that is possible.
func (w *watch) parts(events []*mvccpb.Event, most int) (parts [][]*mvccpb.Event) {
	size, first := headerBytes, 0
	for i, e := range events {
		n := proto.Size(e) + 8
		if size += n; w.fragment && size > most && i > first {
			parts = append(parts, events[first:i])
			first, size = i, headerBytes+n
		}
	}
	return append(parts, events[first:])
}
