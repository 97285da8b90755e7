package availability

import (
	"fmt"
	"slices"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Report says which of a zone's voters can be lost now, one at a time and for good, so that
// the zone goes on and nothing that was acknowledged is missing; and what to do about it.
type Report struct {
	Any   bool     `json:"can_lose_any_one"`
	Fates []Fate   `json:"voters"`
	Do    []string `json:"do,omitempty"`
	Links []string `json:"links,omitempty"` // those that don't work both ways, and what to check
}

// Fate is what losing one voter would mean.
type Fate struct {
	Node    nexusraft.NodeID `json:"node"`
	Name    string           `json:"name,omitempty"`
	CanLose bool             `json:"can_lose"`
	Why     string           `json:"why,omitempty"` // why not, or what is wrong with it already
	Out     bool             `json:"out,omitempty"` // it does not take part now
	title   string
}

// Assess says what the zone can lose, by the answers alone.
func Assess(v Zone) Report {
	if v.Leader == nil {
		return v.withoutLeader()
	}
	var voters []Replica
	for _, r := range v.Replicas {
		if r.Role.Voter() {
			voters = append(voters, r)
		}
	}
	out := Report{Any: true}
	for _, r := range voters {
		f := v.fate(r, voters)
		out.Any = out.Any && f.CanLose && !f.Out
		out.Fates = append(out.Fates, f)
	}
	out.Do, out.Links = v.advice(), v.brokenLinks()
	return out
}

// fate says what losing r would mean: the others must be a quorum by themselves, of voters
// that take part and have what was acknowledged, each of which has a link with their leader.
func (v Zone) fate(r Replica, voters []Replica) Fate {
	f := Fate{Node: r.Node, Name: r.Name, Why: v.unfit(r, r), title: r.title()}
	f.Out = r.Silent() || r.problem() != ""
	var fit []Replica
	var reasons []string
	for _, x := range voters {
		if x.Replica == r.Replica {
			continue
		}
		if why := v.unfit(x, r); why != "" {
			reasons = append(reasons, why)
		} else {
			fit = append(fit, x)
		}
	}
	left, unlinked := together(fit)
	reasons = append(reasons, unlinked...)
	quorum := len(voters)/2 + 1
	f.CanLose = left >= quorum
	switch {
	case f.CanLose || f.Out:
	case len(voters) == 1:
		f.Why = "it is the only member, and has the only copy"
	case len(reasons) > 0:
		f.Why = strings.Join(reasons, ", ")
	default:
		f.Why = fmt.Sprintf("%d of %d voters would be left, and %d are needed", left, len(voters), quorum)
	}
	return f
}

// unfit says why a voter can't be counted on once another one is lost; "" if it can.
func (v Zone) unfit(r, lost Replica) string {
	switch {
	case r.problem() != "":
		return fmt.Sprintf("%s is not healthy (%s)", r.title(), nexusraft.Printable(r.problem()))
	case r.Silent():
		return r.title() + " is silent"
	case v.Leads(r) || v.Leader.Sync == nexusraft.InSync || v.Membership.Count(nexusraft.RoleWitness) == 0:
		return ""
	}
	return v.unfitOutOfSync(r, lost)
}

// unfitOutOfSync is unfit for a zone with witnesses that is not in sync. Of 2+1 only the leader is sure to have what
// was acknowledged then. Of 4+1 another member has it, too. Without their leader the members elect that one by
// themselves, as a witness may be ahead of all of them and refuses its vote; with the leader those count at once that
// have what is committed.
func (v Zone) unfitOutOfSync(r, lost Replica) string {
	witness := r.Role == nexusraft.RoleWitness
	behind := fmt.Sprintf("%s %s, and the zone is %s", r.title(), v.behind(r), v.Leader.Sync)
	switch {
	case v.oneCopy() && !witness:
		return behind
	case v.oneCopy():
		return ""
	case v.Leads(lost) && witness:
		return fmt.Sprintf("%s may be ahead of the members, and the zone is %s", r.title(), v.Leader.Sync)
	case !v.Leads(lost) && !witness && (r.seen == nil || r.seen.Match < v.Leader.Commit):
		return behind
	}
	return ""
}

// oneCopy reports whether witnesses may make a quorum with one member alone.
func (v Zone) oneCopy() bool {
	witnesses := v.Membership.Count(nexusraft.RoleWitness)
	voters := v.Membership.Count(nexusraft.RoleMember) + witnesses
	return voters/2+1-witnesses < 2
}

// advice says what would make the zone able to lose any voter, most urgent first.
func (v Zone) advice() (do []string) {
	waiting := v.Learners()
	for _, r := range v.Replicas {
		switch {
		case !r.Role.Voter():
		case r.problem() != "":
			do = append(do, mend(r))
		case r.Silent():
			do = append(do, v.reviveOrReplace(r, &waiting))
		}
	}
	if len(do) == 0 && v.Leader.Sync != nexusraft.InSync && v.Membership.Count(nexusraft.RoleWitness) > 0 {
		do = append(do, fmt.Sprintf("wait: the zone is %s, and will be in sync by itself once its members have the same log",
			v.Leader.Sync))
	}
	for _, r := range waiting {
		do = append(do, v.learnerAdvice(r))
	}
	if v.shaped() {
		return append(do, v.emptyPlaces()...)
	}
	if len(waiting) == 0 {
		do = append(do, v.missing()...)
	}
	return do
}

func (v Zone) Learners() (out []Replica) {
	for _, r := range v.Replicas {
		if r.Role == nexusraft.RoleLearner {
			out = append(out, r)
		}
	}
	return out
}

// reviveOrReplace says what to do about a silent voter. A learner that can take its place is
// taken off the waiting.
func (v Zone) reviveOrReplace(r Replica, waiting *[]Replica) string {
	if v.lacksReplica(r) {
		return r.makesReplica()
	}
	if r.own != nil {
		return fmt.Sprintf("%s answers here, but its leader does not hear it: check the network between it (%s) and %s",
			r.title(), r.where(), v.leaderAddress())
	}
	if r.lapsed() {
		return r.renewal()
	}
	if v.shaped() {
		return fmt.Sprintf("start %s again (%s); if its disk is lost, another node takes its place, if one is there: %s",
			r.title(), r.where(), v.reshape("--off %v", r.Node))
	}
	if r.Role == nexusraft.RoleWitness {
		return fmt.Sprintf("start %s again (%s); if its disk is lost: %s, then start it on an empty directory with --join",
			r.title(), r.where(), v.command("member remove %v", r.Node))
	}
	i := slices.IndexFunc(*waiting, func(x Replica) bool { return !x.Silent() && x.Name == r.Name })
	if i < 0 {
		i = slices.IndexFunc(*waiting, func(x Replica) bool { return !x.Silent() })
	}
	if i < 0 {
		return fmt.Sprintf("start %s again (%s); if its disk is lost, start it on an empty directory with --join %s",
			r.title(), r.where(), v.leaderAddress())
	}
	successor := (*waiting)[i]
	*waiting = slices.Delete(slices.Clone(*waiting), i, i+1)
	if successor.Name == r.Name && successor.Address == r.Address {
		return fmt.Sprintf("%s has come back with an empty disk, as a learner; give it its place again: %s",
			r.title(), v.command("member replace %v %v", r.Node, successor.Node))
	}
	return fmt.Sprintf("start %s (%v) again, or, if its disk is lost, put learner %s in its place: %s",
		r.title(), r.Node, successor.title(), v.command("member replace %v %v", r.Node, successor.Node))
}

// lacksReplica reports whether a node is well and has no replica of a zone that it should have one of. Of
// the root zone each node has one, unless it has a problem.
func (v Zone) lacksReplica(r Replica) bool {
	return !v.isRoot() && r.node != nil && r.own == nil && r.problem() == ""
}

// makesReplica says what to do about such a node: to remove it would keep it out for ever.
func (r Replica) makesReplica() string {
	return fmt.Sprintf("wait: %s (%s) runs, and makes its replica of the zone once it has heard of it; if it does not, "+
		"its log says why", r.title(), r.where())
}

// renewal says what to do about a node that runs with a certificate that has expired.
func (r Replica) renewal() string {
	if r.Role != nexusraft.RoleWitness {
		return fmt.Sprintf("see to %s (%s): it runs, and its certificate has expired; a member signs its own anew: its log "+
			"says what is in the way", r.title(), r.where())
	}
	return fmt.Sprintf("wait: %s (%s) runs, and its certificate has expired; it gets a new one from the first member "+
		"that it reaches; if it does not, its log says why: nexus-raft token create --role witness, and start it again "+
		"with --token-file", r.title(), r.where())
}

// mend says what to do about a voter that is not healthy.
func mend(r Replica) string {
	if strings.Contains(r.problem(), "disk full") {
		return fmt.Sprintf("free disk space on %s (%s): %s", r.title(), r.where(), nexusraft.Printable(r.problem()))
	}
	return fmt.Sprintf("see to %s (%s): %s", r.title(), r.where(), nexusraft.Printable(r.problem()))
}

// learnerAdvice says what becomes of a learner.
func (v Zone) learnerAdvice(r Replica) string {
	members, shape := v.Membership.Count(nexusraft.RoleMember), v.Membership.Shape.Members
	switch {
	case v.shaped():
		return v.comer(r)
	case r.Silent():
		return fmt.Sprintf("start learner %s again (%s), or give it up: %s", r.title(), r.where(),
			v.command("member remove %v", r.Node))
	case members < shape:
		return fmt.Sprintf("wait: learner %s %s, and becomes a member by itself when it has caught up", r.title(),
			v.behind(r))
	}
	return fmt.Sprintf("learner %s has no member's place to take, the zone has its %d: %s, or %s", r.title(), shape,
		v.command("member replace OLD %v", r.Node), v.command("member promote %v", r.Node))
}

// Prospect says what is to become of a learner: the advice that has to do with it.
func (v Zone) Prospect(r Replica) string {
	if v.shaped() {
		return v.comer(r)
	}
	for _, x := range v.Replicas {
		waiting := []Replica{r}
		if x.Role == nexusraft.RoleMember && x.Silent() && !r.Silent() {
			return v.reviveOrReplace(x, &waiting)
		}
	}
	return v.learnerAdvice(r)
}

// missing says which nodes a zone needs that has too few, or which voter it is better without.
func (v Zone) missing() []string {
	members := v.Membership.Count(nexusraft.RoleMember)
	switch {
	case members < 2:
		return []string{fmt.Sprintf("add a second member: nexus-raft serve --data-dir DIR --name NAME --listen HOST:PORT "+
			"--join %s", v.leaderAddress())}
	case members%2 == 1:
		return v.needless(members)
	case members == 2 && v.Membership.Count(nexusraft.RoleWitness) == 0:
		return []string{fmt.Sprintf("add a witness: nexus-witness --data-dir DIR --name NAME --listen HOST:PORT --join %s",
			v.leaderAddress())}
	}
	return nil
}

// needless advises against a witness beside an odd number of members: with it a write needs one
// more of them, and the zone can lose no more.
func (v Zone) needless(members int) (do []string) {
	for _, r := range v.Replicas {
		if r.Role == nexusraft.RoleWitness {
			do = append(do, fmt.Sprintf("remove witness %s: %d members lose as many of them without it: %s",
				r.title(), members, v.command("member remove %v", r.Node)))
		}
	}
	return do
}

func (v Zone) leaderAddress() string {
	m, _ := v.Membership.Replica(v.Leader.Replica)
	return nexusraft.Printable(m.Address)
}

// command is a whole command line about this zone.
func (v Zone) command(format string, args ...any) string {
	line := "nexus-raft " + fmt.Sprintf(format, args...) + " --endpoints " + v.leaderAddress()
	if v.Zone != nexusraft.RootZone {
		line += " --zone " + v.Zone.String()
	}
	return line
}

// withoutLeader is Assess for a zone whose leader does not answer: nothing can be promised.
func (v Zone) withoutLeader() (out Report) {
	answering, voters := 0, 0
	var absent []string
	for _, r := range v.Replicas {
		if !r.Role.Voter() {
			continue
		}
		voters++
		switch {
		case r.problem() != "":
			out.Do = append(out.Do, mend(r))
		case v.lacksReplica(r):
			out.Do = append(out.Do, r.makesReplica())
		case r.Silent() && r.lapsed():
			out.Do = append(out.Do, r.renewal())
		case r.Silent():
			absent = append(absent, fmt.Sprintf("%s (%s)", r.title(), r.where()))
		default:
			answering++
		}
	}
	out.Links = v.brokenLinks()
	why := "no node leads the zone"
	start, again := "start ", "ask again in a second or two: an election may be under way"
	if named, ok := v.replica(v.named); ok && named.own == nil {
		why = fmt.Sprintf("%s leads the zone, the others say, but does not answer here", named.title())
		again += fmt.Sprintf("; if %s leads on, ask from where %s can be reached", named.title(), named.where())
	} else if answering < voters/2+1 {
		why += fmt.Sprintf(": %d of %d voters answer, and %d are needed", answering, voters, voters/2+1)
		again = ""
	}
	for _, r := range v.Replicas {
		if r.Role.Voter() {
			out.Fates = append(out.Fates, Fate{Node: r.Node, Name: r.Name, Why: why, Out: r.Silent(), title: r.title()})
		}
	}
	if again != "" {
		out.Do = append(out.Do, again)
	}
	if len(absent) > 0 {
		if again != "" {
			start = "if no leader is found, start "
		}
		out.Do = append(out.Do, start+strings.Join(absent, ", ")+" again: what was acknowledged last may be there alone")
	}
	return out
}

// Lines returns the report for people, a line each.
func (x Report) Lines() (out []string) {
	var can []string
	var whys []string
	cannot := make(map[string][]string)
	for _, f := range x.Fates {
		switch {
		case f.CanLose && !f.Out:
			can = append(can, f.title)
		case !f.CanLose && (!f.Out || f.Why != ""):
			if cannot[f.Why] == nil {
				whys = append(whys, f.Why)
			}
			cannot[f.Why] = append(cannot[f.Why], f.title)
		}
	}
	switch {
	case x.Any:
		out = append(out, "can lose any one of "+strings.Join(can, ", "))
	case len(can) > 0:
		out = append(out, "can lose "+strings.Join(can, " or "))
	}
	for _, why := range whys {
		out = append(out, fmt.Sprintf("can NOT lose %s: %s", strings.Join(cannot[why], ", "), why))
	}
	for _, do := range x.Do {
		out = append(out, "do: "+do)
	}
	for _, link := range x.Links {
		out = append(out, "link: "+link)
	}
	return out
}
