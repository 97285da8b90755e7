package zone_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/zone"
)

// TestTranscripts plays the stories of testdata. A command is one line, the output is all
// that happens because of it. After each command the driver does all the rounds that a replica
// has work for; its messages stay in flight until they are delivered. The lines of a story, in the
// order of a round:
//
//	1 is leader at term 2 …  as raft has made the round
//	now   1->2 App t2 …      left before the write (I3)
//	1 applies 12/2 "a"       over the state in memory
//	1 writes …               that and all else, at once (I2)
//	1 tells proposal 1: …    how it ended (I8)
//	after 2->1 AppResp …     left after the write
//	lost  1->3 …             left, over a link that is cut
//	wait  2->1 …             stays, for its disk has not finished the append
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		s := &story{newWorld(t, 0)}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.command(d)
			if out := s.told(); out != "" {
				return out
			}
			return "ok\n"
		})
	})
}

// story is a world and the commands that move it.
type story struct{ *world }

// command plays one command. The ones that name a replica have it as first argument.
func (s *story) command(d *datadriven.TestData) {
	switch d.Cmd {
	case "new":
		s.cmdNew(d)
	case "heartbeats":
		s.quiet = s.has(d, "hide")
	case "deliver":
		s.deliver(s.matching(d))
	case "drop":
		s.drop(s.matching(d))
	case "stabilize":
		s.stabilize()
	case "cut", "mend":
		s.cmdCut(d)
	case "beat":
		s.cmdBeat(d)
	case "status":
		s.cmdStatus()
	default:
		s.nodeCommand(d, s.nodes[s.number(d.CmdArgs[0].Key)])
	}
}

func (s *story) nodeCommand(d *datadriven.TestData, n *node) {
	switch d.Cmd {
	case "join": // a node that waits to be admitted
		s.add(s.number(d.CmdArgs[0].Key), s.has(d, "witness"), newDisk(nil, nexusraft.Membership{}))
	case "campaign":
		s.report(s.campaign(n))
	case "tick":
		s.cmdTick(d, n)
	case "expire":
		s.cmdExpire(n)
	case "propose":
		s.cmdPropose(d, n)
	case "conf":
		s.cmdConf(d, n)
	case "transfer":
		s.report(zone.TransferLeader(n.r, nexusraft.ReplicaID(s.value(d, "to"))))
		s.run(n)
	case "leaving":
		n.r.ReportLeaving(nexusraft.ReplicaID(s.value(d, "who")))
		s.run(n)
	case "unreachable":
		n.r.ReportUnreachable(nexusraft.ReplicaID(s.value(d, "who")))
		s.run(n)
	case "read":
		n.group.Read(reading{n, d.CmdArgs[1].Key}, time.Time{})
		s.run(n)
	case "step":
		s.cmdStep(d, n)
	case "stall-sync":
		n.blocked = true
	case "stall-appends":
		n.slowAppend = true
	case "unstall":
		s.unblock(n)
	case "kill":
		s.stop(n)
		s.queueWithout(n.id)
	case "restart":
		s.start(n)
		s.run(n)
	case "compact":
		must(n.disk.Compact(uint64(n.disk.applied)))
	case "log":
		s.cmdLog(n)
	case "gate":
		s.cmdGate(n)
	default:
		s.t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
	}
}

// new members=(1,2) witnesses=3 hold=6
func (s *story) cmdNew(d *datadriven.TestData) {
	if d.HasArg("hold") {
		s.hold = int(s.value(d, "hold"))
	}
	s.found(s.list(d, "members"), s.list(d, "witnesses"))
	s.cmdStatus()
}

// beat LEADER [n]: so many times, a tick of the leader and everything that follows.
func (s *story) cmdBeat(d *datadriven.TestData) {
	for range s.times(d) {
		s.tick(s.nodes[s.number(d.CmdArgs[0].Key)])
		s.stabilize()
	}
}

func (s *story) cmdTick(d *datadriven.TestData, n *node) {
	for range s.times(d) {
		s.tick(n)
	}
}

// expire N: ticks a member until it asks for votes, however long its timeout is.
func (s *story) cmdExpire(n *node) {
	for range 20 {
		before := s.out.Len()
		s.tick(n)
		if strings.Contains(s.out.String()[before:], "PreVote") {
			return
		}
	}
	s.tellf("%d does not stand for election", n.id)
}

// propose LEADER a b c: one batch.
func (s *story) cmdPropose(d *datadriven.TestData, n *node) {
	var commands []string
	for _, a := range d.CmdArgs[1:] {
		commands = append(commands, a.Key)
	}
	_ = s.propose(n, commands...) // the calls tell
	s.run(n)
}

// conf LEADER 4=learner 2=removed
func (s *story) cmdConf(d *datadriven.TestData, n *node) {
	var c zone.ConfChange
	for _, a := range d.CmdArgs[1:] {
		id := s.number(a.Key)
		if role := nexusraft.Role(a.Vals[0]); role == "removed" {
			c.Remove = append(c.Remove, nexusraft.ReplicaID(id))
		} else {
			c.Set = append(c.Set, record(id, role))
		}
	}
	_ = s.change(n, c) // the call tells
	s.run(n)
}

// step N from=1 type=MsgTimeoutNow term=2: a message out of nothing.
func (s *story) cmdStep(d *datadriven.TestData, n *node) {
	var name string
	d.ScanArgs(s.t, "type", &name)
	typ, ok := raftpb.MessageType_value[name]
	if !ok {
		s.t.Fatalf("%s: no message type %s", d.Pos, name)
	}
	from := s.value(d, "from")
	m := &raftpb.Message{
		Type: raftpb.MessageType(typ).Enum(), From: new(from), To: new(n.id), Term: new(s.value(d, "term")),
	}
	s.report(s.step(n, m))
	s.run(n)
}

// cut 1 2 and mend 1 2, in both directions; oneway: only from the first to the second.
func (s *story) cmdCut(d *datadriven.TestData) {
	a, b := s.number(d.CmdArgs[0].Key), s.number(d.CmdArgs[1].Key)
	s.cut[[2]uint64{a, b}] = d.Cmd == "cut"
	if !s.has(d, "oneway") {
		s.cut[[2]uint64{b, a}] = d.Cmd == "cut"
	}
}

func (s *story) cmdStatus() {
	for _, n := range s.sorted() {
		if n.r == nil {
			s.tellf("%d is down", n.id)
			continue
		}
		st := n.r.Status()
		s.tellf("%d %s is %s; last=%d commit=%d applied=%d", n.id, st.Role, n.describe(), st.LastIndex, st.Commit, st.Applied)
	}
}

// log N: what is on the replica's disk.
func (s *story) cmdLog(n *node) {
	first, _ := n.disk.FirstIndex()
	last, _ := n.disk.LastIndex()
	s.tellf("first=%d last=%d %s", first, last, conf(n.disk.conf))
	if last >= first {
		entries, err := n.disk.Entries(first, last+1, 1<<20)
		must(err)
		s.tellf("%s", s.entries(entries))
	}
}

// gate N: the leader's gate, with R as it is now.
func (s *story) cmdGate(n *node) {
	s.tellf("%s", n.r.DescribeGate())
}

func (s *story) report(err error) {
	if err != nil {
		s.tellf("error: %v", err)
	}
}

func (s *story) queueWithout(id uint64) {
	kept := s.queue[:0]
	for _, m := range s.queue {
		if m.GetTo() != id {
			kept = append(kept, m)
		}
	}
	s.queue = kept
}

// matching reads from=, to= and type= of a command; what is not given matches everything.
func (s *story) matching(d *datadriven.TestData) func(*raftpb.Message) bool {
	var from, to uint64
	var typ string
	d.MaybeScanArgs(s.t, "from", &from)
	d.MaybeScanArgs(s.t, "to", &to)
	d.MaybeScanArgs(s.t, "type", &typ)
	return func(m *raftpb.Message) bool {
		return (from == 0 || m.GetFrom() == from) && (to == 0 || m.GetTo() == to) &&
			(typ == "" || m.GetType().String() == typ)
	}
}

func (s *story) has(d *datadriven.TestData, name string) bool {
	for _, a := range d.CmdArgs {
		if a.Key == name {
			return true
		}
	}
	return false
}

func (s *story) times(d *datadriven.TestData) uint64 {
	if len(d.CmdArgs) > 1 {
		return s.number(d.CmdArgs[1].Key)
	}
	return 1
}

func (s *story) value(d *datadriven.TestData, name string) (v uint64) {
	d.ScanArgs(s.t, name, &v)
	return v
}

func (s *story) list(d *datadriven.TestData, name string) (out []uint64) {
	for _, a := range d.CmdArgs {
		if a.Key == name {
			for _, v := range a.Vals {
				out = append(out, s.number(v))
			}
		}
	}
	return out
}

func (s *story) number(text string) uint64 {
	v, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("%q is not a number", text))
	}
	return v
}
