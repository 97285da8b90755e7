package simtest

import (
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// memberDisk is a member's store: log and state, over a file system in memory.
//
// A crash loses all that came after the last sync. Pebble writes unsynced records in the
// background, at a time of its own; half-kept tails would make a run differ from the next
// one of the same seed. Instead node syncs at random where it need not, which leaves the
// same prefixes; torn writes are the business of the crash tests of storage and raftlog.
type memberDisk struct {
	n     *node
	fs    *storage.MemFS
	store *storage.Store
	raft  *storage.Tree
	state *storage.Tree
	log   *raftlog.Log
	batch *storage.Batch // staged

	trees    int                               // made so far, for their names
	received map[nexusraft.Index]*storage.Tree // staging trees, by the snapshot's index
	next     *storage.Tree                     // state, once the staged batch is committed

	effects *storage.Overlay // of entries that are not staged yet, over state; nil: there are none
	change  *change          // the last conf change among them
}

// change is what a conf change has made of the configuration.
type change struct {
	conf    *raftpb.ConfState
	members nexusraft.Membership
}

func newMemberDisk(n *node, o origin) *memberDisk {
	d := &memberDisk{n: n, fs: storage.NewMemFS()}
	d.openStore()
	state := d.newTree()
	meta := raftlog.Meta{
		Replica: n.replica, StateTree: state.Name(), Compacted: o.index, CompactedTerm: o.term,
		ConfState: confState(o.members), Membership: o.members,
	}
	var hs *raftpb.HardState
	if o.index != 0 {
		hs = &raftpb.HardState{Term: new(uint64(o.term)), Vote: new(uint64(0)), Commit: new(uint64(o.index))}
	}
	b := d.store.NewBatch()
	defer b.Close()
	n.s.must(n, "create a replica", raftlog.Create(b, d.raft, zoneID, meta, hs, o.index))
	n.s.must(n, "commit a new replica", b.Commit(true))
	d.close()
	return d
}

// confState returns raft's view of a membership without learners.
func confState(m nexusraft.Membership) *raftpb.ConfState {
	cs := &raftpb.ConfState{}
	for _, x := range m.Members {
		cs.Voters = append(cs.Voters, uint64(x.Replica))
	}
	return cs
}

func (d *memberDisk) openStore() {
	var err error
	d.store, err = storage.Open("data", &storage.Options{
		FS: d.fs, CacheBytes: 1 << 20, FlushInterval: -1,
		Logger: slog.New(slog.DiscardHandler),
	})
	d.n.s.must(d.n, "open the store", err)
	d.raft, err = d.store.Tree("raft")
	d.n.s.must(d.n, "open the raft tree", err)
}

func (d *memberDisk) newTree() *storage.Tree {
	d.trees++
	t, err := d.store.Tree(fmt.Sprintf("state-%d", d.trees))
	d.n.s.must(d.n, "make a state tree", err)
	return t
}

func (d *memberDisk) open() (raft.Storage, nexusraft.Index, nexusraft.Membership) {
	d.openStore()
	var err error
	d.log, err = raftlog.Open(d.raft, zoneID)
	d.n.s.must(d.n, "open the log", err)
	var ok bool
	d.state, ok, err = d.store.OpenTree(d.log.Meta().StateTree)
	d.n.s.must(d.n, "open the state", err)
	if !ok {
		d.n.s.fatalf("%s: its state tree %s is gone", d.n.name, d.log.Meta().StateTree)
	}
	d.dropOrphans()
	d.received, d.next = make(map[nexusraft.Index]*storage.Tree), nil
	d.effects, d.change = nil, nil
	return d.log, d.log.Applied(), d.log.Meta().Membership
}

// dropOrphans removes staging trees whose snapshot was never installed.
func (d *memberDisk) dropOrphans() {
	names, err := d.store.Trees()
	d.n.s.must(d.n, "list trees", err)
	for _, name := range names {
		if name != d.raft.Name() && name != d.state.Name() {
			d.n.s.must(d.n, "drop an orphaned tree", d.store.DropTree(name))
		}
	}
}

// receive puts the data of a snapshot into a staging tree, before raft hears of it.
func (d *memberDisk) receive(s *raftpb.Snapshot, data []nexusraft.Pair) {
	t := d.newTree()
	b := d.store.NewBatch()
	defer b.Close()
	for _, p := range data {
		d.n.s.must(d.n, "fill a staging tree", b.Set(t, p.Key, p.Value))
	}
	d.n.s.must(d.n, "commit a staging tree", b.Commit(true))
	d.n.shadow.sync() // what was written before it, too
	d.received[nexusraft.Index(s.GetMetadata().GetIndex())] = t
}

// snapshot returns what a snapshot of this moment is, from one storage snapshot.
func (d *memberDisk) snapshot() (*raftpb.Snapshot, []nexusraft.Pair) {
	s, err := d.log.Snapshot()
	d.n.s.must(d.n, "take a snapshot", err)
	view := d.store.NewSnapshot()
	defer view.Close()
	data := []nexusraft.Pair{}
	for p, err := range view.Reader(d.state).Scan(nil, nil) {
		d.n.s.must(d.n, "read a snapshot", err)
		data = append(data, nexusraft.Pair{Key: append([]byte(nil), p.Key...), Value: append([]byte(nil), p.Value...)})
	}
	return s, data
}

func (d *memberDisk) stage(p *driver.Part) {
	n, s := d.n, d.n.s
	d.batch, d.next = d.store.NewBatch(), d.state
	if w := p.Work; w != nil {
		if w.Snapshot != nil {
			d.install(w)
		}
		s.must(n, "stage entries", d.log.Append(d.batch, w.Append))
		if w.HardState != nil {
			s.must(n, "stage the hard state", d.log.SetHardState(d.batch, w.HardState))
		}
	}
	if k := len(p.Committed); k > 0 {
		if c := d.change; c != nil {
			s.must(n, "stage the membership", d.log.SetMembership(d.batch, c.conf, c.members))
		}
		s.must(n, "stage effects", d.effects.WriteTo(d.batch, d.next))
		s.must(n, "stage the applied index", d.log.SetApplied(d.batch, p.Committed[k-1].Index))
	}
	d.effects, d.change = nil, nil
	d.compact()
}

// install stages the switch to a snapshot whose data was received before.
func (d *memberDisk) install(w *zone.Work) {
	n, s := d.n, d.n.s
	meta := w.Snapshot.GetMetadata()
	index := nexusraft.Index(meta.GetIndex())
	tree := d.received[index]
	if tree == nil || w.HardState == nil {
		s.fatalf("%s: snapshot at %d: data received %v, hard state %v", n.name, index, tree != nil, w.HardState)
	}
	delete(d.received, index)
	members, err := nexusraft.DecodeMembership(w.Snapshot.GetData())
	s.must(n, "decode a snapshot's membership", err)
	s.must(n, "stage a snapshot", d.log.InstallSnapshot(d.batch, index, nexusraft.Term(meta.GetTerm()),
		proto.CloneOf(meta.GetConfState()), members, tree.Name(), w.HardState))
	s.must(n, "stage the end of the old state", d.batch.DropTree(d.state))
	d.next, n.conf = tree, meta.GetConfState()
}

// apply runs one committed entry over what the ones before it have done.
func (d *memberDisk) apply(c *zone.Committed) (a driver.Applied) {
	n, s := d.n, d.n.s
	if d.effects == nil {
		d.effects = storage.NewOverlay(d.state)
	}
	switch {
	case c.Command != nil:
		own := storage.NewOverlay(d.effects)
		a.Data, a.Err = machine{}.Apply(silent{own}, nexusraft.Command{
			Index: c.Index, Time: c.Command.Time,
			Data: c.Command.Command,
		})
		s.must(n, "apply a command", a.Err)
		own.MergeInto(d.effects)
	case c.ConfChange != nil:
		cs, members, err := n.group.ApplyConfChange(c.ConfChange)
		s.must(n, "apply a conf change", err)
		d.change, n.conf = &change{cs, members}, cs
	}
	h, err := stateHash(d.effects)
	s.must(n, "hash the state", err)
	s.oracle.applied(n, c.Index, h)
	return a
}

func (d *memberDisk) held() int {
	if d.effects == nil {
		return 0
	}
	return d.effects.Bytes()
}

// compact drops a part of the log, sometimes, but nothing above a snapshot that is on its
// way.
func (d *memberDisk) compact() {
	s := d.n.s
	if !s.percent(8) {
		return
	}
	upTo := d.log.Applied() - min(d.log.Applied(), nexusraft.Index(s.rng.IntN(20)))
	for _, index := range d.n.sending {
		upTo = min(upTo, index)
	}
	s.must(d.n, "stage compaction", d.log.Compact(d.batch, upTo))
}

func (d *memberDisk) commit(sync bool) {
	d.n.s.must(d.n, "commit a round", d.batch.Commit(sync))
	d.batch.Close()
	d.batch, d.state = nil, d.next
}

func (d *memberDisk) crash(kept bool) {
	if kept && d.batch != nil {
		d.commit(true)
	}
	if d.batch != nil {
		d.batch.Close()
		d.batch = nil
	}
	survivor := d.fs.CrashClone(nil, 0)
	d.close()
	d.fs = survivor
}

func (d *memberDisk) close() {
	if d.store != nil {
		d.n.s.must(d.n, "close the store", d.store.Close())
		d.store = nil
	}
}
