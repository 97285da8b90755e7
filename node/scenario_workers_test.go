package node_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/node"
)

// stuck is a state machine whose command "stick" waits, on the node that has stick, until that is closed.
type stuck struct {
	words
	stick   <-chan struct{}
	reached chan<- struct{}
}

func (s stuck) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	if string(cmd.Data) != "stick=" {
		return s.words.Apply(tx, cmd)
	}
	if s.stick != nil {
		s.reached <- struct{}{}
		<-s.stick
	}
	return nil, nil
}

// stored proposes a pair until it is stored, for certain: twice does no harm.
func stored(t *testing.T, z *node.Zone, command string) {
	t.Helper()
	eventually(t, "store "+command, func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := z.Propose(ctx, nexusraft.RequestID{}, []byte(command))
		return err
	})
}

// TestStuckWorkerBesideOthers: a worker of a node is stuck in a state machine. The other member takes over what that
// worker leads; the zones of the other worker are served at both nodes.
func TestStuckWorkerBesideOthers(t *testing.T) {
	t.Parallel()
	stick, reached := make(chan struct{}), make(chan struct{}, 1)
	config := func(name string, s stuck) node.Config {
		c := zonesConfig(t, name)
		c.Workers, c.Machines["stuck"] = 2, s
		return c
	}
	n1 := found(t, config("n1", stuck{stick: stick, reached: reached}))
	n2 := join(t, config("n2", stuck{}), n1)
	runWitnessOf(t, n1)
	sticking, other := n1.create("sticking", "stuck"), n1.create("other", "words")
	if (sticking.ID()-other.ID())%2 == 0 {
		t.Fatalf("zones %v and %v are on the same worker", sticking.ID(), other.ID())
	}
	for _, z := range []*node.Zone{sticking, other, n1.zone()} {
		stored(t, z, "k=v")
		n1.leads(z.ID(), n2)
	}
	awaitAsleep(t, n1, n2)

	defer close(stick) // or n1 would not stop
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { // its outcome does not matter
		defer close(ended)
		_, _ = sticking.Propose(ctx, nexusraft.RequestID{}, []byte("stick="))
	}()
	defer func() {
		cancel()
		<-ended
	}()
	select {
	case <-reached:
	case <-time.After(30 * time.Second):
		t.Fatal("the command is not applied")
	}
	eventually(t, "the other member leads what sticks", func() error {
		s, err := n2.zoneOf(sticking.ID()).Status(t.Context())
		if err == nil && s.State != nexusraft.Leader {
			err = fmt.Errorf("it is a %s", s.State)
		}
		return err
	})
	stored(t, n2.zoneOf(other.ID()), "k=w")
	if got := reads(t, other, "k"); got != "w" {
		t.Errorf("the other zone has %q", got)
	}
}
