package worker

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// The members of a zone compare digests of what its entries have done (internal/system): after each
// checkpoint its leader proposes a command with its own, and where it is applied, a replica that remembers
// another one stops the zone on its node. That command comes once for each checkpoint, so that a
// zone that is not written to has none.

// compared notes what an entry has done about comparing.
func (g *group) compared(a apply.Effects) {
	if a.Verified >= g.check.Index {
		g.check = system.Digest{}
	}
	if a.Checkpoint.Index != 0 {
		g.check = a.Checkpoint
	}
}

// takeCheck returns the command with which the leader has the members compare; nil if this replica does
// not lead, there is nothing new, or its disk is full. One that is lost is not repeated: the next one
// finds what it would have found.
//
// A leader waits until it has applied an entry of its own term. If an earlier leader's command is in its log, and
// finds that this replica differs, it stops before it has its own digest compared; otherwise the second command
// would stop the earlier leader's replica, too, and the zone would have none left.
func (g *group) takeCheck() []byte {
	if g.check.Index == 0 || !g.replica.TermApplied() || g.full() != nil {
		return nil
	}
	c, err := proto.Marshal(&pb.NodeCommand{Kind: &pb.NodeCommand_VerifyState{
		VerifyState: &pb.VerifyState{Index: uint64(g.check.Index), Digest: g.check.Sum},
	}})
	g.check = system.Digest{}
	if err != nil {
		g.logger.Error("members are not asked to compare their states", "err", err)
		return nil
	}
	return c
}

func isDiverged(err error) bool {
	_, ok := errors.AsType[*system.DivergedError](err)
	return ok
}

// diverged marks the zone's state on this node, if that is why it stops: it is not served any more,
// also after a restart. The mark goes with the round's write; where a crash takes it back, the
// command that has found the difference is applied again.
func (g *group) diverged(err error) error {
	d, ok := errors.AsType[*system.DivergedError](err)
	if !ok {
		return err
	}
	mark := system.MarkDiverged(d)
	return errors.Join(wayOut(err, g.id, g.w.o.Path), g.w.batch.Set(g.state, mark.Key, mark.Value))
}

// wayOut says what is left to do with a state that differs from the leader's.
func wayOut(err error, id nexusraft.ZoneID, dir string) error {
	if !isDiverged(err) {
		return err
	}
	return fmt.Errorf("zone %v: %w; once other members serve this zone, and all other zones of this node are in sync, "+
		"clear %s and join as a new node", id, err, dir)
}
