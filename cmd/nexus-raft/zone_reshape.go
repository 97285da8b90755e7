package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

type zoneReshapeCommand struct {
	Name      zoneFlag `arg:"" help:"The zone, by its name or its ID."`
	Members   *int     `help:"How many nodes are to hold its data. Without it: as many as now." placeholder:"N"`
	Witnesses *int     `help:"How many witnesses are to vote; with --members alone none." placeholder:"N"`
	Spare     *bool    `help:"Have another node take the place of one that is silent for ten minutes." negatable:""`
	Prefer    string   `help:"The node that is to lead while it can." placeholder:"NODE" xor:"prefer"`
	AnyLeads  bool     `help:"Prefer no node any more." xor:"prefer"`
	Off       string   `help:"Keep the shape, and leave this node." placeholder:"NODE" env:"-"`
	With      string   `help:"The node that takes the place of that one; without it any." placeholder:"NODE" env:"-"`
	Instead   bool     `help:"Give up the change that is under way for this one." env:"-"`
	Wait      bool     `help:"Return when the zone is where it is to be."`
	asking
}

func (*zoneReshapeCommand) Help() string {
	return `What is not given stays as it is. The command decides where the zone is to be, and its leader gets it there
while it goes on: new members first get its data, then one joint change makes them members and takes the
others out, which drop theirs. A zone has 1, 2+1, 3, 4+1 or 5 replicas, members and witnesses; one with a
replica on each node gets a shape by this command, and keeps one from then on. In a cluster that speaks TLS
it is for admins of the root zone.

--off takes a zone off a node that is to leave the cluster or is lost. If no other node can take the place,
that stays empty until one joins; --with names the node that is to. The node gets no replica until a plan
is asked for again (--members 3).

Examples:

  nexus-raft zone reshape orders --members 3
  nexus-raft zone reshape orders --off n2 --wait`
}

func (c *zoneReshapeCommand) Run(ctx context.Context, s streams) error {
	if err := c.valid(); err != nil {
		return usageError{err}
	}
	conn, bounded, end, err := c.connect(ctx, client.Options{OnWait: sayWhy(s.err)})
	if err != nil {
		return err
	}
	defer end()
	zone, err := c.Name.info(bounded, conn)
	if err != nil {
		return err
	}
	want, err := c.want(bounded, conn, zone)
	if err != nil {
		return err
	}
	zone, err = conn.ReshapeZone(bounded, zone.ID, zone.Name, want)
	switch {
	case errors.Is(err, nexusraft.ErrUncertain):
		return fmt.Errorf("%w; ask again: it is done once", err)
	case err != nil:
		return err
	}
	if c.Wait {
		if zone, err = awaitPlaced(ctx, conn, zone); err != nil {
			return err
		}
	}
	if c.JSON {
		return printJSON(s.out, zone)
	}
	_, err = fmt.Fprintln(s.out, describeZone(zone))
	return err
}

func (c *zoneReshapeCommand) valid() error {
	plan := c.Members != nil || c.Witnesses != nil || c.Spare != nil || c.Prefer != "" || c.AnyLeads
	switch {
	case c.Name.id == nexusraft.RootZone:
		return errors.New("the root zone is on all nodes of the cluster; nexus-raft member promote and remove change its " +
			"members")
	case c.With != "" && c.Off == "":
		return errors.New("zone reshape: --with says which node takes the place of the one that --off names; " +
			"name that, too")
	case !plan && c.Off == "":
		return errors.New("zone reshape: say what is to change, --members for example")
	case plan && c.Off != "":
		return errors.New("zone reshape: --off keeps what the zone is to be; make the other change after it")
	}
	return nil
}

// want returns what is asked for: what the flags don't say the zone keeps.
func (c *zoneReshapeCommand) want(
	ctx context.Context, conn *client.Client, zone nexusraft.ZoneInfo,
) (want nexusraft.ZoneReshape, err error) {
	want = nexusraft.ZoneReshape{ZonePlan: zone.ZonePlan, Instead: c.Instead}
	if c.Off != "" {
		m, err := findNode(nexusraft.Membership{Members: zone.Placement}, c.Off, isMember)
		want.Off = m.Node
		if err == nil && c.With != "" {
			want.With, err = clusterNode(ctx, conn, c.With, anyReplica)
		}
		return want, err
	}
	if c.Members != nil {
		want.Shape = nexusraft.Shape{Members: *c.Members}
	}
	if c.Witnesses != nil {
		want.Shape.Witnesses = *c.Witnesses
	}
	if c.Spare != nil {
		want.Spare = *c.Spare
	}
	if c.AnyLeads {
		want.Preferred = 0
	}
	if c.Prefer != "" {
		if want.Preferred, err = preferred(ctx, conn, c.Prefer); err != nil {
			return want, err
		}
	}
	if err := want.Validate(); err != nil {
		return want, usageError{err}
	}
	return want, nil
}

// preferred returns the node of the cluster that an argument means; 0 for none.
func preferred(ctx context.Context, conn *client.Client, name string) (nexusraft.NodeID, error) {
	if name == "" {
		return 0, nil
	}
	return clusterNode(ctx, conn, name, func(m nexusraft.Member) bool { return m.Role.Full() })
}

// clusterNode returns the node of the cluster that an argument means; where it means several, one that fits.
func clusterNode(
	ctx context.Context, conn *client.Client, name string, fits func(nexusraft.Member) bool,
) (nexusraft.NodeID, error) {
	root, err := conn.Members(ctx)
	if err != nil {
		return 0, err
	}
	m, err := findNode(root.Membership, name, fits)
	return m.Node, err
}

// awaitPlaced waits until a zone is where it is to be, however long that takes.
func awaitPlaced(ctx context.Context, conn *client.Client, zone nexusraft.ZoneInfo) (nexusraft.ZoneInfo, error) {
	for zone.Moving {
		sleep(ctx, 100*time.Millisecond)
		if ctx.Err() != nil {
			return zone, fmt.Errorf("zone %s is still under way: %w", printable(zone.Name), ctx.Err())
		}
		now, err := conn.Zone(ctx, zone.ID)
		if err != nil {
			return zone, err
		}
		zone = now
	}
	return zone, nil
}

// moveOff has a zone with a shape leave a node that is to leave the cluster, and reports whether it had to.
func (r *remote) moveOff(
	ctx context.Context, s streams, info nexusraft.ZoneInfo, change nexusraft.MembershipChange,
) (changed bool, err error) {
	node := change.Remove | change.Replace
	on := func(m nexusraft.Member) bool { return m.Node == node }
	if node == 0 || !slices.ContainsFunc(info.Placement, on) && !slices.Contains(info.Leaving, node) {
		return false, nil
	}
	conn, ctx, end, err := r.connect(ctx, client.Options{OnWait: sayWhy(s.err)})
	if err != nil {
		return false, err
	}
	defer end()
	want := nexusraft.ZoneReshape{Off: node, With: change.With, Instead: true}
	if slices.ContainsFunc(info.Placement, func(m nexusraft.Member) bool { return m.Node == want.With }) {
		want.With = 0 // it is there already, so another node takes the place
	}
	info, err = conn.ReshapeZone(ctx, info.ID, info.Name, want)
	if err == nil {
		_, err = awaitPlaced(ctx, conn, info)
	}
	return err == nil, err
}

// shapeOf is a zone's shape for people.
func shapeOf(z nexusraft.ZoneInfo) string {
	switch {
	case z.Shape == nexusraft.Shape{}:
		return "each node"
	case z.Moving:
		return z.Shape.String() + ", moving"
	}
	return z.Shape.String()
}

// describePlacement says where a zone is, if that is not each node.
func describePlacement(z nexusraft.ZoneInfo) (text string) {
	if z.Shape != (nexusraft.Shape{}) {
		var names []string
		for _, m := range z.Placement {
			names = append(names, m.String())
		}
		text = fmt.Sprintf("\nshape %v: %s", z.Shape, strings.Join(names, ", "))
		if n := z.Shape.Members + z.Shape.Witnesses - len(z.Placement); n > 0 {
			text += fmt.Sprintf("; %d places are empty", n)
		}
		if z.Spare {
			text += "; a spare takes the place of a node that is lost"
		}
		if z.Moving {
			text += "; under way there"
		}
	}
	for _, node := range z.Off {
		text += fmt.Sprintf("\nit stays off node %v, which it was told to leave, until its shape is asked for again", node)
	}
	if z.Preferred != 0 {
		text += fmt.Sprintf("\nnode %v is to lead", z.Preferred)
	}
	return text
}

type zoneBalanceCommand struct {
	DryRun bool `help:"Print what would be moved, and move nothing."`
	asking
}

func (*zoneBalanceCommand) Help() string {
	return `Moves leaderships so that each node leads about as many zones as the others, and a zone that has a preferred
node is led by that. The root zone's leader counts and stays. Prints a line for each that is moved. In a cluster
that speaks TLS it is for admins of the zones.

Examples:

  nexus-raft zone balance --dry-run
  nexus-raft zone balance --json`
}

// movedZone is one line of zone balance --json.
type movedZone struct {
	client.LeaderMove
	Error string `json:"error,omitempty"` // why it was not moved
}

func (c *zoneBalanceCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{OnWait: sayWhy(s.err)})
	if err != nil {
		return err
	}
	defer end()
	moves, err := conn.Balance(ctx, c.DryRun)
	if err != nil {
		return err
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	failed := 0
	for _, m := range moves {
		line := movedZone{LeaderMove: m}
		if m.Err != nil {
			line.Error = m.Err.Error()
			failed++
		}
		if c.JSON {
			err = printJSON(s.out, line)
		} else {
			_, err = fmt.Fprintf(t, "%s (%v)\t%v\tto %v\t%s\n", printable(m.Name), m.Zone, m.From, m.To, line.Error)
		}
		if err != nil {
			return err
		}
	}
	if failed > 0 {
		err = fmt.Errorf("%d of %d leaderships were not moved; ask again", failed, len(moves))
	}
	return errors.Join(t.Flush(), err)
}
