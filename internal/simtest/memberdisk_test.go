package simtest

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"slices"

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
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/storage"
)

// memberDevice is a member's store, over a file system in memory: the logs and states of all its zones.
// What they write in a round is one batch.
//
// A crash loses all that came after the last sync. Pebble writes unsynced records in the
// background, at a time of its own; half-kept tails would make a run differ from the next
// one of the same seed. Instead node syncs at random where it need not, which leaves the
// same prefixes; torn writes are the business of the crash tests of storage and raftlog.
type memberDevice struct {
	p     *process
	fs    *storage.MemFS
	store *storage.Store
	raft  *storage.Tree
	batch *storage.Batch // staged; nil: nothing is

	trees int // made so far, for their names
}

// memberDisk is one zone's part of it: log and state.
type memberDisk struct {
	*memberDevice
	n     *node
	state *storage.Tree
	log   *raftlog.Log

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

func newMemberDevice(p *process) *memberDevice { return &memberDevice{p: p, fs: storage.NewMemFS()} }

// add writes what the first replica begins with.
func (d *memberDevice) add(n *node, o origin) {
	n.disk = &memberDisk{memberDevice: d, n: n}
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
		for _, p := range append(o.state, system.FoundingDigest()) {
			n.s.must(n, "begin the state", b.Set(state, p.Key, p.Value))
		}
	}
	n.s.must(n, "create a replica", raftlog.Create(b, d.raft, n.s.zone, meta, hs, o.index))
	n.s.must(n, "commit a new replica", b.Commit(true))
}

// confState returns raft's view of a membership without learners.
func confState(m nexusraft.Membership) *raftpb.ConfState {
	cs := &raftpb.ConfState{}
	for _, x := range m.Members {
		cs.Voters = append(cs.Voters, uint64(x.Replica))
	}
	return cs
}

func (d *memberDevice) openStore() {
	var err error
	d.store, err = storage.Open("data", &storage.Options{
		FS: d.fs, CacheBytes: 1 << 20, FlushInterval: -1,
		Logger: slog.New(slog.DiscardHandler),
	})
	d.p.w.must(d.p, "open the store", err)
	d.raft, err = d.store.Tree("raft")
	d.p.w.must(d.p, "open the raft tree", err)
}

func (d *memberDevice) newTree() *storage.Tree {
	t, err := d.store.Tree(d.newName())
	d.p.w.must(d.p, "make a state tree", err)
	return t
}

func (d *memberDevice) newName() string {
	d.trees++
	return fmt.Sprintf("state-%d", d.trees)
}

// open opens the store, and returns the replicas that are in it.
func (d *memberDevice) open() (all []*node) {
	if d.store == nil { // it was not made just now
		d.openStore()
	}
	zones, err := raftlog.Zones(d.raft)
	d.p.w.must(d.p, "list the zones", err)
	for _, n := range d.p.replicas {
		there := slices.Contains(zones, n.s.zone)
		if !there && !n.dropped {
			n.s.fatalf("I2: %s is gone from its disk", n)
		}
		if there { // perhaps again: that it was dropped is not synced
			all = append(all, n)
		}
	}
	if len(all) != len(zones) {
		d.p.w.fatalf("%s has %d zones on its disk, and knows of %d", d.p, len(zones), len(all))
	}
	d.dropOrphans(zones)
	return all
}

func (d *memberDisk) open() (raft.Storage, nexusraft.Index, nexusraft.Membership) {
	var err error
	d.log, err = raftlog.Open(d.raft, d.n.s.zone)
	d.n.s.must(d.n, "open the log", err)
	var ok bool
	d.state, ok, err = d.store.OpenTree(d.log.Meta().StateTree)
	d.n.s.must(d.n, "open the state", err)
	if !ok {
		d.n.s.fatalf("%s: its state tree %s is gone", d.n.name, d.log.Meta().StateTree)
	}
	d.received, d.next = make(map[nexusraft.Index]*storage.Tree), nil
	d.effects, d.change = nil, nil
	return d.log, d.log.Applied(), d.log.Meta().Membership
}

// dropOrphans removes staging trees whose snapshot was never installed.
func (d *memberDevice) dropOrphans(zones []nexusraft.ZoneID) {
	known := map[string]bool{d.raft.Name(): true}
	for _, id := range zones {
		log, err := raftlog.Open(d.raft, id)
		d.p.w.must(d.p, "open a log", err)
		known[log.Meta().StateTree] = true
	}
	names, err := d.store.Trees()
	d.p.w.must(d.p, "list trees", err)
	for _, name := range names {
		if !known[name] {
			d.p.w.must(d.p, "drop an orphaned tree", d.store.DropTree(name))
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
	d.p.synced() // what was written before it, too
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
	if d.next = d.state; d.batch == nil {
		d.batch = d.store.NewBatch()
	}
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
	n.hosting = n.hosting || a.Zones
	n.s.oracle.applied(n, c, &a, d.effects)
	if !wanted {
		a.Data = nil
	}
	return driver.Applied{Data: a.Data, Err: a.Err, First: a.First}, nil
}

func (d *memberDisk) applyOne(c *zone.Committed) (apply.Effects, error) {
	n := d.n
	switch {
	case c.Command != nil:
		return apply.Command(d.machine(), d.effects, c.Index, c.Command)
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

// machine is the zone's state machine here, and its version.
func (d *memberDisk) machine() apply.Machine {
	n := d.n
	if n.s.keys {
		version, err := system.MachineVersion(d.effects)
		n.s.must(n, "read the state machine's version", err)
		return apply.Machine{StateMachine: kv.StateMachine{}, Version: version}
	}
	m := machine{where: n.name}
	if n == n.s.liar {
		m.lies = n.s.lies
	}
	return apply.Machine{StateMachine: m}
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

func (d *memberDevice) commit(written []*node, sync bool) {
	d.p.w.must(d.p, "commit a round", d.batch.Commit(sync))
	d.batch.Close()
	d.batch = nil
	for _, n := range written {
		x := n.disk.(*memberDisk)
		x.state = x.next
	}
}

// synced returns whose writes a synced one takes along: all, as the store has one log of its own.
func (d *memberDevice) synced([]*node) []*node { return d.p.replicas }

func (d *memberDevice) crash(writing []*node, kept bool) {
	if kept {
		d.commit(writing, true)
	}
	if d.batch != nil {
		d.batch.Close()
		d.batch = nil
	}
	survivor := d.fs.CrashClone(nil, 0)
	d.close()
	d.fs = survivor
}

func (d *memberDevice) close() {
	if d.store != nil {
		d.p.w.must(d.p, "close the store", d.store.Close())
		d.store = nil
	}
}
