package node

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// transfers are the snapshots that are on their way, for those who watch. Its methods may be
// called from many goroutines.
type transfers struct {
	logger *slog.Logger

	mu  sync.Mutex
	all map[*transfer]struct{}
}

// transfer is one snapshot on its way.
type transfer struct {
	of   *transfers
	zone nexusraft.ZoneID

	status nexusraft.SnapshotStatus // guarded by of.mu
	logged time.Time                // when it was told last; guarded by of.mu
}

// How often the log tells of a snapshot that takes long.
const transferLogEvery = 5 * time.Second

func newTransfers(logger *slog.Logger) *transfers {
	return &transfers{logger: logger, all: make(map[*transfer]struct{})}
}

// begin adds a transfer; its end takes it out.
func (t *transfers) begin(zone nexusraft.ZoneID, s nexusraft.SnapshotStatus) *transfer {
	s.Since = time.Now()
	x := &transfer{of: t, zone: zone, status: s, logged: s.Since}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all[x] = struct{}{}
	return x
}

// at says how many bytes have been sent, or have come.
func (x *transfer) at(bytes uint64) {
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	x.status.Bytes = bytes
	now := time.Now()
	if now.Sub(x.logged) < transferLogEvery {
		return
	}
	x.logged = now
	text := "snapshot coming in"
	if x.status.Sending {
		text = "snapshot going out"
	}
	rate := float64(bytes) / now.Sub(x.status.Since).Seconds()
	x.of.logger.Info(text, "zone", x.zone, "peer", x.status.Peer, "index", x.status.Index, "bytes", bytes, "bytes_per_second", int64(rate))
}

func (x *transfer) end() {
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	delete(x.of.all, x)
}

// status returns a zone's transfers, the oldest first.
func (t *transfers) status(zone nexusraft.ZoneID) (list []nexusraft.SnapshotStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for x := range t.all {
		if x.zone == zone {
			list = append(list, x.status)
		}
	}
	slices.SortFunc(list, func(a, b nexusraft.SnapshotStatus) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Peer, b.Peer))
	})
	return list
}
