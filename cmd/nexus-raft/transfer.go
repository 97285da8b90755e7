package main

import (
	"context"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

type transferCommand struct {
	Node string `arg:"" optional:"" help:"The member that is to lead; without one, the member that has most of the log."`
	remote
}

func (*transferCommand) Help() string {
	return nodeArgument + `

Prints the new leader when it leads. Witnesses and learners never lead.

Example:

  nexus-raft transfer n2`
}

func (c *transferCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{OnWait: sayWhy(s.err)})
	if err != nil {
		return err
	}
	defer end()
	zone, err := conn.Members(ctx)
	if err != nil {
		return err
	}
	var to nexusraft.Member
	if c.Node != "" {
		if to, err = findNode(zone.Membership, c.Node, isMember); err != nil {
			return err
		}
	}
	leader, err := conn.TransferLeader(ctx, to.Node)
	if err != nil {
		return howToAsk(err)
	}
	now, _ := zone.Membership.Node(leader)
	if c.JSON {
		return printJSON(s.out, struct {
			Leader nexusraft.NodeID `json:"leader"`
			Name   string           `json:"name"`
		}{leader, now.Name})
	}
	_, err = fmt.Fprintf(s.out, "%v leads\n", now)
	return err
}

func isMember(m nexusraft.Member) bool { return m.Role == nexusraft.RoleMember }
