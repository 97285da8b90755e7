package node_test

import (
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/netfault"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/transport"
)

// TestWitnessIsAdmittedOnceTheFollowerKnows: what the leader sends to the follower takes long, what
// the follower answers does not. When a witness is told that it is in, the follower must know of
// it: it would want the leader's vote for an election otherwise.
func TestWitnessIsAdmittedOnceTheFollowerKnows(t *testing.T) {
	c := emptyCluster(t, func(config *node.Config) { config.ElectionTicks = 40 })
	config := c.memberConfig("n1")
	if _, err := node.Init(config); err != nil {
		t.Fatal(err)
	}
	leader := c.start(config)
	c.leader()
	follower := c.join("n2", "n1")
	waitRole(t, follower, nexusraft.RoleMember)
	path, err := netfault.New(c.target("n2"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(path.Close)
	c.lead("n2", path.Addr())
	path.Delay(leader.config.TickInterval * 8)
	c.isolate("n2", broken)
	c.heal()
	leader.put("k", "v") // by the new path
	guest := transport.Identity{
		Node: 0xc, Incarnation: 1, Boot: 1, Name: "w", Address: "127.0.0.1:1", Witness: true, Minor: transport.MinorVersion,
	}
	eventually(t, "the witness is admitted", func() error {
		_, err := leader.node.Handler().Join(t.Context(), transport.JoinRequest{Peer: guest, Role: nexusraft.RoleWitness})
		return err
	})
	if s := follower.status(); s.Membership.Count(nexusraft.RoleWitness) != 1 {
		t.Errorf("the witness is admitted, and the follower, at %d of %d, knows %v", s.Applied, leader.status().Applied,
			s.Membership.Members)
	}
	path.Delay(0)
}

// target returns where a node's door leads to.
func (n *network) target(name string) string {
	d := n.door(name)
	n.mu.Lock()
	defer n.mu.Unlock()
	return d.target
}
