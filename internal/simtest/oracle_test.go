package simtest

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/apply"
	"github.com/nexi-lab/nexus-raft/internal/system"
	"github.com/nexi-lab/nexus-raft/internal/zone"
	"github.com/nexi-lab/nexus-raft/kv"
)

// oracle sees everything and holds the rules of docs/invariants.md against it, after each
// thing that happens. A rule that is broken ends the run.
type oracle struct {
	s *sim

	entries   map[entryID]entryFact              // every entry that was ever in a log
	leaders   map[nexusraft.Term]*node           // at most one for each term
	released  map[nexusraft.Term]nexusraft.Index // the highest index a term's leader sent to a witness
	committed map[position]commitFact
	last      position                     // of committed
	ends      map[nexusraft.Index]position // the last one of each committed entry
	ledger    *ledger                      // what the committed commands make
	states    map[position]uint64          // the hash of its registers after each of them
	digests   map[position]system.Digest
	wholes    map[nexusraft.Index]uint64          // of all that a member keeps, after some indexes
	hashes    map[hashed]uint32                   // of key spaces
	sessions  map[nexusraft.Index]map[uint64]bool // which of those registered are remembered, after the same
	proposals map[zone.ProposalID]position
	never     map[zone.ProposalID]bool // told that they never commit
	together  int                      // committed commands that were not the first of their entry
	acked     int
	inSync    int // of acked

	lastAcked nexusraft.Index           // the highest index of a write that was acknowledged
	ackedBy   map[int64]nexusraft.Index // that, as of the end of each step
	fresh     int                       // how many times a replica knew its state to be of bounded age
}

// position is that of a command, or of an entry without one, in the log.
type position struct {
	index nexusraft.Index
	place int
}

func positionOf(c *zone.Committed) position {
	if c.Command == nil {
		return position{index: c.Index}
	}
	return position{c.Index, c.Command.Place}
}

func (p position) compare(q position) int {
	return cmp.Or(cmp.Compare(p.index, q.index), cmp.Compare(p.place, q.place))
}

type entryID struct {
	index nexusraft.Index
	term  nexusraft.Term
}

type entryFact struct {
	before  nexusraft.Term // of the entry before it
	content uint64         // hash of type and data
	full    bool           // content is known: the entry was seen on a full replica
	conf    bool           // it is a conf change
}

type commitFact struct {
	term     nexusraft.Term
	proposal zone.ProposalID
	request  nexusraft.RequestID
	command  string
}

func newOracle(s *sim) *oracle {
	o := &oracle{
		s: s, last: position{index: s.first},
		entries:   make(map[entryID]entryFact),
		leaders:   make(map[nexusraft.Term]*node),
		released:  make(map[nexusraft.Term]nexusraft.Index),
		committed: make(map[position]commitFact),
		ends:      make(map[nexusraft.Index]position),
		ledger:    newLedger(),
		digests:   make(map[position]system.Digest),
		wholes:    make(map[nexusraft.Index]uint64),
		hashes:    make(map[hashed]uint32),
		sessions:  make(map[nexusraft.Index]map[uint64]bool),
		states:    make(map[position]uint64),
		proposals: make(map[zone.ProposalID]position),
		never:     make(map[zone.ProposalID]bool),
		ackedBy:   make(map[int64]nexusraft.Index),
	}
	o.states[o.last], o.ends[s.first] = o.hash(), o.last
	return o
}

// reopened checks what a restart finds: all that was synced, and nothing else (I1, I2, I7).
func (o *oracle) reopened(n *node, log raft.Storage) {
	if err := n.shadow.reopen(log); err != nil {
		o.s.fatalf("I2: %s restarts with another disk than it left: %v", n.name, err)
	}
	if d, ok := n.disk.(*memberDisk); ok && d.log.Applied() != 0 && o.s.liar == nil {
		o.checkState(n)
		o.checkWhole(n, d.log.Applied(), d.state)
	}
}

// looked checks a replica after each step of it: a witness never leads (I11).
func (o *oracle) looked(n *node) {
	if !n.witness {
		return
	}
	if st := n.r.Status().State; st != nexusraft.Follower {
		o.s.fatalf("I11: the witness is a %s", st)
	}
}

// worked takes over a round before anything of it is done.
func (o *oracle) worked(n *node, w *zone.Work) {
	n.shadow.stage(w)
	for _, e := range w.Append {
		o.appended(n, e)
	}
	if id, self := n.r.Leader(); self {
		o.leads(n, id)
	}
	for _, c := range w.Committed {
		o.commits(n, c)
	}
}

// appended checks log matching (I7): the same index and term mean the same entry, and the
// same entry before it.
func (o *oracle) appended(n *node, e *raftpb.Entry) {
	id := entryID{nexusraft.Index(e.GetIndex()), nexusraft.Term(e.GetTerm())}
	fact := entryFact{
		before: n.shadow.staged.at(id.index - 1), full: !n.witness || e.GetType() != raftpb.EntryNormal,
		conf: e.GetType() != raftpb.EntryNormal,
	}
	if n.witness && e.GetType() == raftpb.EntryNormal && len(e.GetData()) > 0 {
		o.s.fatalf("%s was sent the payload of entry %d", n.name, id.index)
	}
	if fact.full {
		h := fnv.New64a()
		fmt.Fprintf(h, "%v %x", e.GetType(), e.GetData())
		fact.content = h.Sum64()
	}
	known, ok := o.entries[id]
	switch {
	case ok && known.before != fact.before:
		o.s.fatalf("I7: entry %d of term %d follows term %d on %s and term %d elsewhere", id.index, id.term, fact.before,
			n.name, known.before)
	case ok && known.full && fact.full && known.content != fact.content:
		o.s.fatalf("I7: entry %d of term %d is another one on %s", id.index, id.term, n.name)
	case ok && known.full:
		return
	}
	o.entries[id] = fact
}

// leads checks that a term has one leader, and that its log has all that is committed.
func (o *oracle) leads(n *node, id nexusraft.ReplicaID) {
	v := n.shadow.staged
	known, ok := o.leaders[v.term]
	if ok && known != n {
		o.s.fatalf("two leaders in term %d: %s and %s", v.term, known.name, n.name)
	}
	if ok {
		return
	}
	o.leaders[v.term] = n
	o.s.eventf("%s (%v) leads in term %d", n.name, id, v.term)
	for i := max(v.compacted, o.s.first) + 1; i <= o.last.index; i++ {
		if term := o.committed[position{index: i}].term; !v.holds(i, term) {
			o.s.fatalf("I1: %s leads in term %d without the committed entry %d of term %d", n.name, v.term, i, term)
		}
	}
}

// commits checks that all replicas commit the same entries, and each proposal once.
func (o *oracle) commits(n *node, c zone.Committed) {
	fact := commitFact{term: c.Term}
	if c.Command != nil {
		fact.proposal, fact.request, fact.command = c.Command.Proposal, c.Command.Request, string(c.Command.Command)
	}
	at := positionOf(&c)
	if at.compare(o.last) <= 0 {
		known := o.committed[at]
		if known.term != c.Term || known.proposal != fact.proposal && !n.witness {
			o.s.fatalf("I7: %s commits entry %d of term %d (%v), others %d (%v)", n.name, c.Index, c.Term, fact.proposal,
				known.term, known.proposal)
		}
		return
	}
	follows := at == position{o.last.index, o.last.place + 1} || at == position{index: o.last.index + 1}
	if !follows || n.witness {
		// A witness applies what a member has committed: the leader tells it.
		o.s.fatalf("%s commits entry %v, the last one anywhere is %v", n.name, at, o.last)
	}
	o.last, o.ends[c.Index], o.committed[at] = at, at, fact
	if at.place > 0 {
		o.together++
	}
	if c.Command != nil {
		if before, again := o.proposals[fact.proposal]; again {
			o.s.fatalf("I8: proposal %v commits at %v and at %v", fact.proposal, before, at)
		}
		if o.never[fact.proposal] {
			o.s.fatalf("I8: proposal %v commits at %v, and its caller was told that it never will", fact.proposal, at)
		}
		o.proposals[fact.proposal] = at
	}
	o.s.must(n, "tell what an entry comes to", o.ledger.apply(c))
	if c.Index%wholeEvery == 0 {
		o.sessions[c.Index] = o.ledger.known()
	}
	if o.s.keeper != nil {
		o.s.keeper.follow(o.ledger.zones)
	}
	o.states[at] = o.hash()
}

func (o *oracle) hash() uint64 {
	h := fnv.New64a()
	if k := o.ledger.keys; k != nil {
		fmt.Fprintf(h, "%d %s", k.compacted, k.read(0))
		return h.Sum64()
	}
	for _, k := range slices.Sorted(maps.Keys(o.ledger.registers)) {
		fmt.Fprintf(h, "%q=%q;", k, o.ledger.registers[k])
	}
	return h.Sum64()
}

// applied checks that a command, or an entry without one, has come to what the ledger says (I17), and that
// the same position means the same state and the same digest everywhere (I4).
func (o *oracle) applied(n *node, c *zone.Committed, a *apply.Effects, state nexusraft.Reader) {
	if o.s.liar != nil {
		return
	}
	at, whole := positionOf(c), c.Command == nil || !c.Command.More
	if err := o.ledger.check(at, a); err != nil {
		o.s.fatalf("I17: %s applied %v: %v", n.name, at, err)
	}
	if o.registers(n, state) != o.states[at] {
		o.s.fatalf("I4: %s applied %v and got another state than the committed commands make", n.name, at)
	}
	d, ok, err := system.LoadDigest(state)
	o.s.must(n, "read the digest", err)
	if known, seen := o.digests[at]; !ok || d.Index != at.index || seen && d != known {
		o.s.fatalf("I4: %s applied %v and has the digest %v (%v), another member has %v", n.name, at, d, ok, known)
	}
	o.digests[at] = d
	if a.Checkpoint.Index != 0 && !whole {
		o.s.fatalf("I4: %s has a checkpoint after %v, and its entry is not over", n.name, at)
	}
	if whole && at.index%wholeEvery == 0 {
		o.checkWhole(n, at.index, state)
	}
}

// wholeEvery is how many entries there are between two states of which all is compared: that takes
// longer than the entries.
const wholeEvery = 16

// checkWhole compares all that a member keeps, sessions too, with the others (I4).
func (o *oracle) checkWhole(n *node, index nexusraft.Index, state nexusraft.Reader) {
	hash, err := stateHash(state)
	o.s.must(n, "hash the state", err)
	if known, ok := o.wholes[index]; ok && hash != known {
		o.s.fatalf("I4: %s has another state after entry %d than another member", n.name, index)
	}
	o.wholes[index] = hash
	if o.s.keys {
		o.checkKeys(n, apply.MachineReader(state))
	}
	for id, known := range o.sessions[index] {
		if _, ok, err := system.SessionOwner(state, id); err != nil || ok != known {
			o.s.fatalf("I17: %s knows of session %d after entry %d: %v, %v, want %v", n.name, id, index, ok, err, known)
		}
	}
}

func (o *oracle) registers(n *node, state nexusraft.Reader) uint64 {
	if o.s.keys {
		return o.keys(n, apply.MachineReader(state))
	}
	hash, err := stateHash(apply.MachineReader(state))
	o.s.must(n, "hash the registers", err)
	return hash
}

// keys is the hash of a key space as of its newest revision.
func (o *oracle) keys(n *node, state nexusraft.Reader) uint64 {
	now, err := readKeys(state, 0)
	o.s.must(n, "read the keys", err)
	standing, err := kv.StandingOf(state)
	o.s.must(n, "read the compaction revision", err)
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s", standing.Compacted, now)
	return h.Sum64()
}

// written checks that the state on the disk is the one of the applied index (I2, I4).
func (o *oracle) written(n *node) { o.checkState(n) }

func (o *oracle) checkState(n *node) {
	d, ok := n.disk.(*memberDisk)
	if !ok || d.log.Applied() == 0 || o.s.liar != nil {
		return
	}
	if o.registers(n, d.state) != o.states[o.ends[d.log.Applied()]] {
		o.s.fatalf("I2: the state on %s's disk is not that of its applied index %d", n.name, d.log.Applied())
	}
}

// sent checks that a message promises only what is on the sender's disk (I3), and notes
// what a witness is given.
func (o *oracle) sent(n *node, m *raftpb.Message) {
	v, term := n.shadow.durable, nexusraft.Term(m.GetTerm())
	bad := func(why string) {
		o.s.fatalf("I3: %s sends %s: %s (on its disk: term %d, vote %s, log to %d)", n.name, describe(m), why, v.term,
			o.s.name(v.vote), v.last())
	}
	if n.witness && fullRole(m.GetType()) {
		o.s.fatalf("I11: the witness sends %s", describe(m))
	}
	if k := o.toldTooEarly(n, m); k != 0 {
		bad(fmt.Sprintf("the conf change at %d, of whose commit it tells, is not applied there", k))
	}
	switch m.GetType() {
	case raftpb.MsgVote, raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		if v.term < term || v.term == term && v.vote != n.replica {
			bad("its term and its vote for itself are not durable")
		}
	case raftpb.MsgVoteResp:
		if !m.GetReject() && v.term == term && v.vote != nexusraft.ReplicaID(m.GetTo()) || v.term < term {
			bad("the vote is not durable")
		}
	case raftpb.MsgAppResp:
		if v.term < term {
			bad("the term is not durable")
		}
		if !m.GetReject() && v.term == term && v.last() < nexusraft.Index(m.GetIndex()) {
			bad("the entries are not durable")
		}
	case raftpb.MsgHeartbeatResp:
		if v.term < term {
			bad("the term is not durable")
		}
	}
	if to := o.s.replica(nexusraft.ReplicaID(m.GetTo())); to != nil && to.witness {
		o.sentToWitness(n, m)
	}
}

// toldTooEarly returns a conf change of whose commit a message tells before its sender has it
// applied on its disk; 0 if there is none, or if the sender is itself on its way out.
func (o *oracle) toldTooEarly(n *node, m *raftpb.Message) nexusraft.Index {
	if m.GetType() != raftpb.MsgApp && m.GetType() != raftpb.MsgHeartbeat ||
		!slices.Contains(n.madeBy.GetVoters(), uint64(n.replica)) {
		return 0
	}
	for i := n.shadow.durable.applied + 1; i <= nexusraft.Index(m.GetCommit()); i++ {
		if o.entries[entryID{i, n.shadow.staged.at(i)}].conf {
			return i
		}
	}
	return 0
}

// fullRole reports whether a message may only come from a full replica.
func fullRole(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgAppResp, raftpb.MsgHeartbeatResp, raftpb.MsgVoteResp, raftpb.MsgPreVoteResp:
		return false
	}
	return true
}

// sentToWitness notes how far a term's leader has let the witness see, and checks that no
// payload leaves, and nothing new once it leads no more.
func (o *oracle) sentToWitness(n *node, m *raftpb.Message) {
	end, term := nexusraft.Index(m.GetIndex()), nexusraft.Term(m.GetTerm())
	switch m.GetType() {
	case raftpb.MsgSnap:
		end = nexusraft.Index(m.GetSnapshot().GetMetadata().GetIndex())
	case raftpb.MsgApp:
		end += nexusraft.Index(len(m.GetEntries()))
		if last := n.shadow.durable.last(); end > last {
			o.s.fatalf("I3: %s shows a witness entries up to %d, on its own disk they end at %d", n.name, end, last)
		}
	default:
		return
	}
	for _, e := range m.GetEntries() {
		if e.GetType() == raftpb.EntryNormal && len(e.GetData()) > 0 {
			o.s.fatalf("hold-back: %s sends the payload of entry %d to the witness: %s", n.name, e.GetIndex(), describe(m))
		}
	}
	if !slices.Contains(n.madeBy.GetVoters(), uint64(n.replica)) {
		o.leaderGoes(n, end)
	} else if _, self := n.r.Leader(); !self && end > o.released[term] {
		o.s.fatalf("hold-back: %s leads no more and lets the witness see entries up to %d for the first time: %s", n.name,
			end, describe(m))
	}
	o.released[term] = max(o.released[term], end)
}

// leaderGoes checks what a leader on its way out of the zone lets a witness see: some member
// that stays has it.
func (o *oracle) leaderGoes(n *node, end nexusraft.Index) {
	for _, id := range n.madeBy.GetVoters() {
		x := o.s.replica(nexusraft.ReplicaID(id))
		if !x.witness && x.shadow.durable.matches(n.shadow.staged) >= end {
			return
		}
	}
	o.s.fatalf("hold-back: %s, which goes, lets the witness see entries up to %d, and no member that stays has them",
		n.name, end)
}

// gate checks the hold-back: in sync, no witness was given an entry that the members
// which a quorum needs don't have on their disks. It means a leader that is not deposed.
func (o *oracle) gate(n *node) {
	if n.r == nil {
		return
	}
	state, _ := n.r.Sync()
	_, self := n.r.Leader()
	if state != nexusraft.InSync || !self || o.deposed(n) {
		return
	}
	term := n.shadow.staged.term
	if r, ok := o.reached(n); !ok || o.released[term] > r {
		o.s.fatalf("hold-back: %s is in sync, and a witness was given entries up to %d; the members have them up to %d (%v)",
			n.name, o.released[term], r, ok)
	}
}

func (o *oracle) deposed(n *node) bool {
	return slices.ContainsFunc(o.s.nodes, func(x *node) bool { return x.shadow.staged.term > n.shadow.staged.term })
}

// reached is R of the hold-back gate, from what is on the disks.
func (o *oracle) reached(n *node) (nexusraft.Index, bool) {
	r := ^nexusraft.Index(0)
	for _, half := range halves(n.conf) {
		var durable []nexusraft.Index
		for _, id := range half {
			if x := o.s.replica(id); !x.witness {
				durable = append(durable, x.shadow.durable.matches(n.shadow.staged))
			}
		}
		q := len(half)/2 + 1
		if len(durable) < q {
			return 0, false
		}
		slices.SortFunc(durable, func(a, b nexusraft.Index) int { return cmp.Compare(b, a) })
		r = min(r, durable[q-1])
	}
	return r, true
}

// halves are the voters; a joint configuration has two sets of them, each with its quorum.
func halves(cs *raftpb.ConfState) (out [][]nexusraft.ReplicaID) {
	for _, raw := range [][]uint64{cs.GetVoters(), cs.GetVotersOutgoing()} {
		var half []nexusraft.ReplicaID
		for _, id := range raw {
			half = append(half, nexusraft.ReplicaID(id))
		}
		if len(half) > 0 {
			out = append(out, half)
		}
	}
	return out
}

// acknowledged checks, before the caller hears of it, that a write is where I1 wants it,
// and that the caller gets the result of its own command (I8).
func (o *oracle) acknowledged(n *node, p *proposed, r nexusraft.Result, err error) {
	c, view := p.c, n.commit
	at, committed := o.proposals[p.id]
	e, fact, out := c.envelope(), o.committed[at], o.ledger.outcomes[at]
	a := entryID{r.Index, o.committed[position{index: r.Index}].term}
	switch {
	case !committed || fact.command != string(e.Command) || fact.request != e.Request:
		o.s.fatalf("I8: the caller of %q gets the result of %v, %q", e.Command, at, fact.command)
	case r.Index != cmp.Or(out.first, at.index):
		o.s.fatalf("I8: the caller of %q, which is at %v, gets the result of entry %d", e.Command, at, r.Index)
	case n.shadow.written.applied < at.index:
		o.s.fatalf("I8: %s answers %q before entry %d is applied", n.name, e.Command, at.index)
	}
	if why := o.ledger.checkAnswer(at, r.Data, err); why != nil && o.s.liar == nil && !c.left() {
		o.s.fatalf("I17: %s answers %q with what is not the answer to %v: %v", n.name, e.Command, at, why)
	}
	for _, half := range halves(view.conf) {
		o.checkHalf(n, a, half, view.sync)
	}
	onDisk := 0
	for _, x := range view.members.Members {
		if x := o.s.replica(x.Replica); !x.witness && x.shadow.durable.holds(a.index, a.term) {
			onDisk++
		}
	}
	if r.Copies > onDisk {
		o.s.fatalf("%s says that entry %d is on %d copies, it is on %d", n.name, a.index, r.Copies, onDisk)
	}
	o.acked++
	o.lastAcked = max(o.lastAcked, a.index)
	if view.sync == nexusraft.InSync {
		o.inSync++
	}
}

// ages checks at the end of a step what replicas know of the age of their states: one that is less than so
// many steps old has each write that was acknowledged before.
func (o *oracle) ages() {
	o.ackedBy[o.s.now] = o.lastAcked
	for _, n := range o.s.nodes {
		d, ok := n.disk.(*memberDisk)
		if n.r == nil || !ok {
			continue
		}
		for age := int64(1); age <= o.s.now && age < maxAge; age++ {
			if !n.group.Freshness().Within(time.Duration(age), o.s.time()) {
				continue
			}
			o.fresh++
			if applied, acked := d.log.Applied(), o.ackedBy[o.s.now-age]; applied < acked {
				o.s.fatalf("%s takes its state for less than %d steps old, has applied %d, and %d was acknowledged then", n.name,
					age, applied, acked)
			}
			break // what is older was acknowledged no later
		}
	}
}

// maxAge is more steps than what a replica knows of its state is of interest.
const maxAge = 20 * tickSteps

// checkHalf holds I1 against one set of voters: a quorum of them has the entry on its disks,
// and in sync one that is made of members.
func (o *oracle) checkHalf(n *node, a entryID, half []nexusraft.ReplicaID, sync nexusraft.SyncState) {
	full, witnesses := 0, 0
	for _, id := range half {
		x := o.s.replica(id)
		switch {
		case !x.shadow.durable.holds(a.index, a.term):
		case x.witness:
			witnesses++
		default:
			full++
		}
	}
	q := len(half)/2 + 1
	if full+witnesses < q {
		o.s.fatalf("I1: %s acknowledges entry %d, which %d members and %d witnesses have on their disks", n.name, a.index,
			full, witnesses)
	}
	if sync == nexusraft.InSync && full < q {
		o.s.fatalf("I1: %s, in sync, acknowledges entry %d, which %d members have on their disks", n.name, a.index, full)
	}
}

// ended notes a proposal of which its caller was told that it never commits (I8).
func (o *oracle) ended(out zone.Outcome) {
	if out.Err != nexusraft.ErrNotLeader {
		return
	}
	if at, ok := o.proposals[out.Proposal]; ok {
		o.s.fatalf("I8: proposal %v is committed at %v, and its caller is told that it never will be", out.Proposal, at)
	}
	o.never[out.Proposal] = true
}

// stepRefused fails the run: no message that a replica has sent deserves a refusal.
func (o *oracle) stepRefused(n *node, m *raftpb.Message, err error) {
	o.s.fatalf("I6: %s refuses %s: %v", n.name, describe(m), err)
}
