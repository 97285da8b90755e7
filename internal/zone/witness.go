package zone

import (
	"go.etcd.io/raft/v3/raftpb"
)

// silence counts, on a witness, the ticks since its leader was last heard of.
//
// A witness never ticks its RawNode: raft would campaign. But a replica that is never ticked honours
// its leader's lease for ever (CheckQuorum), and would refuse every vote after that leader's death.
// So the witness counts outside raft, and forgets its leader after an election timeout of silence.
// This needs reads that a quorum confirms: under lease-based reads raft ignores ForgetLeader.
type silence struct {
	ticks int
}

func (r *Replica) tickWitness() {
	r.silence.ticks++
	if r.silence.ticks < r.cfg.ElectionTicks {
		return
	}
	r.silence.ticks = 0
	if err := r.rn.ForgetLeader(); err != nil {
		r.cfg.Logger.Warningf("witness can't forget its silent leader: %v", err)
	}
}

// witnessTakes reports whether a witness steps a message: it never leads and has no data (I11).
func (r *Replica) witnessTakes(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgTimeoutNow, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		return false
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		if m.GetTerm() >= r.rn.BasicStatus().GetTerm() {
			r.silence.ticks = 0
		}
	}
	return true
}

// LeaseTicksLeft returns in how many ticks a witness will forget the leader it knows, and
// vote again; 0 if it knows none. It is for diagnosis.
func (r *Replica) LeaseTicksLeft() int {
	if r.rn.BasicStatus().Lead == 0 {
		return 0
	}
	return r.cfg.ElectionTicks - r.silence.ticks
}
