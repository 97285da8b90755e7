package concurrency

import (
	"context"
	"errors"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/feed"
	"github.com/nexi-lab/nexus-raft/kv"
)

// bells wake who waits for keys to be deleted. What is written elsewhere in a zone wakes nobody.
type bells struct {
	changes ChangeReader

	mu    sync.Mutex // guards what follows, and what they have
	zones map[nexusraft.ZoneID]*bell
}

// bell is that of one zone, while anybody waits there.
type bell struct {
	waits  map[string]map[*wait]struct{} // by key
	count  int
	cancel context.CancelFunc
	ended  chan struct{}
}

// wait is one who waits. Rung gets nil when a key has gone, or may have, and otherwise why nothing more is told.
type wait struct {
	bells *bells
	bell  *bell
	zone  nexusraft.ZoneID
	keys  [2]string
	rung  chan error
}

// listen begins to wait for either of two keys to go; close must follow. It is told of what this replica applies from
// now on; after is a revision that the replica has. The caller then looks whether they are still there.
func (b *bells) listen(zone nexusraft.ZoneID, after int64, key, other []byte) *wait {
	b.mu.Lock()
	defer b.mu.Unlock()
	bell := b.zones[zone]
	if bell == nil {
		bell = b.start(zone, after)
	}
	w := &wait{b, bell, zone, [2]string{string(key), string(other)}, make(chan error, 1)}
	bell.count++
	for _, k := range w.keys {
		if bell.waits[k] == nil {
			bell.waits[k] = make(map[*wait]struct{})
		}
		bell.waits[k][w] = struct{}{}
	}
	return w
}

// start makes the bell of a zone; mu is held.
func (b *bells) start(zone nexusraft.ZoneID, after int64) *bell {
	ctx, cancel := context.WithCancel(context.Background())
	bell := &bell{waits: make(map[string]map[*wait]struct{}), cancel: cancel, ended: make(chan struct{})}
	b.zones[zone] = bell
	go func() {
		defer close(bell.ended)
		err := b.follow(ctx, zone, bell, after)
		b.end(zone, bell, err)
	}()
	return bell
}

// close ends the wait. The last one of a zone ends its bell.
func (w *wait) close() {
	b := w.bells
	b.mu.Lock()
	for _, k := range w.keys {
		if delete(w.bell.waits[k], w); len(w.bell.waits[k]) == 0 {
			delete(w.bell.waits, k)
		}
	}
	w.bell.count--
	last := w.bell.count == 0
	if last && b.zones[w.zone] == w.bell {
		delete(b.zones, w.zone)
	}
	b.mu.Unlock()
	if last {
		w.bell.cancel()
		<-w.bell.ended
	}
}

// follow rings until ctx ends, or the changes can't be read.
func (b *bells) follow(ctx context.Context, zone nexusraft.ZoneID, bell *bell, after int64) error {
	has := func(key []byte) bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(bell.waits[string(key)]) > 0
	}
	for {
		batch, err := b.changes.Next(ctx, zone, after, feed.Want{Match: has, NoPut: true})
		if err != nil {
			return err
		}
		after = batch.Through
		for _, e := range batch.Events {
			if e.Type == mvccpb.DELETE {
				b.ring(bell, string(e.Kv.Key))
			}
		}
	}
}

func (b *bells) ring(bell *bell, key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for w := range bell.waits[key] {
		w.tell(nil)
	}
}

// end tells all who wait that nothing more is told. After a compaction they look again, and listen from there.
func (b *bells) end(zone nexusraft.ZoneID, bell *bell, err error) {
	if errors.Is(err, kv.ErrCompacted) {
		err = nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.zones[zone] == bell {
		delete(b.zones, zone)
	}
	for _, waits := range bell.waits {
		for w := range waits {
			w.tell(err)
		}
	}
}

// tell never waits: who has been told once looks again.
func (w *wait) tell(err error) {
	select {
	case w.rung <- err:
	default:
	}
}
