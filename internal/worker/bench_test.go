package worker

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/propose"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// BenchmarkProposals is what a command costs on its way through the worker, beside the state machine
// and the disk: with an entry for each, and with entries of several.
func BenchmarkProposals(b *testing.B) {
	for _, batches := range []bool{false, true} {
		b.Run(fmt.Sprintf("batches %t", batches), func(b *testing.B) { benchmarkProposals(b, batches) })
	}
}

func benchmarkProposals(b *testing.B, batches bool) {
	w := newIdleWorker(b, false)
	if batches {
		w.batching()
	}
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

// hashing is a state machine that takes some time over each command.
type hashing struct{ kib int }

// Alone implements nexusraft.Batched.
func (hashing) Alone([]byte) bool { return false }

func (h hashing) Apply(tx nexusraft.Tx, cmd nexusraft.Command) ([]byte, error) {
	sum := sha256.New()
	for range h.kib {
		sum.Write(make([]byte, 1<<10))
	}
	return nil, tx.Set(cmd.Data, sum.Sum(nil))
}

// BenchmarkZonesOnWorkers is what a command costs where 16 zones have one worker or two, by what its state machine
// does; without network, on a disk in memory.
func BenchmarkZonesOnWorkers(b *testing.B) {
	for _, kib := range []int{0, 16} {
		for _, workers := range []int{1, 2} {
			b.Run(fmt.Sprintf("hash %d KiB/%d workers", kib, workers), func(b *testing.B) {
				benchmarkZones(b, workers, hashing{kib})
			})
		}
	}
}

func benchmarkZones(b *testing.B, workers int, machine nexusraft.StateMachine) {
	const zones = 16
	disk := storage.NewMemFS()
	found(b, disk)
	w, err := reopenWith(workers, disk, false, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	for _, x := range w.ask.workers {
		x.o.Machines["keeping"] = machine // which all of them share
	}
	stop := w.runs(b)
	if err := w.ask.OpenZones(); err != nil {
		b.Fatal(err)
	}
	close(w.ready)
	w.awaitZones(b, 1)
	made := []*pb.NodeCommand{raise()}
	for i := range zones {
		made = append(made, create(fmt.Sprint("z", i), w.ID()))
	}
	w.proposes(b, made...)
	w.awaitZones(b, zones+1)
	b.ResetTimer()
	b.SetParallelism(64)
	var n atomic.Uint64
	b.RunParallel(func(p *testing.PB) {
		zone := nexusraft.ZoneID(2 + n.Add(1)%zones)
		for p.Next() {
			if _, err := w.ask.Propose(b.Context(), transport.Proposal{Zone: zone, Command: []byte("key")}); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	if err := stop(); err != nil {
		b.Error(err)
	}
}
