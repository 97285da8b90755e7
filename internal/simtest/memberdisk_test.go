package simtest

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/internal/snapshot"
	"github.com/nexi-lab/nexus-raft/internal/system"
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
	if o.index != 0 {
		digest := system.FoundingDigest()
		n.s.must(n, "begin the digest", b.Set(state, digest.Key, digest.Value))
	}
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
	t, err := d.store.Tree(d.newName())
	d.n.s.must(d.n, "make a state tree", err)
	return t
}

func (d *memberDisk) newName() string {
	d.trees++
	return fmt.Sprintf("state-%d", d.trees)
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
func (d *memberDisk) receive(s *raftpb.Snapshot, data [][]byte) {
	t, err := snapshot.Receive(d.store, d.newName(), func(yield func([]byte, error) bool) {
		for _, chunk := range data {
			if !yield(chunk, nil) {
				return
			}
		}
	})
	d.n.s.must(d.n, "receive a snapshot", err)
	d.n.shadow.sync() // what was written before it, too
	d.received[nexusraft.Index(s.GetMetadata().GetIndex())] = t
}

// snapshot returns what a snapshot of this moment is, from one storage snapshot.
func (d *memberDisk) snapshot() (_ *raftpb.Snapshot, data [][]byte) {
	s, err := d.log.Snapshot()
	d.n.s.must(d.n, "take a snapshot", err)
	view := d.store.NewSnapshot()
	defer view.Close()
	data = [][]byte{} // not nil, though the state may be empty
	for chunk, err := range snapshot.NewEncoder(view.Reader(d.state)).From(0) {
		d.n.s.must(d.n, "read a snapshot", err)
		data = append(data, bytes.Clone(chunk))
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

// apply runs one committed entry over what the ones before it have done, as a node's group does.
func (d *memberDisk) apply(c *zone.Committed, wanted bool) (driver.Applied, error) {
	n := d.n
	if d.effects == nil {
		d.effects = storage.NewOverlay(d.state)
	}
	a, err := d.applyOne(c)
	if _, differs := errors.AsType[*system.DivergedError](err); differs {
		return driver.Applied{}, &driver.GroupError{Err: err}
	}
	n.s.must(n, "apply an entry", err)
	n.compared(&a)
	n.s.oracle.applied(n, c.Index, &a, d.effects)
	if !wanted {
		a.Data = nil
	}
	return driver.Applied{Data: a.Data, Err: a.Err, First: a.First}, nil
}

func (d *memberDisk) applyOne(c *zone.Committed) (apply.Effects, error) {
	n := d.n
	switch {
	case c.Command != nil:
		m := machine{where: n.name}
		if n == n.s.liar {
			m.lies = n.s.lies
		}
		return apply.Command(apply.Machine{StateMachine: m}, d.effects, c.Index, c.Command)
	case c.ConfChange != nil:
		now, err := zone.ConfChangeTime(c.ConfChange)
		n.s.must(n, "read a conf change", err)
		before := n.r.Membership()
		cs, members, err := n.group.ApplyConfChange(c.ConfChange)
		n.s.must(n, "apply a conf change", err)
		d.change, n.conf = &change{cs, members}, cs
		return apply.Members(d.effects, c.Index, now, before, members)
	}
	return apply.Nothing(d.effects, c.Index)
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
