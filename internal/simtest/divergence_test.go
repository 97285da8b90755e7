package simtest

import (
	"errors"
	"fmt"
	"math"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// TestMachineThatDiffers has one member's state machine write who it is, as none may: whoever leads
// and whatever breaks, the digests are compared, and the member that differs from its leader stops. That is
// the other one where the machine that lies leads, whose state is then the zone's. The other one never stops, too.
func TestMachineThatDiffers(t *testing.T) {
	forSeeds(t, 10, func(t *testing.T, seed uint64) { machineThatDiffers(t, seed, true) })
	for _, seed := range []uint64{466, 544} { // an election between a comparison and its answer stopped both
		t.Run(fmt.Sprint(seed), func(t *testing.T) { machineThatDiffers(t, seed, false) })
	}
}

func machineThatDiffers(t *testing.T, seed uint64, batches bool) {
	s := newSimAt(t, seed, false, nexusraft.Index(100+seed%100))
	if !batches { // as it was when the seed was found
		s.batchesFrom = math.MaxInt64
	}
	s.liar, s.lies = s.members()[seed%2], nexusraft.Index(s.between(200, 600))
	s.clients.add(4)
	s.callers.add(2)
	s.until("in sync for the first time", 400, s.inSync)
	s.faults.on = seed%3 != 0
	s.until("a member stops", 4000, func() bool { return s.stopped() != nil })
	first := s.stopped()
	differs, ok := errors.AsType[*system.DivergedError](first.failed)
	if !ok || differs.Index < s.lies {
		t.Errorf("%s stops with %v; the machine of %s lies from %d on", first, first.failed, s.liar, s.lies)
	}
	for end := s.tick() + 200; s.tick() < end; {
		s.step()
		for _, n := range s.members() {
			if n != first && n.failed != nil {
				t.Fatalf("after %s, %s stops, too: %v", first, n, n.failed)
			}
		}
	}
}

// stopped returns a member whose zone has stopped there; nil if none has.
func (s *sim) stopped() *node {
	for _, n := range s.members() {
		if n.failed != nil {
			return n
		}
	}
	return nil
}
