package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
	"github.com/nexi-lab/nexus-raft/internal/availability"
)

type zoneShowCommand struct {
	Name zoneFlag `arg:"" help:"The zone, by its name or its ID."`
	asking
}

func (*zoneShowCommand) Help() string {
	return `Prints what the cluster keeps of the zone, and a line for each node, as the node itself says: its role
in the zone, its state, which node it takes for the leader, up to where it has applied the log, and,
if it leads, whether the zone is in sync. What the zone can lose: nexus-raft status --zone NAME.

Examples:

  nexus-raft zone show orders
  nexus-raft zone show root --json`
}

// zoneView is how one node sees a zone.
type zoneView struct {
	Endpoint string                `json:"endpoint"`
	Error    string                `json:"error,omitempty"` // why it does not answer
	Node     nexusraft.NodeID      `json:"node,omitzero"`
	Name     string                `json:"name,omitempty"`
	Status   *nexusraft.ZoneStatus `json:"status,omitempty"` // nil if it has no replica of the zone
	problem  string
}

func (c *zoneShowCommand) Run(ctx context.Context, s streams) error {
	conn, bounded, end, err := c.connect(ctx, client.Options{DialTimeout: c.Timeout, AttemptTimeout: c.Timeout})
	if err != nil {
		return err
	}
	defer end()
	zone, err := c.Name.info(bounded, conn)
	if err != nil {
		return err
	}
	views := viewsOf(zone.ID, conn.SurveyZone(ctx, zone.ID))
	if c.JSON {
		return printJSON(s.out, struct {
			nexusraft.ZoneInfo
			Nodes []zoneView `json:"nodes"`
		}{zone, views})
	}
	fmt.Fprintln(s.out, describeZone(zone))
	return printViews(s.out, views)
}

func viewsOf(zone nexusraft.ZoneID, answers []client.Answer) (views []zoneView) {
	for _, a := range answers {
		v := zoneView{Endpoint: a.Address, Node: a.Status.Node, Name: a.Status.Name, problem: a.Status.Problem}
		if a.Err != nil {
			v.Error = availability.Cause(a)
		}
		for i := range a.Status.Zones {
			if a.Status.Zones[i].Zone == zone {
				v.Status = &a.Status.Zones[i]
			}
		}
		views = append(views, v)
	}
	return views
}

func printViews(w io.Writer, views []zoneView) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tNODE\tADDRESS\tROLE\tSTATE\tLEADER\tAPPLIED\tSYNC")
	// What is said in place of a state stands in the last column: a row that ends before it would end the table.
	const noState = "-\t-\t-\t-\t"
	for _, v := range views {
		if v.Error != "" {
			fmt.Fprintf(t, "-\t-\t%s\t"+noState+"does not answer: %s\n", printable(v.Endpoint), v.Error)
			continue
		}
		fmt.Fprintf(t, "%s\t%v\t%s\t", cmp.Or(printable(v.Name), "-"), v.Node, printable(v.Endpoint))
		z := v.Status
		if z == nil {
			fmt.Fprintln(t, noState+cmp.Or(nexusraft.PrintableText(v.problem), "no replica of it"))
			continue
		}
		leader := "unknown"
		if m, ok := z.Membership.Replica(z.Leader); ok {
			leader = printable(cmp.Or(m.Name, m.Node.String()))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s\n", z.Role, z.State, leader, z.Applied, cmp.Or(string(z.Sync), "-"))
	}
	return t.Flush()
}
