package worker

import (
	"sync"
	"sync/atomic"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/propose"
)

// together is what the workers of a node have together, besides Options. Its methods may be called from many
// goroutines.
type together struct {
	workers []*worker // by their places; complete before any of them runs

	backlog   *driver.Backlog   // of their inboxes
	allowance propose.Allowance // of their proposals
	signal    *driver.OwnSignal
	pulse     pulse
	led       ledNews

	root      atomic.Pointer[rootRecords] // nil: not known yet
	leadsRoot atomic.Bool                 // this node leads the root zone, as of its last round
}

// rootRecords are the root zone's, with the addresses that the nodes have now. They are not changed.
type rootRecords struct {
	members []nexusraft.Member
	peers   []nexusraft.NodeID // the other nodes among them
}

func newTogether(o Options) *together {
	n := max(o.Workers, 1)
	t := &together{
		workers: make([]*worker, 0, n), backlog: driver.NewBacklog(inboxBounds, n),
		signal: driver.NewOwnSignal(o.Peering.Self().Incarnation), pulse: pulse{ticked: make([]bool, n)},
	}
	t.root.Store(new(rootRecords))
	return t
}

// of returns the worker of a zone; that of the root zone is the first one.
func (t *together) of(id nexusraft.ZoneID) *worker {
	return t.workers[uint64(id-nexusraft.RootZone)%uint64(len(t.workers))]
}

// pulse says when a node may tell others that it lives: once each of its workers has ticked since it told so
// last. One that is stuck makes the node silent, and no zone of another node rests on what it does not do.
type pulse struct {
	mu     sync.Mutex // guards what follows
	ticked []bool     // by the places of the workers: since the last beat
	count  int        // how many of them have
	beats  uint64
}

// tick notes a tick of a worker. due says that with it all have ticked, which is a beat.
func (p *pulse) tick(place int) (due bool, beats uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ticked[place] {
		p.ticked[place] = true
		p.count++
	}
	if due = p.count == len(p.ticked); due {
		clear(p.ticked)
		p.count = 0
		p.beats++
	}
	return due, p.beats
}
