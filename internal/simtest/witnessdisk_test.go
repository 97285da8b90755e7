package simtest

import (
	"errors"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/witness"
)

// witnessDevice has the witness's little files, one for each zone. A crash can stop a write at each of
// its steps, and of what is not synced any sectors survive.
type witnessDevice struct {
	p  *process
	fs *witness.MemFS
}

// witnessDisk is one of the files.
type witnessDisk struct {
	*witnessDevice
	n      *node
	log    *witness.Log
	update witness.Update // staged
}

const witnessDir = "w"

func newWitnessDevice(p *process) *witnessDevice { return &witnessDevice{p: p, fs: witness.NewMemFS()} }

func (v *witnessDevice) add(n *node, o origin) {
	d := &witnessDisk{witnessDevice: v, n: n}
	n.disk = d
	var err error
	d.log, err = witness.CreateLog(v.fs, witnessDir, witness.Origin{
		Zone: n.s.zone, Replica: n.replica, Node: n.id, Cluster: 1,
	}, o.members)
	n.s.must(n, "create a log", err)
	if o.index == 0 {
		return
	}
	index, term := new(uint64(o.index)), new(uint64(o.term))
	n.s.must(n, "write the beginning", d.log.Write(witness.Update{
		Snapshot: &raftpb.Snapshot{
			Data:     o.members.Encode(),
			Metadata: &raftpb.SnapshotMetadata{Index: index, Term: term, ConfState: confState(o.members)},
		},
		HardState: &raftpb.HardState{Term: term, Vote: new(uint64(0)), Commit: index},
	}, true))
}

// open returns the replicas that there are, as a witness's identity has them.
func (v *witnessDevice) open() (all []*node) {
	for _, n := range v.p.replicas {
		if !n.dropped {
			all = append(all, n)
		}
	}
	return all
}

func (d *witnessDisk) open() (raft.Storage, nexusraft.Index, nexusraft.Membership) {
	var err error
	d.log, err = witness.OpenLog(d.fs, witnessDir, d.n.s.zone)
	d.update = witness.Update{}
	d.n.s.must(d.n, "open the log", err)
	return d.log, d.log.Applied(), d.log.Membership()
}

func (d *witnessDisk) apply(c *zone.Committed, _ bool) (driver.Applied, error) {
	if c.ConfChange != nil {
		cs, members, err := d.n.group.ApplyConfChange(c.ConfChange)
		d.n.s.must(d.n, "apply a conf change", err)
		d.update.ConfState, d.update.Membership = cs, &members
	}
	return driver.Applied{}, nil
}

func (d *witnessDisk) held() int { return 0 }

func (d *witnessDisk) stage(p *driver.Part) {
	if w := p.Work; w != nil {
		d.update.Snapshot, d.update.Append, d.update.HardState = w.Snapshot, w.Append, w.HardState
	}
	if k := len(p.Committed); k > 0 {
		d.update.Applied = p.Committed[k-1].Index
	}
}

// commit writes each log that has something to write.
func (v *witnessDevice) commit(written []*node, sync bool) {
	for _, n := range written {
		d := n.disk.(*witnessDisk)
		n.s.must(n, "write a round", d.log.Write(d.update, sync))
		d.update = witness.Update{}
	}
}

// synced returns whose writes a synced one takes along: those in it.
func (v *witnessDevice) synced(written []*node) []*node { return written }

var errPower = errors.New("the power is gone")

// crash stops the writes under way at a random step; kept has them end.
func (v *witnessDevice) crash(writing []*node, kept bool) {
	if kept {
		steps := v.p.w.rng.IntN(4 * len(writing))
		v.fs.Before = func(string, string) error {
			if steps--; steps < 0 {
				return errPower
			}
			return nil
		}
		for _, n := range writing {
			d := n.disk.(*witnessDisk)
			if err := d.log.Write(d.update, true); err != nil && !errors.Is(err, errPower) {
				n.s.fatalf("%s: write a round: %v", n, err)
			}
		}
	}
	v.fs = v.fs.CrashClone(v.p.w.rng, 50)
}

func (v *witnessDevice) close() {}
