package node

import (
	"errors"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// A command of the nodes that can't be applied would stop the zone everywhere: it is refused.
func TestOwnCommandsThatNobodyKnows(t *testing.T) {
	n := idleNode(t, true)
	for _, command := range [][]byte{nil, {0xff}} {
		_, err := handler{n}.Propose(t.Context(), transport.Proposal{Zone: nexusraft.RootZone, Own: true, Command: command})
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("command %x: got %v, want ErrRefused", command, err)
		}
	}
}
