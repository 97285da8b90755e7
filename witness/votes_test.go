package witness

import (
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/raftwire"
	"github.com/nexi-lab/nexus-raft/transport"
)

// A request that is refused, here of another node in the candidate's name, answers for itself and
// takes nobody's place.
func TestRefusedVoteTakesNoPlace(t *testing.T) {
	const candidate, voter, node = 5, 7, 0x55
	members := nexusraft.Membership{Shape: nexusraft.DefaultShape}.
		With(nexusraft.Member{Replica: candidate, Node: node, Address: "127.0.0.1:1", Role: nexusraft.RoleMember}).
		With(nexusraft.Member{Replica: voter, Node: 0x77, Address: "127.0.0.1:2", Role: nexusraft.RoleWitness})
	c, err := Config{Dir: "w", FS: NewMemFS()}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.FS.MkdirAll(c.Dir); err != nil {
		t.Fatal(err)
	}
	log, err := CreateLog(c.FS, c.Dir, Origin{Cluster: 1, Node: 0x77, Zone: nexusraft.RootZone, Replica: voter}, members)
	if err != nil {
		t.Fatal(err)
	}
	g, err := newGroup(log, 1, c, func(nexusraft.Membership) {}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(from nexusraft.NodeID) *raftwire.Waiter {
		v := transport.Vote{Zone: nexusraft.RootZone, From: candidate, To: voter, Term: 2, LastIndex: 9, LastTerm: 1}
		slot := raftwire.NewWaiter(v)
		_ = g.group.Step(from, slot.Message(), slot) // the answer says so, too
		return slot
	}
	honest, forged := ask(node), ask(node+1)
	select {
	case r := <-honest.Done():
		t.Errorf("the honest request has got the answer %+v already", r)
	default:
	}
	select {
	case r := <-forged.Done():
		if r.Outcome != transport.VoteIgnored || !strings.Contains(r.Why, "belongs to node") {
			t.Errorf("got %+v, want it ignored, and why", r)
		}
	default:
		t.Error("the forged request waits for an answer")
	}
}
