package zone_test

import (
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// What a fuzzed message is given, by the bits of the byte before it: plausible values, so
// that it gets past the first checks.
const (
	patchTo = 1 << iota
	patchFrom
	patchFromOther
	patchTerm
	patchTermNext
	thenRun      // do the rounds
	thenTick     // and tick for longer than an election timeout
	fromStranger // nobody knows the sender
)

// FuzzStep steps sequences of arbitrary messages into a follower, a leader and a witness:
// nothing panics, and what is refused leaves the status as it was. Nothing but answers of a
// witness or a stranger counts at all (I13).
func FuzzStep(f *testing.F) {
	for _, tt := range refusals {
		f.Add(byte(0), sequence(patchTo|thenRun|thenTick, tt.m))
		f.Add(byte(1), sequence(patchTo|patchFrom, tt.m, tt.m))
	}
	for target := range byte(3) {
		for _, m := range plausible() {
			f.Add(target, sequence(patchTo|patchFrom|patchTerm|thenRun, m, m))
			f.Add(target, sequence(patchTo|patchFromOther|patchTermNext, m, from(1, 2, raftpb.MsgHeartbeat, nil)))
			f.Add(target, sequence(patchTo|fromStranger|patchTermNext|thenRun, m, m))
		}
		f.Add(target, sequence(patchTo|patchFrom|patchTerm, plausible()...))
		f.Add(target, sequence(patchTo|patchFrom|patchTermNext|thenRun|thenTick, plausible()...))
	}
	f.Fuzz(func(t *testing.T, target byte, data []byte) {
		w := ledZone(t)
		n := w.nodes[[]uint64{2, 1, 3}[target%3]]
		for len(data) >= 3 {
			flags, size := data[0], int(binary.BigEndian.Uint16(data[1:]))
			data = data[3:]
			body := data[:min(size, len(data))]
			data = data[len(body):]
			m := &raftpb.Message{}
			if proto.Unmarshal(body, m) != nil {
				continue
			}
			patch(m, n, flags)
			stepFuzzed(t, w, n, m)
			if flags&thenRun != 0 && !runFuzzed(t, w, n, flags&thenTick != 0) {
				return // it stopped with an error, as it should
			}
		}
		runFuzzed(t, w, n, true)
	})
}

// plausible are messages that get through the checks.
func plausible() []*raftpb.Message {
	return []*raftpb.Message{
		from(1, 2, raftpb.MsgHeartbeat, func(m *raftpb.Message) { m.Commit = new(uint64(11)) }),
		from(1, 2, raftpb.MsgApp, appends(11, 2, entryAt(12, 2), commandAt(13, 2))),
		from(1, 2, raftpb.MsgApp, appends(12, 2, &raftpb.Entry{
			Type: raftpb.EntryConfChangeV2.Enum(), Index: new(uint64(13)),
			Term: new(uint64(2)),
		})),
		from(1, 2, raftpb.MsgSnap, snapshotWith(func(*raftpb.Snapshot) {})),
		from(1, 2, raftpb.MsgVote, func(m *raftpb.Message) { m.Index, m.LogTerm = new(uint64(11)), new(uint64(2)) }),
		from(1, 2, raftpb.MsgPreVote, func(m *raftpb.Message) { m.Index, m.LogTerm = new(uint64(11)), new(uint64(2)) }),
		from(1, 2, raftpb.MsgVoteResp, nil),
		from(1, 2, raftpb.MsgPreVoteResp, nil),
		from(1, 2, raftpb.MsgTimeoutNow, nil),
		from(1, 2, raftpb.MsgAppResp, func(m *raftpb.Message) { m.Index = new(uint64(11)) }),
		from(1, 2, raftpb.MsgAppResp, func(m *raftpb.Message) {
			m.Index, m.Reject, m.RejectHint, m.LogTerm = new(uint64(11)), new(true), new(uint64(10)), new(uint64(1))
		}),
		from(1, 2, raftpb.MsgHeartbeatResp, func(m *raftpb.Message) { m.Context = make([]byte, 8) }),
		from(1, 2, raftpb.MsgReadIndex, func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{{Data: []byte("read")}} }),
		from(1, 2, raftpb.MsgReadIndexResp, func(m *raftpb.Message) { m.Entries = []*raftpb.Entry{{Data: []byte("read")}} }),
	}
}

func sequence(flags byte, msgs ...*raftpb.Message) []byte {
	var out []byte
	for _, m := range msgs {
		body, err := proto.Marshal(m)
		must(err)
		out = append(out, flags)
		out = binary.BigEndian.AppendUint16(out, uint16(len(body)))
		out = append(out, body...)
	}
	return out
}

func patch(m *raftpb.Message, n *node, flags byte) {
	others := map[uint64][2]uint64{1: {2, 3}, 2: {1, 3}, 3: {1, 2}}[n.id]
	term := uint64(n.r.Status().Term)
	if flags&patchTo != 0 {
		m.To = new(n.id)
	}
	switch {
	case flags&fromStranger != 0:
		m.From = new(uint64(strangers))
	case flags&patchFrom != 0:
		m.From = new(others[0])
	case flags&patchFromOther != 0:
		m.From = new(others[1])
	}
	switch {
	case flags&patchTerm != 0:
		m.Term = new(term)
	case flags&patchTermNext != 0:
		m.Term = new(term + 1)
	}
}

func stepFuzzed(t *testing.T, w *world, n *node, m *raftpb.Message) {
	t.Helper()
	text := m.String()
	before, hard, work := n.r.Status(), n.r.HardState(), n.r.HasWork()
	answersOnly := !n.r.IsFull(m) || m.GetFrom() >= strangers
	err := w.step(n, m)
	if answersOnly && !zone.IsAnswer(m) {
		if !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("got %v, want ErrRefused for what is no answer of a witness or a stranger:\n%s", err, text)
		}
		if now := n.r.HardState(); !proto.Equal(now, hard) || !work && n.r.HasWork() {
			t.Errorf("a refused message changed term, vote, commit or log from %v to %v:\n%s", hard, now, text)
		}
	}
	if errors.Is(err, nexusraft.ErrRefused) && !reflect.DeepEqual(before, n.r.Status()) {
		t.Errorf("refused with %v and still changed the status from\n%+v to\n%+v by\n%s", err, before, n.r.Status(), text)
	}
	if n.witness && n.r.Status().State != nexusraft.Follower {
		t.Errorf("a witness is %s after\n%s", n.r.Status().State, text)
	}
}

// runFuzzed has the driver do the rounds; false: the zone had to stop.
func runFuzzed(t *testing.T, w *world, n *node, ticks bool) bool {
	t.Helper()
	w.run(n)
	for i := 0; i < 30 && n.r != nil && (ticks || i == 0); i++ {
		w.tick(n)
	}
	w.queue = nil
	if n.r == nil {
		if !errors.Is(n.err, nexusraft.ErrCorrupt) {
			t.Errorf("it stopped with %v, want ErrCorrupt", n.err)
		}
		return false
	}
	if s := n.r.Status(); s.Applied > s.Commit || s.Commit > s.LastIndex {
		t.Errorf("got applied %d, commit %d, last index %d: they must not descend", s.Applied, s.Commit, s.LastIndex)
	}
	return true
}
