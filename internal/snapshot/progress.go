package snapshot

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Progress is how far the snapshots are that come in and go out, for the log and for statuses. Its
// methods may be called from many goroutines.
type Progress struct {
	logger *slog.Logger

	mu  sync.Mutex
	all map[*Underway]struct{}
}

// Underway is one snapshot on its way.
type Underway struct {
	of   *Progress
	zone nexusraft.ZoneID

	status nexusraft.SnapshotStatus // guarded by of.mu
	logged time.Time                // when the log last said so; guarded by of.mu
}

// logEvery is how often the log tells of a snapshot that takes long.
const logEvery = 5 * time.Second

// NewProgress returns one without any snapshot.
func NewProgress(logger *slog.Logger) *Progress {
	return &Progress{logger: logger, all: make(map[*Underway]struct{})}
}

// Begin adds a snapshot of a zone: peer, direction and index. End must follow.
func (p *Progress) Begin(zone nexusraft.ZoneID, s nexusraft.SnapshotStatus) *Underway {
	s.Since = time.Now()
	x := &Underway{of: p, zone: zone, status: s, logged: s.Since}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all[x] = struct{}{}
	return x
}

// At says how many bytes have been sent, or have come.
func (x *Underway) At(bytes uint64) {
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	x.status.Bytes = bytes
	now := time.Now()
	if now.Sub(x.logged) < logEvery {
		return
	}
	x.logged = now
	text := "snapshot coming in"
	if x.status.Sending {
		text = "snapshot going out"
	}
	rate := float64(bytes) / now.Sub(x.status.Since).Seconds()
	x.of.logger.Info(text, "zone", x.zone, "peer", x.status.Peer, "index", x.status.Index, "bytes", bytes,
		"bytes_per_second", int64(rate))
}

// End says that it is no longer under way.
func (x *Underway) End() {
	x.of.mu.Lock()
	defer x.of.mu.Unlock()
	delete(x.of.all, x)
}

// Status returns a zone's snapshots under way, the oldest first.
func (p *Progress) Status(zone nexusraft.ZoneID) (list []nexusraft.SnapshotStatus) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for x := range p.all {
		if x.zone == zone {
			list = append(list, x.status)
		}
	}
	slices.SortFunc(list, func(a, b nexusraft.SnapshotStatus) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Peer, b.Peer))
	})
	return list
}
