package worker

import (
	"context"
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/driver"
	"github.com/nexi-lab/nexus-raft/internal/forward"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// checkpoint is an entry after which members compare.
const checkpoint = 256

// leadersSum is the digest after it that the leader has, and this replica has not.
const leadersSum = 0x1ead

// entryOf is an append of one entry behind an index of term 2, which is committed.
func entryOf(index uint64, own bool, command []byte) driver.Inbound {
	e := zone.Envelope{
		Proposal: zone.ProposalID{Replica: leaderReplica, Incarnation: 1, Sequence: index}, Own: own, Command: command,
	}
	return fromLeader(&raftpb.Message{
		Type: raftpb.MsgApp.Enum(), Term: new(uint64(2)), Index: new(index), LogTerm: new(uint64(2)), Commit: new(index + 1),
		Entries: []*raftpb.Entry{
			{Type: raftpb.EntryNormal.Enum(), Term: new(uint64(2)), Index: new(index + 1), Data: e.Encode()},
		},
	})
}

// verify is the command with which the leader has the members compare.
func verify(t *testing.T) []byte {
	t.Helper()
	b, err := proto.Marshal(&pb.NodeCommand{Kind: &pb.NodeCommand_VerifyState{
		VerifyState: &pb.VerifyState{Index: checkpoint, Digest: leadersSum},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// takes has the worker install the leader's state at an index, which digest writes the digests of.
func (w *idleWorker) takes(t *testing.T, index nexusraft.Index, digest func(nexusraft.ReadWriter) error) {
	t.Helper()
	m := snapshotAt(t, w, leaderNode, index)
	state := storage.NewOverlay(m.received.Tree)
	batch := w.o.Dir.Store.NewBatch()
	defer batch.Close()
	if err := errors.Join(digest(state), state.WriteTo(batch, m.received.Tree), batch.Commit(true)); err != nil {
		t.Fatal(err)
	}
	m.offer(t, w)
	w.turnWith(t)
	if err := answered(t, "snapshot", m.received.Ended()); err != nil {
		t.Fatal(err)
	}
}

// pastCheckpoint returns a replica that has applied the checkpoint, and made something else of it than the leader.
func pastCheckpoint(t *testing.T) (*idleWorker, *group) {
	t.Helper()
	w, g := admittedWorker(t)
	w.takes(t, checkpoint-2, func(state nexusraft.ReadWriter) error {
		begin := system.FoundingDigest()
		return state.Set(begin.Key, begin.Value)
	})
	w.turnWith(t, appendOf(checkpoint-2, 2, 2, 2, checkpoint))
	if g.check.Index != checkpoint || g.check.Sum == leadersSum {
		t.Fatalf("after entry %d the replica would compare %+v", g.log.Applied(), g.check)
	}
	return w, g
}

// A check that begins before a snapshot, and ends after it, is of the state that the snapshot has brought: the
// replica passes, whatever it had made of the entries before, and if it led it would have nobody compare that.
func TestCheckThatEndsAfterASnapshot(t *testing.T) {
	w, g := pastCheckpoint(t)
	w.turnWith(t, entryOf(checkpoint, true, verify(t)))
	if _, err := w.o.Replicas.View(g.id); !errors.Is(err, nexusraft.ErrCorrupt) {
		t.Fatalf("without a snapshot: got %v, want ErrCorrupt", err)
	}

	w, g = pastCheckpoint(t)
	w.takes(t, checkpoint+44, func(state nexusraft.ReadWriter) error {
		_, err := system.StoreDigest(state, system.Digest{Index: checkpoint, Sum: leadersSum})
		_, again := system.StoreDigest(state, system.Digest{Index: checkpoint + 44, Sum: 7}) // no checkpoint, but the last
		return errors.Join(err, again)
	})
	if g.check.Index != 0 {
		t.Errorf("with the leader's state the replica would still compare %+v", g.check)
	}
	w.turnWith(t, entryOf(checkpoint+44, true, verify(t)))
	if _, err := w.o.Replicas.View(g.id); err != nil || g.log.Applied() != checkpoint+45 {
		t.Errorf("with the leader's state, at %d: %v", g.log.Applied(), err)
	}
}

// A leader has nobody compare its digest before it has applied what earlier leaders have appended: if one of those has
// had the members compare, and this replica differs, it must not make the other one differ from it in turn.
func TestCheckWaitsForTheTerm(t *testing.T) {
	w := newIdleWorker(t, false)
	h := host(t, w)
	if err := h.replica.Campaign(); err != nil { // nobody else votes: it leads at once
		t.Fatal(err)
	}
	h.check = system.Digest{Index: checkpoint, Sum: leadersSum}
	if c := h.takeCheck(); c != nil || h.replica.TermApplied() || h.check.Index != checkpoint {
		t.Errorf("got a command of %d bytes before the term's first entry is applied, which is %t; then left: %+v", len(c),
			h.replica.TermApplied(), h.check)
	}
	w.turns(t)
	if c := h.takeCheck(); c == nil || !h.replica.TermApplied() || h.check.Index != 0 {
		t.Errorf("got a command of %d bytes after that, and left is %+v", len(c), h.check)
	}
}

// The calls of a zone that this node has passed on to a leader end when the zone stops here, at once: no
// tick of the zone comes any more that would end them. Those of other zones go on.
func TestZoneThatStopsEndsForwardedCalls(t *testing.T) {
	w, g := admittedWorker(t)
	w.takes(t, 20, func(nexusraft.ReadWriter) error { return nil })
	forwarded, end, _ := w.o.Forwards.Start(t.Context(), g.id, leaderNode)
	defer end()
	other, endOther, _ := w.o.Forwards.Start(t.Context(), g.id+1, leaderNode)
	defer endOther()
	w.turnWith(t, entryOf(20, false, []byte("panic")))
	if _, err := w.o.Replicas.View(g.id); !errors.Is(err, nexusraft.ErrClosed) {
		t.Fatalf("the zone has not stopped: %v", err)
	}
	answered(t, "call that was passed on to a leader", forwarded.Done())
	if cause := context.Cause(forwarded); !errors.Is(cause, forward.ErrLeaderLost) {
		t.Errorf("the call ended with %v, want %v", cause, forward.ErrLeaderLost)
	}
	if other.Err() != nil {
		t.Errorf("a call of another zone has ended: %v", context.Cause(other))
	}
}
