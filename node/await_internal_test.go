package node

import (
	"errors"
	"fmt"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// What may have been appended is never proposed again, whatever else its error says.
func TestProposable(t *testing.T) {
	notLeader := &nexusraft.NotLeaderError{Zone: 1, Leader: 2}
	for _, tc := range []struct {
		err  error
		want bool
	}{
		{notLeader, true},
		{fmt.Errorf("%w: %w", notLeader, transport.ErrUnreachable), true},
		{nil, false},
		{nexusraft.ErrUncertain, false},
		{fmt.Errorf("%w: %w", nexusraft.ErrUncertain, notLeader), false},
		{errors.Join(notLeader, nexusraft.ErrUncertain), false},
		{nexusraft.ErrOverloaded, false},
		{nexusraft.ErrClosed, false},
	} {
		if got := proposable(tc.err); got != tc.want {
			t.Errorf("%v: got %t, want %t", tc.err, got, tc.want)
		}
	}
}
