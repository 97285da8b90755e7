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

// witnessDisk is the witness's little file. A crash can stop a write at each of its steps,
// and of what is not synced any sectors survive.
type witnessDisk struct {
	n      *node
	fs     *witness.MemFS
	log    *witness.Log
	update witness.Update // staged
}

const witnessDir = "w"

func newWitnessDisk(n *node, o origin) *witnessDisk {
	d := &witnessDisk{n: n, fs: witness.NewMemFS()}
	var err error
	d.log, err = witness.CreateLog(d.fs, witnessDir, witness.Origin{
		Zone: zoneID, Replica: n.replica, Node: n.id, Cluster: 1,
	}, o.members)
	n.s.must(n, "create a log", err)
	if o.index == 0 {
		return d
	}
	index, term := new(uint64(o.index)), new(uint64(o.term))
	n.s.must(n, "write the beginning", d.log.Write(witness.Update{
		Snapshot: &raftpb.Snapshot{
			Data:     o.members.Encode(),
			Metadata: &raftpb.SnapshotMetadata{Index: index, Term: term, ConfState: confState(o.members)},
		},
		HardState: &raftpb.HardState{Term: term, Vote: new(uint64(0)), Commit: index},
	}, true))
	return d
}

func (d *witnessDisk) open() (raft.Storage, nexusraft.Index, nexusraft.Membership) {
	var err error
	d.log, err = witness.OpenLog(d.fs, witnessDir, zoneID)
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

func (d *witnessDisk) commit(sync bool) {
	d.n.s.must(d.n, "write a round", d.log.Write(d.update, sync))
	d.update = witness.Update{}
}

var errPower = errors.New("the power is gone")

// crash stops a write under way at a random step; kept has it end.
func (d *witnessDisk) crash(kept bool) {
	if kept {
		steps := d.n.s.rng.IntN(4)
		d.fs.Before = func(string, string) error {
			if steps--; steps < 0 {
				return errPower
			}
			return nil
		}
		if err := d.log.Write(d.update, true); err != nil && !errors.Is(err, errPower) {
			d.n.s.fatalf("%s: write a round: %v", d.n.name, err)
		}
	}
	d.fs = d.fs.CrashClone(d.n.s.rng, 50)
}

func (d *witnessDisk) close() {}
