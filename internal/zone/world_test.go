package zone

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/cryptotest"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// The log of every replica that is there from the beginning starts behind this entry.
const (
	foundedIndex = 10
	foundedTerm  = 1
)

// disk is one replica's storage: raft's in-memory log, and beside it what a node keeps in
// the same atomic write.
type disk struct {
	*raft.MemoryStorage
	hard    *pb.HardState
	conf    *pb.ConfState
	members nexusraft.Membership
	applied nexusraft.Index
}

func newDisk(conf *pb.ConfState, members nexusraft.Membership) *disk {
	d := &disk{MemoryStorage: raft.NewMemoryStorage(), conf: &pb.ConfState{}}
	if conf == nil {
		return d // not admitted yet
	}
	must(d.ApplySnapshot(&pb.Snapshot{Metadata: &pb.SnapshotMetadata{
		Index: new(uint64(foundedIndex)), Term: new(uint64(foundedTerm)), ConfState: conf,
	}}))
	d.conf, d.members, d.applied = conf, members, foundedIndex
	d.hard = &pb.HardState{Term: new(uint64(foundedTerm)), Commit: new(uint64(foundedIndex))}
	return d
}

func (d *disk) InitialState() (*pb.HardState, *pb.ConfState, error) { return d.hard, d.conf, nil }

// Snapshot returns metadata and the records, as a node's log does.
func (d *disk) Snapshot() (*pb.Snapshot, error) {
	term, err := d.Term(uint64(d.applied))
	if err != nil {
		return nil, err
	}
	return &pb.Snapshot{Data: d.members.Encode(), Metadata: &pb.SnapshotMetadata{
		Index: new(uint64(d.applied)), Term: new(term), ConfState: d.conf,
	}}, nil
}

// write stores a round as a node does.
func (d *disk) write(w Work, r *Replica) error {
	if s := w.Snapshot; s != nil {
		members, err := nexusraft.DecodeMembership(s.GetData())
		if err != nil {
			return err
		}
		if err := d.ApplySnapshot(s); err != nil {
			return err
		}
		d.conf, d.members = s.GetMetadata().GetConfState(), members
		d.applied = nexusraft.Index(s.GetMetadata().GetIndex())
	}
	if err := d.Append(w.Append); err != nil {
		return err
	}
	if w.HardState != nil {
		d.hard = w.HardState
	}
	for _, c := range w.Committed {
		if c.ConfChange != nil {
			conf, members, err := r.ApplyConfChange(c.ConfChange)
			if err != nil {
				return err
			}
			d.conf, d.members = conf, members
		}
		d.applied = c.Index
	}
	return nil
}

// world is a zone of a few replicas and the messages between them. Everything that happens
// is told in out, one line each.
type world struct {
	out   strings.Builder
	nodes map[uint64]*node
	queue []*pb.Message         // in flight, oldest first
	cut   map[[2]uint64]bool    // links that lose everything, by sender and receiver
	quiet bool                  // heartbeats are not told
	data  map[[2]uint64]*string // what was proposed, by index and term

	hold        int    // ticks; 0: the default
	uncommitted uint64 // bytes; 0: the default
}

// node is one replica and its disk.
type node struct {
	id      uint64
	witness bool
	r       *Replica // nil: the process is down
	disk    *disk
	seen    string // what was last told of its role and its gate

	blocked    bool          // its sync does not return: the round stays open
	open       *Work         // that round
	slowAppend bool          // its disk takes appends and does not finish them; all else goes on
	unfinished []*pb.Message // answers that wait for such an append
	sequence   uint64
	incarn     nexusraft.Incarnation
}

func newWorld(t *testing.T, hold int) *world {
	cryptotest.SetGlobalRandom(t, 1) // raft's election timeouts
	return &world{
		nodes: make(map[uint64]*node), cut: make(map[[2]uint64]bool),
		data: make(map[[2]uint64]*string), hold: hold,
	}
}

// found starts a zone of members and witnesses whose logs all begin behind the same entry.
func (w *world) found(members, witnesses []uint64) {
	m := nexusraft.Membership{Shape: nexusraft.DefaultShape}
	for _, id := range members {
		m = m.With(record(id, nexusraft.RoleMember))
	}
	for _, id := range witnesses {
		m = m.With(record(id, nexusraft.RoleWitness))
	}
	conf := &pb.ConfState{Voters: slices.Concat(members, witnesses)}
	for _, id := range conf.Voters {
		w.add(id, slices.Contains(witnesses, id), newDisk(conf, m))
	}
}

func (w *world) add(id uint64, witness bool, d *disk) *node {
	n := &node{id: id, witness: witness, disk: d}
	w.nodes[id] = n
	w.start(n)
	return n
}

func (w *world) start(n *node) {
	n.incarn++
	n.sequence = 0
	r, err := New(Config{
		Zone: nexusraft.RootZone, Replica: nexusraft.ReplicaID(n.id), Incarnation: n.incarn, Witness: n.witness,
		Storage: n.disk, Applied: n.disk.applied, Membership: n.disk.members, HoldTicks: w.hold,
		MaxUncommittedBytes: w.uncommitted,
	})
	must(err)
	n.r = r
	n.seen = n.describe()
}

func (w *world) stop(n *node) {
	n.r, n.open, n.blocked, n.slowAppend, n.unfinished = nil, nil, false, false, nil
}

func record(id uint64, role nexusraft.Role) nexusraft.Member {
	return nexusraft.Member{
		Replica: nexusraft.ReplicaID(id), Node: nodeOf(id), Role: role, Address: fmt.Sprintf("127.0.0.1:%d", 2000+id),
	}
}

func nodeOf(id uint64) nexusraft.NodeID { return nexusraft.NodeID(100 + id) }

func (w *world) sorted() []*node {
	var out []*node
	for _, id := range slices.Sorted(maps.Keys(w.nodes)) {
		out = append(out, w.nodes[id])
	}
	return out
}

func (w *world) tellf(format string, args ...any) { fmt.Fprintf(&w.out, format+"\n", args...) }

// told returns what has been told since the last call.
func (w *world) told() string {
	s := w.out.String()
	w.out.Reset()
	return s
}

// run does the rounds that a replica has work for.
func (w *world) run(n *node) {
	for n.r != nil && n.open == nil && n.r.HasWork() {
		work, err := n.r.Ready()
		if err != nil {
			w.tellf("%d stops: %v", n.id, err)
			w.stop(n)
			return
		}
		w.remember(work)
		w.tellState(n)
		w.send(n, "now", work.SendNow)
		if n.blocked && !work.Empty() {
			w.tellf("%d is blocked in a sync: %s", n.id, w.writes(work))
			n.open = &work
			return
		}
		w.finish(n, work)
	}
}

// finish ends a round: the write is done.
func (w *world) finish(n *node, work Work) {
	n.open = nil
	if s := w.writes(work); s != "" {
		w.tellf("%d writes %s", n.id, s)
	}
	must(n.disk.write(work, n.r))
	for _, c := range work.Committed {
		w.tellf("%d applies %s", n.id, w.committed(c, n))
	}
	for _, o := range work.Outcomes {
		w.tellf("%d tells proposal %d: %v", n.id, o.Proposal.Sequence, o.Err)
	}
	for _, x := range work.Reads {
		w.tellf("%d may serve read %q from %d on", n.id, x.Context, x.Index)
	}
	n.r.Advance()
	w.send(n, "after", work.AfterSync)
}

// unblock lets the sync and the appends of a replica finish.
func (w *world) unblock(n *node) {
	n.blocked, n.slowAppend = false, false
	if n.open != nil {
		w.finish(n, *n.open)
	}
	late := n.unfinished
	n.unfinished = nil
	w.send(n, "after", late)
	w.run(n)
}

func (w *world) send(n *node, when string, msgs []*pb.Message) {
	for _, m := range msgs {
		if n.slowAppend && m.GetType() == pb.MsgAppResp && !m.GetReject() {
			n.unfinished = append(n.unfinished, m)
			w.tellf("  wait  %s", w.message(m))
			continue
		}
		label := when
		if w.cut[[2]uint64{m.GetFrom(), m.GetTo()}] {
			label = "lost"
		} else {
			w.queue = append(w.queue, proto.Clone(m).(*pb.Message))
		}
		if !w.quiet || m.GetType() != pb.MsgHeartbeat && m.GetType() != pb.MsgHeartbeatResp {
			w.tellf("  %-5s %s", label, w.message(m))
		}
	}
}

// deliver hands over the messages in flight that match, once; it reports whether there
// was one.
func (w *world) deliver(match func(*pb.Message) bool) bool {
	var now, later []*pb.Message
	for _, m := range w.queue {
		if match(m) && w.takes(m) {
			now = append(now, m)
		} else {
			later = append(later, m)
		}
	}
	w.queue = later
	for _, m := range now {
		n := w.nodes[m.GetTo()]
		if n == nil || n.r == nil {
			continue
		}
		if err := n.r.Step(nodeOf(m.GetFrom()), m); err != nil {
			w.tellf("%d refuses: %v", n.id, err)
		}
		w.run(n)
	}
	return len(now) > 0
}

// takes reports whether the receiver looks at its messages: one that is blocked in a sync
// does not.
func (w *world) takes(m *pb.Message) bool {
	n := w.nodes[m.GetTo()]
	return n == nil || n.open == nil
}

// stabilize delivers until nothing is in flight.
func (w *world) stabilize() {
	for i := 0; w.deliver(func(*pb.Message) bool { return true }); i++ {
		if i > 1000 {
			panic("the zone does not come to rest")
		}
	}
}

func (w *world) drop(match func(*pb.Message) bool) {
	w.queue = slices.DeleteFunc(w.queue, func(m *pb.Message) bool {
		if match(m) {
			w.tellf("  drop  %s", w.message(m))
		}
		return match(m)
	})
}

func (w *world) tick(n *node) {
	if n.r == nil || n.open != nil {
		return
	}
	n.r.Tick()
	w.run(n)
}

func (w *world) campaign(n *node) error {
	err := n.r.Campaign()
	w.run(n)
	return err
}

// propose hands over commands in one batch and returns their identities.
func (w *world) propose(n *node, commands ...string) ([]ProposalID, error) {
	var ids []ProposalID
	var envelopes []Envelope
	for _, c := range commands {
		n.sequence++
		id := ProposalID{nexusraft.ReplicaID(n.id), n.incarn, n.sequence}
		ids = append(ids, id)
		envelopes = append(envelopes, Envelope{Proposal: id, Command: []byte(c)})
	}
	return ids, n.r.Propose(envelopes)
}

func (w *world) change(n *node, c ConfChange) error {
	n.sequence++
	return n.r.ProposeConfChange(ProposalID{nexusraft.ReplicaID(n.id), n.incarn, n.sequence}, c)
}

// remember keeps what entries carry, so that a stripped one can be told from an empty one.
func (w *world) remember(work Work) {
	for _, e := range work.Append {
		key := [2]uint64{e.GetIndex(), e.GetTerm()}
		if env, err := DecodeEnvelope(e.GetData()); err == nil && w.data[key] == nil {
			w.data[key] = new(string(env.Command))
		}
	}
}

func (w *world) tellState(n *node) {
	if now := n.describe(); now != n.seen {
		w.tellf("%d is %s", n.id, now)
		n.seen = now
	}
}

func (n *node) describe() string {
	s := n.r.Status()
	out := fmt.Sprintf("%s at term %d", s.State, s.Term)
	switch {
	case s.Sync != nexusraft.SyncUnknown:
		out += ", " + string(s.Sync)
	case s.Leader != 0:
		out += fmt.Sprintf(" of %d", uint64(s.Leader))
	}
	return out
}

func (w *world) writes(work Work) string {
	var parts []string
	if s := work.Snapshot; s != nil {
		parts = append(parts, "snapshot "+snapshot(s))
	}
	if len(work.Append) > 0 {
		parts = append(parts, w.entries(work.Append))
	}
	if h := work.HardState; h != nil {
		parts = append(parts, fmt.Sprintf("term=%d vote=%d commit=%d", h.GetTerm(), h.GetVote(), h.GetCommit()))
	}
	if work.MustSync {
		parts = append(parts, "synced")
	}
	return strings.Join(parts, " ")
}

func (w *world) committed(c Committed, n *node) string {
	out := fmt.Sprintf("%d/%d", c.Index, c.Term)
	switch {
	case c.ConfChange != nil:
		out += fmt.Sprintf(" %s: %s", change(c.ConfChange), conf(n.disk.conf))
	case c.Command != nil:
		out += fmt.Sprintf(" %q", c.Command.Command)
	}
	if c.Waiting != (ProposalID{}) {
		out += fmt.Sprintf(", the end of proposal %d on %d copies", c.Waiting.Sequence, n.r.Copies(c.Index))
	}
	return out
}

func (w *world) message(m *pb.Message) string {
	out := fmt.Sprintf("%d->%d %s t%d", m.GetFrom(), m.GetTo(), strings.TrimPrefix(m.GetType().String(), "Msg"), m.GetTerm())
	switch m.GetType() {
	case pb.MsgApp:
		out += fmt.Sprintf(" after %d/%d commit=%d %s", m.GetIndex(), m.GetLogTerm(), m.GetCommit(), w.entries(m.GetEntries()))
	case pb.MsgHeartbeat:
		out += fmt.Sprintf(" commit=%d", m.GetCommit())
	case pb.MsgVote, pb.MsgPreVote:
		out += fmt.Sprintf(" last=%d/%d", m.GetIndex(), m.GetLogTerm())
	case pb.MsgSnap:
		out += " " + snapshot(m.GetSnapshot())
	case pb.MsgAppResp, pb.MsgReadIndexResp:
		out += fmt.Sprintf(" index=%d", m.GetIndex())
	}
	if m.GetReject() {
		out += " rejected"
	}
	if m.GetType() == pb.MsgAppResp && m.GetReject() {
		out += fmt.Sprintf(" hint=%d/%d", m.GetRejectHint(), m.GetLogTerm())
	}
	return out
}

func (w *world) entries(entries []*pb.Entry) string {
	parts := make([]string, len(entries))
	for i, e := range entries {
		parts[i] = w.entry(e)
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

func (w *world) entry(e *pb.Entry) string {
	out := fmt.Sprintf("%d/%d", e.GetIndex(), e.GetTerm())
	switch env, err := DecodeEnvelope(e.GetData()); {
	case e.GetType() != pb.EntryNormal:
		return out + " " + change(e)
	case err == nil:
		return fmt.Sprintf("%s %q", out, env.Command)
	case len(e.GetData()) > 0:
		return out + " unreadable"
	case w.data[[2]uint64{e.GetIndex(), e.GetTerm()}] != nil:
		return out + " stripped"
	default:
		return out + " empty"
	}
}

func change(e *pb.Entry) string {
	c, err := decodeConfChange(e)
	if err != nil {
		return "unreadable"
	}
	if len(c.raft.GetChanges()) == 0 {
		return "leave joint"
	}
	var parts []string
	for _, m := range c.context.Set {
		parts = append(parts, fmt.Sprintf("%d=%s", uint64(m.Replica), m.Role))
	}
	for _, x := range c.raft.GetChanges() {
		if x.GetType() == pb.ConfChangeRemoveNode {
			parts = append(parts, fmt.Sprintf("%d=removed", x.GetNodeId()))
		}
	}
	return "(" + strings.Join(parts, " ") + ")"
}

func conf(cs *pb.ConfState) string {
	out := fmt.Sprintf("voters %v", cs.GetVoters())
	if len(cs.GetVotersOutgoing()) > 0 {
		out += fmt.Sprintf(" outgoing %v", cs.GetVotersOutgoing())
	}
	if len(cs.GetLearners()) > 0 {
		out += fmt.Sprintf(" learners %v", cs.GetLearners())
	}
	return out
}

func snapshot(s *pb.Snapshot) string {
	return fmt.Sprintf("%d/%d %s", s.GetMetadata().GetIndex(), s.GetMetadata().GetTerm(), conf(s.GetMetadata().GetConfState()))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
