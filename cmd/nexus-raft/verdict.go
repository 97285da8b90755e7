package main

import (
	"fmt"
	"slices"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// verdict says which of a zone's voters can be lost now, one at a time and for good, so that
// the zone goes on and nothing that was acknowledged is missing; and what to do about it.
type verdict struct {
	Any   bool     `json:"can_lose_any_one"`
	Fates []fate   `json:"voters"`
	Do    []string `json:"do,omitempty"`
}

// fate is what losing one voter would mean.
type fate struct {
	Node    nexusraft.NodeID `json:"node"`
	Name    string           `json:"name,omitempty"`
	CanLose bool             `json:"can_lose"`
	Why     string           `json:"why,omitempty"` // why not, or what is wrong with it already
	Out     bool             `json:"out,omitempty"` // it does not take part now
	title   string
}

// assess judges a zone. It is a function of the view alone.
func assess(v zoneView) verdict {
	if v.leader == nil {
		return v.withoutLeader()
	}
	var voters []row
	for _, r := range v.rows {
		if r.Role.Voter() {
			voters = append(voters, r)
		}
	}
	out := verdict{Any: true}
	for _, r := range voters {
		f := v.fate(r, voters)
		out.Any = out.Any && f.CanLose && !f.Out
		out.Fates = append(out.Fates, f)
	}
	out.Do = v.advice()
	return out
}

// fate says what losing r would mean: the others must be a quorum by themselves, of voters
// that take part and have what was acknowledged.
func (v zoneView) fate(r row, voters []row) fate {
	f := fate{Node: r.Node, Name: r.Name, Why: v.unfit(r), title: r.title()}
	f.Out = r.silent() || r.problem() != ""
	left, reasons := 0, []string(nil)
	for _, x := range voters {
		if x.Replica == r.Replica {
			continue
		}
		if why := v.unfit(x); why != "" {
			reasons = append(reasons, why)
		} else {
			left++
		}
	}
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

// unfit says why a voter can't be counted on if another one is lost; "" if it can. While a
// zone with witnesses is not in sync, only its leader is sure to have what was acknowledged.
func (v zoneView) unfit(r row) string {
	switch {
	case r.problem() != "":
		return fmt.Sprintf("%s is not healthy (%s)", r.title(), printable(r.problem()))
	case r.silent():
		return r.title() + " is silent"
	case r.Role != nexusraft.RoleMember || v.leads(r) || v.leader.Sync == nexusraft.InSync:
		return ""
	case v.membership.Count(nexusraft.RoleWitness) == 0:
		return ""
	}
	return fmt.Sprintf("%s %s, and the zone is %s", r.title(), v.behind(r), v.leader.Sync)
}

// advice says what would make the zone able to lose any voter, most urgent first.
func (v zoneView) advice() (do []string) {
	waiting := v.learners()
	for _, r := range v.rows {
		switch {
		case !r.Role.Voter():
		case r.problem() != "":
			do = append(do, mend(r))
		case r.silent():
			do = append(do, v.reviveOrReplace(r, &waiting))
		}
	}
	if len(do) == 0 && v.leader.Sync != nexusraft.InSync && v.membership.Count(nexusraft.RoleWitness) > 0 {
		do = append(do, fmt.Sprintf("wait: the zone is %s, and will be in sync by itself once its members have the same log", v.leader.Sync))
	}
	for _, r := range waiting {
		do = append(do, v.learnerAdvice(r))
	}
	if len(waiting) == 0 {
		do = append(do, v.missing()...)
	}
	return do
}

func (v zoneView) learners() (out []row) {
	for _, r := range v.rows {
		if r.Role == nexusraft.RoleLearner {
			out = append(out, r)
		}
	}
	return out
}

// reviveOrReplace says what to do about a silent voter. A learner that can take its place is
// taken off the waiting.
func (v zoneView) reviveOrReplace(r row, waiting *[]row) string {
	if r.own != nil {
		return fmt.Sprintf("%s answers here, but its leader does not hear it: check the network between it (%s) and %s", r.title(), r.Address, v.leaderAddress())
	}
	if r.Role == nexusraft.RoleWitness {
		return fmt.Sprintf("start %s again (%s); if its disk is lost: %s, then start it on an empty directory with --join", r.title(), r.Address, v.command("member remove %v", r.Node))
	}
	i := slices.IndexFunc(*waiting, func(x row) bool { return !x.silent() && x.Name == r.Name })
	if i < 0 {
		i = slices.IndexFunc(*waiting, func(x row) bool { return !x.silent() })
	}
	if i < 0 {
		return fmt.Sprintf("start %s again (%s); if its disk is lost, start it on an empty directory with --join %s", r.title(), r.Address, v.leaderAddress())
	}
	heir := (*waiting)[i]
	*waiting = slices.Delete(slices.Clone(*waiting), i, i+1)
	if heir.Name == r.Name && heir.Address == r.Address {
		return fmt.Sprintf("%s has come back with an empty disk, as a learner; give it its place again: %s",
			r.title(), v.command("member replace %v %v", r.Node, heir.Node))
	}
	return fmt.Sprintf("start %s (%v) again, or, if its disk is lost, put learner %s in its place: %s",
		r.title(), r.Node, heir.title(), v.command("member replace %v %v", r.Node, heir.Node))
}

// mend says what to do about a voter that is not healthy.
func mend(r row) string {
	if strings.Contains(r.problem(), "disk full") {
		return fmt.Sprintf("free disk space on %s (%s): %s", r.title(), r.Address, printable(r.problem()))
	}
	return fmt.Sprintf("see to %s (%s): %s", r.title(), r.Address, printable(r.problem()))
}

// learnerAdvice says what becomes of a learner.
func (v zoneView) learnerAdvice(r row) string {
	members, shape := v.membership.Count(nexusraft.RoleMember), v.membership.Shape.Members
	switch {
	case r.silent():
		return fmt.Sprintf("start learner %s again (%s), or give it up: %s", r.title(), r.Address, v.command("member remove %v", r.Node))
	case members < shape:
		return fmt.Sprintf("wait: learner %s %s, and becomes a member by itself when it has caught up", r.title(), v.behind(r))
	}
	return fmt.Sprintf("learner %s has no member's place to take, the zone has its %d: %s, or %s", r.title(), shape,
		v.command("member replace OLD %v", r.Node), v.command("member promote %v", r.Node))
}

// missing says which nodes a zone needs that has too few.
func (v zoneView) missing() []string {
	switch {
	case v.membership.Count(nexusraft.RoleMember) < 2:
		return []string{fmt.Sprintf("add a second member: nexus-raft serve --data-dir DIR --name NAME --listen HOST:PORT --join %s", v.leaderAddress())}
	case v.membership.Count(nexusraft.RoleMember) == 2 && v.membership.Count(nexusraft.RoleWitness) == 0:
		return []string{fmt.Sprintf("add a witness: nexus-witness --data-dir DIR --name NAME --listen HOST:PORT --join %s", v.leaderAddress())}
	}
	return nil
}

func (v zoneView) leaderAddress() string {
	m, _ := v.membership.Replica(v.leader.Replica)
	return m.Address
}

// command is a whole command line about this zone.
func (v zoneView) command(format string, args ...any) string {
	line := "nexus-raft " + fmt.Sprintf(format, args...) + " --endpoints " + v.leaderAddress()
	if v.zone != nexusraft.RootZone {
		line += " --zone " + v.zone.String()
	}
	return line
}

// withoutLeader judges a zone whose leader does not answer: nothing can be promised.
func (v zoneView) withoutLeader() (out verdict) {
	answering, voters := 0, 0
	var absent []string
	for _, r := range v.rows {
		if !r.Role.Voter() {
			continue
		}
		voters++
		switch {
		case r.problem() != "":
			out.Do = append(out.Do, mend(r))
		case r.silent():
			absent = append(absent, fmt.Sprintf("%s (%s)", r.title(), r.Address))
		default:
			answering++
		}
	}
	why := "no node leads the zone"
	start, again := "start ", "ask again in a second or two: an election may be under way"
	if named, ok := v.row(v.named); ok && named.own == nil {
		why = fmt.Sprintf("%s leads the zone, the others say, but does not answer here", named.title())
		again += fmt.Sprintf("; if %s leads on, ask from where %s can be reached", named.title(), named.Address)
	} else if answering < voters/2+1 {
		why += fmt.Sprintf(": %d of %d voters answer, and %d are needed", answering, voters, voters/2+1)
		again = ""
	}
	for _, r := range v.rows {
		if r.Role.Voter() {
			out.Fates = append(out.Fates, fate{Node: r.Node, Name: r.Name, Why: why, Out: r.silent(), title: r.title()})
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

// lines is the verdict for people.
func (x verdict) lines() (out []string) {
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
	return out
}
