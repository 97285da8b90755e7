package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

type statusCommand struct {
	remote
}

func (*statusCommand) Help() string {
	return `Asks each endpoint for its own view. It fails if none of them answers.

Example:

  nexus-raft status --endpoints 127.0.0.1:2026,127.0.0.1:2036,127.0.0.1:2027`
}

// answer is what one endpoint said.
type answer struct {
	Endpoint string                `json:"endpoint"`
	Error    string                `json:"error,omitempty"`
	Status   *nexusraft.NodeStatus `json:"status,omitempty"`
}

func (c *statusCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer end()
	answered := false
	for _, endpoint := range c.Endpoints {
		a := answer{Endpoint: endpoint}
		status, err := conn.Status(ctx, endpoint)
		if err != nil {
			a.Error = err.Error()
		} else {
			a.Status, answered = &status, true
		}
		if c.JSON {
			err = printJSON(s.out, a)
		} else {
			err = printAnswer(s.out, a)
		}
		if err != nil {
			return err
		}
	}
	if !answered {
		return errors.New("status: no endpoint answered")
	}
	return nil
}

func printAnswer(w io.Writer, a answer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if a.Status == nil {
		fmt.Fprintf(t, "%s\tno answer: %s\n", a.Endpoint, a.Error)
		return t.Flush()
	}
	n := a.Status
	kind, health := "member", "healthy"
	if n.Witness {
		kind = "witness"
	}
	if !n.Healthy {
		health = "UNHEALTHY: " + n.Problem
	}
	fmt.Fprintf(t, "%s\t%s %s\t%s\n", a.Endpoint, kind, printable(n.Name), health)
	fmt.Fprintf(t, "  node\t%v\tcluster %v\tincarnation %d\t%d bytes on disk\n", n.Node, n.Cluster, n.Incarnation, n.DiskBytes)
	for _, z := range n.Zones {
		printZone(t, z)
	}
	return t.Flush()
}

func printZone(w io.Writer, z nexusraft.ZoneStatus) {
	leader := "none known"
	if m, ok := z.Membership.Replica(z.Leader); ok {
		leader = printable(m.Name)
	}
	fmt.Fprintf(w, "  zone %v\t%s, %s\tterm %d\tleader %s\tcommit %d\tapplied %d\tlog %d..%d\n",
		z.Zone, z.Role, z.State, z.Term, leader, z.Commit, z.Applied, z.FirstIndex, z.LastIndex)
	if z.Sync != nexusraft.SyncUnknown {
		fmt.Fprintf(w, "  \t%s since %s, index %d\n", z.Sync, z.SyncSince.Format("2006-01-02 15:04:05 MST"), z.SyncIndex)
	}
	for _, r := range z.Replicas {
		active := "active"
		if !r.Active {
			active = "SILENT"
		}
		fmt.Fprintf(w, "    %s\t%s\t%s\tmatch %d\t%s\t%s\n", printable(r.Name), r.Role, r.Address, r.Match, r.State, active)
	}
}
