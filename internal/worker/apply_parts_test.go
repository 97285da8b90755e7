package worker

import (
	"fmt"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/storage"
)

// amplifier is a state machine whose commands, of some bytes, write a MiB each and answer with as
// much.
type amplifier struct {
	g    *group
	most int // bytes of effects that were in memory as a command began
}

// Alone implements nexusraft.Batched.
func (*amplifier) Alone([]byte) bool { return true }

func (a *amplifier) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	a.most = max(a.most, a.g.overlay.Bytes())
	return make([]byte, 1<<20), tx.Set(cmd.Data, make([]byte, 1<<20))
}

// amplifying is a node that leads, and whose state machine that is.
func amplifying(t *testing.T, disk storage.FS) (*idleWorker, *group, *amplifier) {
	t.Helper()
	w := idleWorkerOn(t, false, disk)
	w.batching()
	h := host(t, w)
	a := &amplifier{g: h}
	h.machine.StateMachine = a
	if err := h.replica.Campaign(); err != nil {
		t.Fatal(err)
	}
	w.turns(t)
	return w, h, a
}

// What commands make is written part by part (I15): a round has thousands of small ones, and each
// may make a MiB.
func TestRoundIsWrittenInParts(t *testing.T) {
	const commands = 100
	w, h, a := amplifying(t, storage.NewMemFS())
	var waiting []*propose.Call
	for i := range commands {
		p := propose.New(h.id)
		p.Command = fmt.Append(nil, "k", i)
		waiting = append(waiting, p)
	}
	waiting[3].Take()
	h.propose(waiting)
	w.turns(t)
	for i, p := range waiting {
		if i == 3 {
			continue
		}
		if r := answerOf(t, "proposal", p); r.err != nil || len(r.result.Data) != 1<<20 {
			t.Fatalf("proposal %d: %d bytes, %v", i, len(r.result.Data), r.err)
		}
	}
	if a.most == 0 || a.most > maxPartBytes {
		t.Errorf("%d bytes of effects were in memory, want some, and %d at most", a.most, maxPartBytes)
	}
	stored := apply.MachineReader(h.state)
	for i := range commands {
		if _, ok, err := stored.Get(fmt.Append(nil, "k", i)); err != nil || ok == (i == 3) {
			t.Errorf("command %d: applied %v, %v", i, ok, err)
		}
	}
}

// A conf change is on the disk when somebody hears of it, in whichever part of its round it is
// (I3).
func TestConfChangeInALaterPart(t *testing.T) {
	disk := storage.NewMemFS()
	w, h, _ := amplifying(t, disk)
	o := &outbox{t: t, disk: disk, zone: h.id}
	var ps []*propose.Call
	for i := range 10 {
		p := propose.New(h.id)
		p.Command = fmt.Append(nil, "k", i)
		ps = append(ps, p)
	}
	const learner nexusraft.ReplicaID = 77
	change, told := propose.New(h.id), false
	change.Conf = &zone.ConfChange{Set: []nexusraft.Member{{
		Replica: learner, Node: 0x77, Address: "127.0.0.1:7",
		Role: nexusraft.RoleLearner,
	}}}
	change.Settled = func() {
		told = true
		_, log := o.promised()
		if _, ok := log.Meta().Membership.Replica(learner); !ok {
			t.Error("somebody hears of a conf change that is not on the disk")
		}
	}
	h.propose(ps)
	h.propose([]*propose.Call{change})
	w.turns(t)
	if a := answerOf(t, "conf change", change); a.err != nil || !told {
		t.Errorf("conf change: %v, told: %t", a.err, told)
	}
}

// An answer that nobody waits for is not kept until its round is written.
func TestAnswersThatNobodyWaitsFor(t *testing.T) {
	w, h, _ := amplifying(t, storage.NewMemFS())
	p, left := propose.New(h.id), propose.New(h.id)
	p.Command, left.Command = []byte("a"), []byte("b")
	h.propose([]*propose.Call{p, left})
	_, _ = left.Wait(ended(t))
	w.turns(t)
	for p, want := range map[*propose.Call]int{p: 1 << 20, left: 0} {
		if a := answerOf(t, "proposal", p); a.err != nil || len(a.result.Data) != want {
			t.Errorf("an answer of %d bytes was kept, want %d; %v", len(a.result.Data), want, a.err)
		}
	}
}
