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

// Plan returns the conf change that does what an operator asks for. It returns ErrNotLeader,
// ErrRefused with the reason and the way out, or NotYet. Nothing is proposed.
func (r *Replica) Plan(c nexusraft.MembershipChange) (ConfChange, error) {
	if !r.leads() {
		return ConfChange{}, nexusraft.ErrNotLeader
	}
	if err := c.Validate(); err != nil {
		return ConfChange{}, err
	}
	return r.survey().plan(c)
}

// PlanTransfer returns the replica that is to lead after a transfer to a node, or to the
// best member if that is 0; it may be this replica. Errors are those of Plan. No transfer
// is begun.
func (r *Replica) PlanTransfer(to nexusraft.NodeID) (nexusraft.ReplicaID, error) {
	if !r.leads() {
		return 0, nexusraft.ErrNotLeader
	}
	return r.survey().transfer(to)
}

// Heir returns the member that has most of the log, among those that are active and not
// this replica. ok is false if there is none, or if this replica does not lead.
func (r *Replica) Heir() (m nexusraft.Member, ok bool) {
	if !r.leads() {
		return m, false
	}
	return r.survey().heir()
}

// Joint reports whether the zone is between two configurations.
func (r *Replica) Joint() bool { return len(r.conf.GetVotersOutgoing()) > 0 }

// survey is what a leader knows of its zone when it is asked for a change. What must never
// be, whoever asks, is checkConfChange's; the survey refuses what is unwise now.
type survey struct {
	self    nexusraft.ReplicaID
	joint   bool
	members nexusraft.Membership
	commit  nexusraft.Index
	recent  nexusraft.Index // who has the log up to here has caught up
	seen    map[nexusraft.ReplicaID]seen
}

// seen is what a leader knows of one replica.
type seen struct {
	match  nexusraft.Index
	active bool
}

func (r *Replica) survey() survey {
	s := survey{
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

// recent is what was committed half a hold time ago, and at least what opens the term. Under
// load nobody but the leader has what is committed now.
func (r *Replica) recent() nexusraft.Index {
	return min(r.hard.commit, r.gate.lastAt(r.cfg.HoldTicks/2))
}

// active reports, on the leader, whether a replica was heard of within the last election
// timeout and has not said good-bye.
func (r *Replica) active(id nexusraft.ReplicaID) bool {
	return id == r.cfg.Replica || r.gate.heardWithin(id, r.cfg.ElectionTicks)
}

func (s survey) plan(c nexusraft.MembershipChange) (ConfChange, error) {
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

func (s survey) remove(node nexusraft.NodeID) (ConfChange, error) {
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
func (s survey) mayLose(m nexusraft.Member, next nexusraft.Membership) error {
	members, voters := next.Count(nexusraft.RoleMember), voters(next)
	switch {
	case m.Role == nexusraft.RoleMember && members == 0:
		return refuse("%v is the zone's last member; another node must join and be promoted first", m)
	case 2*members <= voters:
		return refuse("without %v only %d of %d voters would hold data, and more than half must: put another node in its place (nexus-raft member replace %v NEW), or remove the witness first",
			m, members, voters, m.Node)
	case m.Replica == s.self:
		return s.refuseLeader(m)
	}
	return s.keeps(m, next)
}

// keeps refuses a removal after which too few members would hold what is committed.
func (s survey) keeps(m nexusraft.Member, next nexusraft.Membership) error {
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
		return NotYet(fmt.Sprintf("without %v its data would be missed: %s", m, s.lag(behind[0])))
	}
	return nil // where even more are silent, works says so
}

func (s survey) promote(node nexusraft.NodeID) (ConfChange, error) {
	m, err := s.learner(node)
	if err != nil {
		return ConfChange{}, err
	}
	for _, x := range s.members.Members {
		if x.Role == nexusraft.RoleMember && !s.seen[x.Replica].active {
			return ConfChange{}, refuse("%v is silent, and one more member would need it for its quorum; if it is lost, put %v in its place: nexus-raft member replace %v %v", x, m, x.Node, m.Node)
		}
	}
	m.Role = nexusraft.RoleMember
	return s.admit(m, ConfChange{Set: []nexusraft.Member{m}}, s.members.With(m))
}

func (s survey) replace(old, node nexusraft.NodeID) (ConfChange, error) {
	from, err := s.find(old)
	if err != nil {
		return ConfChange{}, err
	}
	switch {
	case from.Role == nexusraft.RoleWitness:
		return ConfChange{}, refuse("%v is a witness, and a learner can't take its place: nexus-raft member remove %v, then start the new witness with --join", from, old)
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
func (s survey) admit(m nexusraft.Member, change ConfChange, next nexusraft.Membership) (ConfChange, error) {
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

func (s survey) transfer(to nexusraft.NodeID) (nexusraft.ReplicaID, error) {
	if to == 0 {
		m, ok := s.heir()
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

func (s survey) heir() (best nexusraft.Member, ok bool) {
	for _, m := range s.members.Members {
		x := s.seen[m.Replica]
		if m.Role == nexusraft.RoleMember && m.Replica != s.self && x.active && (!ok || x.match > s.seen[best.Replica].match) {
			best, ok = m, true
		}
	}
	return best, ok
}

// find returns the record of a node, or why there is none.
func (s survey) find(node nexusraft.NodeID) (nexusraft.Member, error) {
	m, ok := s.members.Node(node)
	switch {
	case ok:
		return m, nil
	case s.members.IsRemovedNode(node):
		return m, refuse("node %v was removed from the zone before, for ever", node)
	}
	return m, refuse("the zone has no replica on node %v; nexus-raft member list shows who is there", node)
}

func (s survey) learner(node nexusraft.NodeID) (nexusraft.Member, error) {
	m, err := s.find(node)
	if err == nil && m.Role != nexusraft.RoleLearner {
		err = refuse("%v is a %s already; only a learner becomes a member", m, m.Role)
	}
	return m, err
}

func (s survey) caughtUp(m nexusraft.Member) bool {
	x := s.seen[m.Replica]
	return x.active && x.match >= s.recent
}

func (s survey) lag(m nexusraft.Member) string {
	return fmt.Sprintf("%v is %d entries behind", m, s.commit-min(s.commit, s.seen[m.Replica].match))
}

// works refuses a change for which the zone has no quorum before it or after it.
func (s survey) works(next nexusraft.Membership) error {
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

func (s survey) refuseLeader(m nexusraft.Member) error {
	if heir, ok := s.heir(); ok {
		return refuse("%v leads the zone; move the leadership first: nexus-raft transfer %v", m, heir.Node)
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
