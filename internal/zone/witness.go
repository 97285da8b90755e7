package zone

import (
	pb "go.etcd.io/raft/v3/raftpb"
)

// silence counts, on a witness, the ticks since its leader was last heard of.
//
// A witness never ticks its RawNode: raft would campaign. But a replica that is never
// ticked keeps its leader's lease for ever (CheckQuorum), and would refuse every vote
// after that leader has died. So the witness counts outside raft, and forgets its leader
// after an election timeout of silence. This needs reads that are confirmed by a quorum:
// raft ignores the request under lease-based reads.
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

// witnessTakes says whether a witness steps a message at all: it is never asked to lead
// and never asked for data (I11).
func (r *Replica) witnessTakes(m *pb.Message) bool {
	switch m.GetType() {
	case pb.MsgTimeoutNow, pb.MsgReadIndex, pb.MsgReadIndexResp:
		return false
	case pb.MsgApp, pb.MsgHeartbeat, pb.MsgSnap:
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
