package worker

import (
	"testing"

	"github.com/nexi-lab/nexus-raft/internal/propose"
)

// BenchmarkProposals is what a command costs on its way through the worker, beside the state machine
// and the disk.
func BenchmarkProposals(b *testing.B) {
	w := newIdleWorker(b, false)
	h := host(b, w)
	if err := h.replica.Campaign(); err != nil {
		b.Fatal(err)
	}
	w.turns(b)
	const together = 100
	ps := make([]*propose.Call, together)
	for b.Loop() {
		for i := range ps {
			ps[i] = propose.New(h.id)
			ps[i].Command = []byte("key")
		}
		h.propose(ps)
		w.turns(b)
		for _, p := range ps {
			if _, err := p.Wait(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
}
