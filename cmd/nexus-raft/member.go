package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
	"github.com/nexi-lab/nexus-raft/internal/availability"
)

// memberCommand is about the replicas of a zone.
type memberCommand struct {
	List    memberListCommand    `cmd:"" help:"Print the replicas as the leader sees them."`
	Remove  memberRemoveCommand  `cmd:"" set:"timeout=30s" help:"Take a node's replica out of the zone, for ever."`
	Replace memberReplaceCommand `cmd:"" set:"timeout=30s" help:"Put a learner in a member's place."`
	Promote memberPromoteCommand `cmd:"" set:"timeout=30s" help:"Make a learner one more member."`

	ForgetLives memberForgetLivesCommand `cmd:"" help:"Have a stopped node accept peers that it refuses in error."`
}

// nodeArgument is what the commands say of their arguments.
const nodeArgument = `A node is given by its name, its ID, or the first digits of its ID (4 at least).`

type memberListCommand struct {
	remote
}

func (*memberListCommand) Help() string {
	return `LAG is how many entries of the leader's log a replica is not known to have on its disk; SILENT
is one that the leader does not hear.

Example:

  nexus-raft member list --endpoints 127.0.0.1:2026,127.0.0.1:2036`
}

// listed is one replica as JSON.
type listed struct {
	nexusraft.Member
	Leader bool             `json:"leader"`
	Active bool             `json:"active"`
	Lag    *nexusraft.Index `json:"lag,omitempty"` // nil if not known
}

func (c *memberListCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	zone, err := conn.Members(ctx)
	if err != nil {
		return err
	}
	found := availability.ByLeader(zone)
	if !c.JSON {
		if err := found.PrintMembers(s.out); err != nil {
			return err
		}
		for _, r := range found.Learners() {
			fmt.Fprintln(s.out, found.Prospect(r))
		}
		return nil
	}
	for _, r := range found.Replicas {
		x := listed{Member: r.Member, Leader: found.Leads(r), Active: !r.Silent()}
		if n, ok := found.Lag(r); ok {
			x.Lag = &n
		}
		if err := printJSON(s.out, x); err != nil {
			return err
		}
	}
	return nil
}

type memberRemoveCommand struct {
	Node string `arg:"" help:"The node to remove."`
	remote
}

func (*memberRemoveCommand) Help() string {
	return nodeArgument + `

It is taken out of all zones, of the root zone last; with --zone out of one. Then its program ends, and
its directory never takes part again: to come back, the node joins as a
new one, on an empty directory. The command is refused if it would leave the zone without a quorum,
without its newest data, or with too many witnesses. It prints the replicas that are left, and what the
zone can lose then.

Example:

  nexus-raft member remove w1`
}

func (c *memberRemoveCommand) Run(ctx context.Context, s streams) error {
	return c.change(ctx, s, func(m nexusraft.Membership) (change nexusraft.MembershipChange, done string, err error) {
		x, err := findNode(m, c.Node, anyReplica)
		change.Remove = x.Node
		return change, fmt.Sprintf("removed %v", x), err
	})
}

type memberReplaceCommand struct {
	Old string `arg:"" help:"The member that goes, for ever."`
	New string `arg:"" help:"The learner that takes its place."`
	remote
}

func (*memberReplaceCommand) Help() string {
	return nodeArgument + `

This is for a member whose disk was lost. Started again on an empty directory, with its old command
line, it has come back as a new node, a learner, and now takes the old node's place, in all zones, or
with --zone in one. If both have the same name, give it twice. The command waits until the learner has
caught up, and says so.

Example:

  nexus-raft member replace n2 n2`
}

func (c *memberReplaceCommand) Run(ctx context.Context, s streams) error {
	return c.change(ctx, s, func(m nexusraft.Membership) (change nexusraft.MembershipChange, done string, err error) {
		from, err := findNode(m, c.Old, isVoter)
		to, err2 := findNode(m, c.New, isLearner)
		change.Replace, change.With = from.Node, to.Node
		return change, fmt.Sprintf("replaced %v by %v", from, to), cmp.Or(err, err2)
	})
}

type memberPromoteCommand struct {
	Node string `arg:"" help:"The learner."`
	remote
}

func (*memberPromoteCommand) Help() string {
	return nodeArgument + `

A learner becomes a member by itself as long as the zone has fewer members than it is meant to
have; this command makes it one beyond that, in all zones, or with --zone in one. Waits until the
learner has caught up.

Example:

  nexus-raft member promote n3`
}

func (c *memberPromoteCommand) Run(ctx context.Context, s streams) error {
	return c.change(ctx, s, func(m nexusraft.Membership) (change nexusraft.MembershipChange, done string, err error) {
		x, err := findNode(m, c.Node, isLearner)
		change.Promote = x.Node
		return change, fmt.Sprintf("promoted %v", x), err
	})
}

// change makes the change that plan finds in the membership, and prints what was done and
// what the zone is then.
func (r *remote) change(
	ctx context.Context, s streams, plan func(nexusraft.Membership) (nexusraft.MembershipChange, string, error),
) error {
	change, done, err := r.planned(ctx, s, plan)
	if err != nil {
		return err
	}
	if r.Zone.id == nexusraft.RootZone {
		others, err := r.changeOthers(ctx, s, change)
		if err != nil {
			return howToAsk(err)
		}
		if others > 0 {
			done += fmt.Sprintf(", in %d other zones as well", others)
		}
	}
	conn, ctx, end, err := r.connect(ctx, client.Options{OnWait: sayWhy(s.err)})
	if err != nil {
		return err
	}
	defer end()
	left, err := conn.ChangeMembership(ctx, change)
	switch {
	case err != nil:
		return howToAsk(err)
	case r.JSON:
		return printJSON(s.out, struct {
			Done       string               `json:"done"`
			Membership nexusraft.Membership `json:"membership"`
		}{done, left})
	}
	fmt.Fprintln(s.out, done)
	return printSettled(ctx, s, conn, r.Zone.id)
}

// planned returns the change that plan finds in the membership as it is.
func (r *remote) planned(
	ctx context.Context, s streams, plan func(nexusraft.Membership) (nexusraft.MembershipChange, string, error),
) (change nexusraft.MembershipChange, done string, err error) {
	conn, ctx, end, err := r.connect(ctx, client.Options{OnWait: sayWhy(s.err)})
	if err != nil {
		return change, "", err
	}
	defer end()
	zone, err := conn.Members(ctx)
	if err != nil {
		return change, "", err
	}
	return plan(zone.Membership)
}

// howToAsk adds to an uncertain change which command shows what has become of it.
func howToAsk(err error) error {
	if errors.Is(err, nexusraft.ErrUncertain) {
		return fmt.Errorf("%w: nexus-raft member list", err)
	}
	return err
}

// settleTime bounds how long a command waits for a zone to be in sync again after a change.
const settleTime = 3 * time.Second

// printSettled prints the zone's replicas and what it can lose, once it is in sync or after
// a moment.
func printSettled(ctx context.Context, s streams, conn *client.Client, zone nexusraft.ZoneID) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	for {
		found, ok := zoneOf(zone, conn.SurveyZone(ctx, zone))
		if settled := ok && found.Leader != nil && found.Leader.Sync == nexusraft.InSync; !settled && ctx.Err() == nil {
			sleep(ctx, 100*time.Millisecond)
			continue
		}
		if !ok {
			return nil // what was done is done
		}
		if err := found.PrintMembers(s.out); err != nil {
			return err
		}
		fmt.Fprintln(s.out, strings.Join(availability.Assess(found).Lines(), "\n"))
		return nil
	}
}

func zoneOf(zone nexusraft.ZoneID, answers []client.Answer) (availability.Zone, bool) {
	zones, _ := availability.Zones(answers)
	for _, v := range zones {
		if v.Zone == zone {
			return v, true
		}
	}
	return availability.Zone{}, false
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// sayWhy returns a client's OnWait that prints each new reason, at most one a second.
func sayWhy(w io.Writer) func(error) {
	var said string
	var at time.Time
	return func(reason error) {
		text := nexusraft.PrintableText(strings.TrimPrefix(reason.Error(), "client: "))
		if text == said || time.Since(at) < time.Second {
			return
		}
		said, at = text, time.Now()
		fmt.Fprintln(w, "waiting:", text)
	}
}

func anyReplica(nexusraft.Member) bool  { return true }
func isVoter(m nexusraft.Member) bool   { return m.Role.Voter() }
func isLearner(m nexusraft.Member) bool { return m.Role == nexusraft.RoleLearner }

// minPrefix is how many digits of a node's ID are enough, if no other ID begins with them.
const minPrefix = 4

// findNode returns the replica that an argument names. Where it names several, the fitting
// one counts, if there is but one.
func findNode(m nexusraft.Membership, name string, fits func(nexusraft.Member) bool) (nexusraft.Member, error) {
	found := named(m.Members, name)
	if len(found) > 1 {
		var fitting []nexusraft.Member
		for _, x := range found {
			if fits(x) {
				fitting = append(fitting, x)
			}
		}
		if len(fitting) == 1 {
			found = fitting
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nexusraft.Member{}, fmt.Errorf("no node of the zone has the name %s, or an ID that begins with it; there "+
			"are %s", printable(name), candidates(m.Members))
	}
	return nexusraft.Member{}, fmt.Errorf("%s may mean any of %s; give its ID", printable(name), candidates(found))
}

// named returns the replicas that an argument may mean: by ID, by name, or by the first
// digits of an ID.
func named(members []nexusraft.Member, name string) []nexusraft.Member {
	for _, match := range []func(nexusraft.Member) bool{
		func(x nexusraft.Member) bool { return x.Node.String() == strings.ToLower(name) },
		func(x nexusraft.Member) bool { return name != "" && x.Name == name },
		func(x nexusraft.Member) bool {
			return len(name) >= minPrefix && strings.HasPrefix(x.Node.String(), strings.ToLower(name))
		},
	} {
		var found []nexusraft.Member
		for _, x := range members {
			if match(x) {
				found = append(found, x)
			}
		}
		if len(found) > 0 {
			return found
		}
	}
	return nil
}

func candidates(members []nexusraft.Member) string {
	var out []string
	for _, x := range members {
		out = append(out, fmt.Sprintf("%s %s", x.Role, printable(x.String())))
	}
	return strings.Join(out, ", ")
}
