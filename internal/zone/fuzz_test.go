package zone

import (
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// What a fuzzed message is given, by the bits of the byte before it: plausible values, so
// that it gets past the first checks.
const (
	patchTo = 1 << iota
	patchFrom
	patchFromOther
	patchTerm
	patchTermNext
	thenRun  // do the rounds
	thenTick // and tick for longer than an election timeout
)

// FuzzStep steps sequences of arbitrary messages into a follower, a leader and a witness:
// nothing panics, and what is refused leaves the status as it was.
func FuzzStep(f *testing.F) {
	for _, tt := range refusals {
		f.Add(byte(0), sequence(patchTo|thenRun|thenTick, tt.m))
		f.Add(byte(1), sequence(patchTo|patchFrom, tt.m, tt.m))
	}
	for target := range byte(3) {
		for _, m := range plausible() {
			f.Add(target, sequence(patchTo|patchFrom|patchTerm|thenRun, m, m))
			f.Add(target, sequence(patchTo|patchFromOther|patchTermNext, m, from(1, 2, pb.MsgHeartbeat, nil)))
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
			m := &pb.Message{}
			if proto.Unmarshal(body, m) != nil {
				continue
			}
			patch(m, n, flags)
			stepFuzzed(t, n, m)
			if flags&thenRun != 0 && !runFuzzed(t, n, flags&thenTick != 0) {
				return // it stopped with an error, as it should
			}
		}
		runFuzzed(t, n, true)
	})
}

// plausible are messages that get through the checks.
func plausible() []*pb.Message {
	return []*pb.Message{
		from(1, 2, pb.MsgHeartbeat, func(m *pb.Message) { m.Commit = new(uint64(11)) }),
		from(1, 2, pb.MsgApp, appends(11, 2, entryAt(12, 2), carrying(13, 2, proposal(1)))),
		from(1, 2, pb.MsgApp, appends(12, 2, &pb.Entry{Type: pb.EntryConfChangeV2.Enum(), Index: new(uint64(13)), Term: new(uint64(2))})),
		from(1, 2, pb.MsgSnap, snapshotWith(func(*pb.Snapshot) {})),
		from(1, 2, pb.MsgVote, func(m *pb.Message) { m.Index, m.LogTerm = new(uint64(11)), new(uint64(2)) }),
		from(1, 2, pb.MsgPreVote, func(m *pb.Message) { m.Index, m.LogTerm = new(uint64(11)), new(uint64(2)) }),
		from(1, 2, pb.MsgVoteResp, nil),
		from(1, 2, pb.MsgPreVoteResp, nil),
		from(1, 2, pb.MsgTimeoutNow, nil),
		from(1, 2, pb.MsgAppResp, func(m *pb.Message) { m.Index = new(uint64(11)) }),
		from(1, 2, pb.MsgAppResp, func(m *pb.Message) {
			m.Index, m.Reject, m.RejectHint, m.LogTerm = new(uint64(11)), new(true), new(uint64(10)), new(uint64(1))
		}),
		from(1, 2, pb.MsgHeartbeatResp, func(m *pb.Message) { m.Context = make([]byte, 8) }),
		from(1, 2, pb.MsgReadIndex, func(m *pb.Message) { m.Entries = []*pb.Entry{{Data: []byte("read")}} }),
		from(1, 2, pb.MsgReadIndexResp, func(m *pb.Message) { m.Entries = []*pb.Entry{{Data: []byte("read")}} }),
	}
}

func sequence(flags byte, msgs ...*pb.Message) []byte {
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

func patch(m *pb.Message, n *node, flags byte) {
	others := map[uint64][2]uint64{1: {2, 3}, 2: {1, 3}, 3: {1, 2}}[n.id]
	term := uint64(n.r.Status().Term)
	if flags&patchTo != 0 {
		m.To = new(n.id)
	}
	switch {
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

func stepFuzzed(t *testing.T, n *node, m *pb.Message) {
	t.Helper()
	text := m.String()
	before := n.r.Status()
	err := n.r.Step(nodeOf(m.GetFrom()), m)
	if errors.Is(err, nexusraft.ErrRefused) && !reflect.DeepEqual(before, n.r.Status()) {
		t.Errorf("refused with %v and still changed the status from\n%+v to\n%+v by\n%s", err, before, n.r.Status(), text)
	}
	if n.witness && n.r.Status().State != nexusraft.Follower {
		t.Errorf("a witness is %s after\n%s", n.r.Status().State, text)
	}
}

// runFuzzed does the rounds; false: the zone had to stop.
func runFuzzed(t *testing.T, n *node, ticks bool) bool {
	t.Helper()
	for i := range 30 {
		for n.r.HasWork() {
			work, err := n.r.Ready()
			if err == nil {
				err = n.disk.write(work, n.r)
			}
			if err != nil {
				if !errors.Is(err, nexusraft.ErrCorrupt) {
					t.Errorf("it stopped with %v, want ErrCorrupt", err)
				}
				return false
			}
			n.r.Advance()
		}
		if !ticks && i > 0 {
			break
		}
		n.r.Tick()
	}
	if s := n.r.Status(); s.Applied > s.Commit || s.Commit > s.LastIndex {
		t.Errorf("got applied %d, commit %d, last index %d: they must not descend", s.Applied, s.Commit, s.LastIndex)
	}
	return true
}
