package zone

import (
	"go.etcd.io/raft/v3/raftpb"
)

// tickWitness has a witness forget a silent leader.
//
// A witness never ticks its RawNode: raft would campaign. But a replica that is never ticked honours
// its leader's lease for ever (CheckQuorum), and would refuse every vote after that leader's death.
// So the silence is counted outside raft, and the leader forgotten after an election timeout of it.
// This needs reads that a quorum confirms: under lease-based reads raft ignores ForgetLeader.
func (r *Replica) tickWitness() {
	if r.LeaseTicksLeft() > 0 || r.rn.BasicStatus().Lead == 0 {
		return
	}
	if err := r.rn.ForgetLeader(); err != nil {
		r.cfg.Logger.Warningf("witness can't forget its silent leader: %v", err)
	}
}

// witnessTakes reports whether a witness steps a message: it never leads and has no data (I11).
func witnessTakes(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgTimeoutNow, raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		return false
	}
	return true
}
