package peering

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// One refusal is a problem; the end is when those that are left are too few for a quorum.
func TestRefusals(t *testing.T) {
	voter := func(node nexusraft.NodeID, role nexusraft.Role) nexusraft.Member {
		return nexusraft.Member{Replica: nexusraft.ReplicaID(node), Node: node, Role: role}
	}
	three := nexusraft.Membership{Members: []nexusraft.Member{
		voter(1, nexusraft.RoleMember), voter(2, nexusraft.RoleMember), voter(3, nexusraft.RoleWitness),
		voter(4, nexusraft.RoleLearner),
	}}
	two := nexusraft.Membership{Members: three.Members[:2]}
	why := errors.New("was copied")
	var r Refusals
	if r.Final(three) || r.Problem() != "" {
		t.Error("nobody refuses, and it is final or a problem")
	}
	said, news := r.Add(2, fmt.Errorf("%w: it %w", nexusraft.ErrFenced, why))
	if _, again := r.Add(2, why); !news || again || said.Error() != "it was copied" {
		t.Errorf("got %q, news %v and then %v; want the words alone, news once", said, news, again)
	}
	if r.Final(nexusraft.Membership{}) {
		t.Error("final, although the voters are not known yet")
	}
	if r.Final(three) || !r.Final(two) || !strings.Contains(r.Problem(), "was copied") ||
		!strings.Contains(r.Problem(), "member forget-lives") {
		t.Errorf("refused by one: final %v of three, %v of two, %q", r.Final(three), r.Final(two), r.Problem())
	}
	r.Add(4, why)
	if r.Final(three) {
		t.Error("a learner's refusal counts")
	}
	r.Add(3, why)
	if !r.Final(three) {
		t.Error("refused by two of three: not final")
	}
	r.Remove(2)
	if r.Final(three) {
		t.Error("accepted by one again: final")
	}
}
