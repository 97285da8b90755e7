package zone

import (
	"fmt"
	"strings"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// NotYet refuses what may be asked for again in a while; it matches ErrOverloaded. Nothing
// was changed.
type NotYet string

func (e NotYet) Error() string { return "not yet: " + string(e) }

// Unwrap makes errors.Is(err, ErrOverloaded) true.
func (e NotYet) Unwrap() error { return nexusraft.ErrOverloaded }

// What plans changes are functions of a replica and no methods: the witness's program, which plans none,
// links none of them then.

// Plan returns the conf change that does what an operator asks for. It returns ErrNotLeader,
// ErrRefused with the reason and the way out, or NotYet. Nothing is proposed.
func Plan(r *Replica, c nexusraft.MembershipChange) (ConfChange, error) {
	if !r.leads() {
		return ConfChange{}, nexusraft.ErrNotLeader
	}
	if err := c.Validate(); err != nil {
		return ConfChange{}, err
	}
	return r.planner().plan(c)
}

// PlanTransfer returns the replica that is to lead after a transfer to a node, or to the
// best member if that is 0; it may be this replica. Errors are those of Plan. No transfer
// is begun.
func PlanTransfer(r *Replica, to nexusraft.NodeID) (nexusraft.ReplicaID, error) {
	if !r.leads() {
		return 0, nexusraft.ErrNotLeader
	}
	return r.planner().transfer(to)
}

// Transferee returns the member that has most of the log, among those that are active and not
// this replica. ok is false if there is none, or if this replica does not lead.
func Transferee(r *Replica) (m nexusraft.Member, ok bool) {
	if !r.leads() {
		return m, false
	}
	return r.planner().transferee()
}

// Joint reports whether the zone is between two configurations.
func (r *Replica) Joint() bool { return len(r.conf.GetVotersOutgoing()) > 0 }

// planner is what a leader knows of its zone when it is asked for a change. checkConfChange refuses
// what must never be; the planner refuses what is unwise now.
type planner struct {
	self    nexusraft.ReplicaID
	joint   bool
	members nexusraft.Membership
	commit  nexusraft.Index
	recent  nexusraft.Index // a replica that has the log up to here has caught up
	seen    map[nexusraft.ReplicaID]seen
}

// seen is what a leader knows of one replica.
type seen struct {
	match  nexusraft.Index
	active bool
}

func (r *Replica) planner() planner {
	s := planner{
		self: r.cfg.Replica, joint: r.Joint(), members: r.members,
		commit: r.hard.commit, recent: r.recent(),
		seen: make(map[nexusraft.ReplicaID]seen),
	}
	r.rn.WithProgress(func(raw uint64, _ raft.ProgressType, pr tracker.Progress) {
		id := nexusraft.ReplicaID(raw)
		s.seen[id] = seen{nexusraft.Index(pr.Match), r.active(id)}
	})
	return s
}

// recent is the commit index of half a hold time ago, and at least the entry that opens the term.
// Under load only the leader has all that is committed now.
func (r *Replica) recent() nexusraft.Index {
	return min(r.hard.commit, r.gate.LastAt(r.cfg.HoldTicks/2))
}

// active reports, on the leader, whether a replica was heard of within the last election
// timeout and has not said that it shuts down.
func (r *Replica) active(id nexusraft.ReplicaID) bool {
	return id == r.cfg.Replica || r.gate.HeardWithin(id, r.cfg.ElectionTicks)
}

func (s planner) plan(c nexusraft.MembershipChange) (ConfChange, error) {
	switch {
	case s.joint:
		return ConfChange{}, NotYet(ErrChanging.Error())
	case c.Remove != 0:
		return s.remove(c.Remove)
	case c.Promote != 0:
		return s.promote(c.Promote)
	}
	return s.replace(c.Replace, c.With)
}

func (s planner) remove(node nexusraft.NodeID) (ConfChange, error) {
	m, err := s.find(node)
	if err != nil {
		return ConfChange{}, err
	}
	change := ConfChange{Remove: []nexusraft.ReplicaID{m.Replica}}
	next := s.members.Without(m.Replica)
	if m.Role != nexusraft.RoleLearner {
		if err := s.mayLose(m, next); err != nil {
			return ConfChange{}, err
		}
	}
	if err := s.works(next); err != nil {
		return ConfChange{}, err
	}
	return change, nil
}

// mayLose refuses to remove a voter that the zone can't do without.
func (s planner) mayLose(m nexusraft.Member, next nexusraft.Membership) error {
	members, voters := next.Count(nexusraft.RoleMember), voters(next)
	switch {
	case m.Role == nexusraft.RoleMember && members == 0:
		return refuse("%v is the zone's last member; another node must join and be promoted first", m)
	case 2*members <= voters:
		return refuse("without %v only %d of %d voters would hold data, and more than half must: put another node in its "+
			"place (nexus-raft member replace %v NEW), or remove the witness first",
			m, members, voters, m.Node)
	case m.Replica == s.self:
		return s.refuseLeader(m)
	}
	return s.keeps(m, next)
}

// keeps refuses a removal after which too few members would hold what is committed.
func (s planner) keeps(m nexusraft.Member, next nexusraft.Membership) error {
	have := 0
	var behind []nexusraft.Member
	for _, x := range next.Members {
		if x.Role != nexusraft.RoleMember {
			continue
		}
		if s.caughtUp(x) {
			have++
		} else if s.seen[x.Replica].active {
			behind = append(behind, x)
		}
	}
	if have+len(behind) >= quorum(next) && have < quorum(next) {
		return NotYet(fmt.Sprintf("without %v the zone would lack committed data: %s", m, s.lag(behind[0])))
	}
	return nil // where even more are silent, works says so
}

func (s planner) promote(node nexusraft.NodeID) (ConfChange, error) {
	m, err := s.learner(node)
	if err != nil {
		return ConfChange{}, err
	}
	for _, x := range s.members.Members {
		if x.Role == nexusraft.RoleMember && !s.seen[x.Replica].active {
			return ConfChange{}, refuse("%v is silent, and one more member would need it for its quorum; if it is lost, put "+
				"%v in its place: nexus-raft member replace %v %v", x, m, x.Node, m.Node)
		}
	}
	m.Role = nexusraft.RoleMember
	return s.admit(m, ConfChange{Set: []nexusraft.Member{m}}, s.members.With(m))
}

func (s planner) replace(old, node nexusraft.NodeID) (ConfChange, error) {
	from, err := s.find(old)
	if err != nil {
		return ConfChange{}, err
	}
	switch {
	case from.Role == nexusraft.RoleWitness:
		return ConfChange{}, refuse("%v is a witness, and a learner can't take its place: nexus-raft member remove %v, "+
			"then start the new witness with --join", from, old)
	case from.Role == nexusraft.RoleLearner:
		return ConfChange{}, refuse("%v is a learner and has no vote to pass on: nexus-raft member remove %v", from, old)
	case from.Replica == s.self:
		return ConfChange{}, s.refuseLeader(from)
	}
	m, err := s.learner(node)
	if err != nil {
		return ConfChange{}, err
	}
	m.Role = nexusraft.RoleMember
	change := ConfChange{Set: []nexusraft.Member{m}, Remove: []nexusraft.ReplicaID{from.Replica}}
	return s.admit(m, change, s.members.Without(from.Replica).With(m))
}

// admit returns a change that makes m a member if m has caught up and the change leaves a
// zone that works.
func (s planner) admit(m nexusraft.Member, change ConfChange, next nexusraft.Membership) (ConfChange, error) {
	if !s.seen[m.Replica].active {
		return ConfChange{}, NotYet(fmt.Sprintf("%v is silent; it must run and catch up first", m))
	}
	if !s.caughtUp(m) {
		return ConfChange{}, NotYet(s.lag(m))
	}
	if err := s.works(next); err != nil {
		return ConfChange{}, err
	}
	return change, nil
}

func (s planner) transfer(to nexusraft.NodeID) (nexusraft.ReplicaID, error) {
	if to == 0 {
		m, ok := s.transferee()
		if !ok {
			return 0, refuse("no other member is active; start one first")
		}
		to = m.Node
	}
	m, err := s.find(to)
	switch {
	case err != nil:
		return 0, err
	case m.Replica == s.self:
		return m.Replica, nil
	case m.Role == nexusraft.RoleWitness:
		return 0, refuse("%v is a witness, and a witness never leads; name a member", m)
	case m.Role == nexusraft.RoleLearner:
		return 0, refuse("%v is a learner, and only members lead; name a member", m)
	case !s.seen[m.Replica].active:
		return 0, refuse("%v is silent; start it first", m)
	case !s.caughtUp(m): // raft would hold up all writes until it has
		return 0, NotYet(s.lag(m))
	}
	return m.Replica, nil
}

func (s planner) transferee() (best nexusraft.Member, ok bool) {
	for _, m := range s.members.Members {
		x := s.seen[m.Replica]
		if m.Role == nexusraft.RoleMember && m.Replica != s.self && x.active &&
			(!ok || x.match > s.seen[best.Replica].match) {
			best, ok = m, true
		}
	}
	return best, ok
}

// find returns the record of a node, or why there is none.
func (s planner) find(node nexusraft.NodeID) (nexusraft.Member, error) {
	m, ok := s.members.Node(node)
	switch {
	case ok:
		return m, nil
	case s.members.IsRemovedNode(node):
		return m, refuse("node %v was removed from the zone for good", node)
	}
	return m, refuse("the zone has no replica on node %v; nexus-raft member list shows the replicas", node)
}

func (s planner) learner(node nexusraft.NodeID) (nexusraft.Member, error) {
	m, err := s.find(node)
	if err == nil && m.Role != nexusraft.RoleLearner {
		err = refuse("%v is a %s already; only a learner becomes a member", m, m.Role)
	}
	return m, err
}

func (s planner) caughtUp(m nexusraft.Member) bool {
	x := s.seen[m.Replica]
	return x.active && x.match >= s.recent
}

func (s planner) lag(m nexusraft.Member) string {
	return fmt.Sprintf("%v is %d entries behind", m, s.commit-min(s.commit, s.seen[m.Replica].match))
}

// works refuses a change for which the zone has no quorum before it or after it.
func (s planner) works(next nexusraft.Membership) error {
	for _, when := range []struct {
		m    nexusraft.Membership
		text string
	}{{s.members, "the zone has no quorum"}, {next, "the zone would have no quorum"}} {
		active, silent := 0, []string(nil)
		for _, x := range when.m.Members {
			switch {
			case !x.Role.Voter():
			case s.seen[x.Replica].active:
				active++
			default:
				silent = append(silent, x.String())
			}
		}
		if q := quorum(when.m); active < q {
			return refuse("%s: of %d voters %d are active, %d are needed; start %s first",
				when.text, voters(when.m), active, q, strings.Join(silent, ", "))
		}
	}
	return nil
}

func (s planner) refuseLeader(m nexusraft.Member) error {
	if to, ok := s.transferee(); ok {
		return refuse("%v leads the zone; move the leadership first: nexus-raft transfer %v", m, to.Node)
	}
	return refuse("%v leads the zone, and no other member is active to lead it; start one first", m)
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", nexusraft.ErrRefused, fmt.Sprintf(format, args...))
}

func voters(m nexusraft.Membership) int {
	return m.Count(nexusraft.RoleMember) + m.Count(nexusraft.RoleWitness)
}

func quorum(m nexusraft.Membership) int { return voters(m)/2 + 1 }

// Promotable returns the learners that have caught up and that the zone's shape has room
// for, on the leader; nil elsewhere. A replica that has come back after its disk was lost
// finds no room while its dead predecessor is still a member: it stays a learner.
func Promotable(r *Replica) []nexusraft.Member {
	room := r.members.Shape.Members - r.members.Count(nexusraft.RoleMember)
	if !r.leads() || room <= 0 {
		return nil
	}
	var out []nexusraft.Member // ascending, as raft visits them
	r.rn.WithProgress(func(raw uint64, typ raft.ProgressType, pr tracker.Progress) {
		m, ok := r.members.Replica(nexusraft.ReplicaID(raw))
		caughtUp := pr.State == tracker.StateReplicate && r.active(m.Replica) && nexusraft.Index(pr.Match) >= r.recent()
		if ok && typ == raft.ProgressTypeLearner && m.Role == nexusraft.RoleLearner && caughtUp {
			out = append(out, m)
		}
	})
	return out[:min(room, len(out))]
}

// Outdated returns a record as it should be, on the leader, and whether there is one that differs: a learner
// that has caught up becomes a member if the shape has room, and a record takes on the address that its
// node says it has now, which current returns.
func Outdated(r *Replica, current func(nexusraft.Member) nexusraft.Member) (m nexusraft.Member, ok bool) {
	if ms := Promotable(r); len(ms) > 0 {
		m = ms[0]
		m.Role = nexusraft.RoleMember
		return m, true
	}
	return Moved(r, current)
}

// Moved is the part of Outdated that is about addresses.
func Moved(r *Replica, current func(nexusraft.Member) nexusraft.Member) (m nexusraft.Member, ok bool) {
	if !r.leads() {
		return m, false
	}
	for _, m := range r.members.Members {
		if now := current(m); now != m {
			return now, true
		}
	}
	return m, false
}

// Follow returns the record of a replica that the zone is to get so that it follows the root zone, on
// the leader, and whether there is one: each node that the root zone has and this zone never had, as a
// learner, or as a witness once the zone has room for one. Nodes that leave are taken out of the other
// zones before they are taken out of the root zone, by an operator. replicaOf returns the ID of a
// node's replica.
func Follow(
	r *Replica, root nexusraft.Membership, replicaOf func(nexusraft.NodeID) nexusraft.ReplicaID,
) (m nexusraft.Member, ok bool) {
	if !r.leads() {
		return m, false
	}
	return r.planner().follow(root, replicaOf)
}

func (s planner) follow(
	root nexusraft.Membership, replicaOf func(nexusraft.NodeID) nexusraft.ReplicaID,
) (m nexusraft.Member, ok bool) {
	if s.joint || len(s.members.Members) >= nexusraft.MaxMembers {
		return m, false
	}
	for _, m := range root.Members {
		if _, in := s.members.Node(m.Node); in || s.members.IsRemovedNode(m.Node) {
			continue
		}
		if m.Role != nexusraft.RoleWitness {
			m.Role = nexusraft.RoleLearner
		} else if s.members.Count(nexusraft.RoleWitness) >= s.members.Shape.Witnesses ||
			needsWitness(s.members.Count(nexusraft.RoleMember)) != nil {
			continue
		}
		m.Replica = replicaOf(m.Node)
		return m, true
	}
	return m, false
}
