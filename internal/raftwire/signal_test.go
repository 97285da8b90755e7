package raftwire

import (
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/transport"
)

// signalWire is a Network that keeps what leaves.
type signalWire map[nexusraft.NodeID]transport.Message

func (w signalWire) Send(to nexusraft.NodeID, class transport.Class, m transport.Message) {
	if class == transport.Control {
		w[to] = m
	}
}

func (w signalWire) RequestVote(nexusraft.NodeID, []transport.Vote, func([]transport.VoteResult, error)) {
}

// A signal goes to the nodes that know signals, and comes back as it was; nothing else of its kind
// is taken.
func TestSignal(t *testing.T) {
	t.Parallel()
	sent, said := signalWire{}, zone.Signal{Incarnation: 1 << 40, Changes: 3}
	o := Outbox{Network: sent}
	o.Signal([]nexusraft.NodeID{1, 2, 3}, said, func(n nexusraft.NodeID) (uint32, bool) { return uint32(n) + 2, true })
	if _, ok := sent[2]; !ok || len(sent) != 2 || sent[1].Data != nil {
		t.Fatalf("a signal left for %v", sent)
	}
	if got, ok := decodeSignal(sent[2]); !ok || got != said {
		t.Errorf("got %v, %v", got, ok)
	}
	r, log, _ := receiving(false)
	r.Receive(7, []transport.Message{{Data: sent[2].Data[1:]}})
	if log.Len() == 0 {
		t.Error("a signal that can't be read is not told of")
	}
}

func FuzzDecodeSignal(f *testing.F) {
	f.Add(uint64(0), encodeSignal(zone.Signal{Incarnation: 1, Changes: 2}))
	f.Fuzz(func(t *testing.T, id uint64, b []byte) {
		m := transport.Message{Zone: nexusraft.ZoneID(id), Data: b}
		if s, ok := decodeSignal(m); ok && (id != 0 || string(encodeSignal(s)) != string(b)) {
			t.Errorf("%x of zone %d becomes %v", b, id, s)
		}
	})
}
