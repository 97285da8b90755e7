package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// zoneCommand is about the zones of a cluster.
type zoneCommand struct {
	Create  zoneCreateCommand  `cmd:"" set:"timeout=20s" help:"Make a zone, on each node or on some."`
	Reshape zoneReshapeCommand `cmd:"" set:"timeout=20s" help:"Change a zone's replicas, or who is to lead it."`
	Balance zoneBalanceCommand `cmd:"" set:"timeout=20s" help:"Spread the zones' leaders evenly over the nodes."`
	Delete  zoneDeleteCommand  `cmd:"" set:"timeout=20s" help:"Delete a zone and all its data, for ever."`
	List    zoneListCommand    `cmd:"" help:"Print the zones besides the root zone."`
	Show    zoneShowCommand    `cmd:"" set:"timeout=2s" help:"Print what a zone is, and how each node sees it."`
}

type zoneCreateCommand struct {
	Name    string `arg:"" help:"${zoneName}"`
	Machine string `help:"Which state machine it runs, by the name that the nodes' program has for it." default:"kv"`

	Members   int    `help:"How many nodes hold its data; 0: each node of the cluster." default:"0"`
	Witnesses int    `help:"How many witnesses vote beside them." default:"0"`
	Spare     bool   `help:"Have another node take the place of one that is silent for ten minutes."`
	Prefer    string `help:"The node that is to lead while it can." placeholder:"NODE"`
	asking
}

func (*zoneCreateCommand) Help() string {
	return `A zone is a state of its own: its keys, its events, its leader. It needs no more nodes than the cluster
has. A name is for one zone: if there is one of this name that runs the same state machine, the command
prints that, and changes nothing; so it may be repeated whenever its outcome is not known. In a cluster
that speaks TLS it is for admins of the root zone.

Without --members it has a replica on each node. With them it has as many as its shape says, on the nodes
that have the fewest: 1, 2+1, 3, 4+1 or 5, members and witnesses.

Examples:

  nexus-raft zone create orders --endpoints 127.0.0.1:2026,127.0.0.1:2036
  nexus-raft zone create carts --members 3 --spare --prefer n2
  nexus-raft put greeting hello --zone orders`
}

func (c *zoneCreateCommand) Run(ctx context.Context, s streams) error {
	if err := nexusraft.ValidateZoneName(c.Name); err != nil {
		return usageError{err}
	}
	if err := nexusraft.ValidateMachineName(c.Machine); err != nil {
		return usageError{err}
	}
	plan := nexusraft.ZonePlan{
		Shape: nexusraft.Shape{Members: c.Members, Witnesses: c.Witnesses}, Spare: c.Spare,
	}
	if err := plan.Validate(); err != nil {
		return usageError{err}
	}
	conn, ctx, end, err := c.connect(ctx, client.Options{OnWait: sayWhy(s.err)})
	if err != nil {
		return err
	}
	defer end()
	if plan.Preferred, err = preferred(ctx, conn, c.Prefer); err != nil {
		return err
	}
	zone, err := conn.CreateZone(ctx, c.Name, c.Machine, plan)
	switch {
	case errors.Is(err, nexusraft.ErrUncertain):
		return fmt.Errorf("%w; ask again: it is made once", err)
	case err != nil:
		return err
	case c.JSON:
		return printJSON(s.out, zone)
	}
	_, err = fmt.Fprintln(s.out, describeZone(zone))
	return err
}

// describeZone is what the cluster keeps of a zone, for people.
func describeZone(z nexusraft.ZoneInfo) string {
	text := fmt.Sprintf("zone %s (%v)", printable(z.Name), z.ID)
	if z.Machine != "" { // it is not kept of the root zone
		text += fmt.Sprintf(" with state machine %s, created %s", printable(z.Machine), z.Created.Format(time.RFC3339))
	}
	return text + describePlacement(z)
}

type zoneDeleteCommand struct {
	Name zoneFlag `arg:"" help:"The zone, by its name or its ID."`
	Yes  bool     `help:"Delete it without asking." env:"-"`
	asking
}

func (*zoneDeleteCommand) Help() string {
	return `Deletes the zone with its keys and events, on all nodes, for ever. Nodes that are off follow when they
come back. There is no way back but an export or a backup from before. The name is free again at once;
the ID is never used again. On a terminal the command first has the name typed in; elsewhere it
needs --yes. In a cluster that speaks TLS it is for admins of the root zone.

Examples:

  nexus-raft zone delete orders
  nexus-raft zone delete orders --yes`
}

func (c *zoneDeleteCommand) Run(ctx context.Context, s streams) error {
	switch {
	case c.Name.id == nexusraft.RootZone:
		return usageError{errors.New("the root zone can't be deleted: the cluster's nodes, roles and zones are in it")}
	case !c.Yes && !(isTerminal(s.in) && isTerminal(s.err)):
		return usageError{fmt.Errorf("zone delete: this is no terminal to ask at; to delete %v with all its data: --yes",
			c.Name)}
	}
	zone, err := c.look(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.err, "%s: all its keys and events will be lost, on every node, for ever\n", describeZone(zone))
	if !c.Yes {
		if err := confirm(ctx, s.in, s.err, zone.Name); err != nil {
			return err
		}
	}
	conn, ctx, end, err := c.connect(ctx, client.Options{OnWait: sayWhy(s.err)}) // how long the answer took is no matter
	if err != nil {
		return err
	}
	defer end()
	err = conn.DeleteZone(ctx, zone.ID, zone.Name)
	switch {
	case errors.Is(err, nexusraft.ErrUncertain):
		return fmt.Errorf("%w; look whether it is there before you ask again: nexus-raft zone list", err)
	case err != nil:
		return err
	case c.JSON:
		return printJSON(s.out, zone)
	}
	_, err = fmt.Fprintf(s.out, "deleted zone %s (%v)\n", printable(zone.Name), zone.ID)
	return err
}

// look returns what is to be deleted.
func (c *zoneDeleteCommand) look(ctx context.Context) (nexusraft.ZoneInfo, error) {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return nexusraft.ZoneInfo{}, err
	}
	defer end()
	return c.Name.info(ctx, conn)
}

// confirm returns an error unless a name is typed in.
func confirm(ctx context.Context, in io.Reader, out io.Writer, name string) error {
	fmt.Fprintf(out, "to delete it, type its name: ")
	typed := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(in).ReadString('\n')
		typed <- strings.TrimSpace(line)
	}()
	select {
	case <-ctx.Done():
		return errors.New("interrupted, nothing was deleted")
	case line := <-typed:
		if line != name {
			return fmt.Errorf("%s is not its name, nothing was deleted", printable(line))
		}
		return nil
	}
}

type zoneListCommand struct {
	asking
}

func (*zoneListCommand) Help() string {
	return `Prints a line for each zone, by ID, as a quorum of the root zone knows them. The root zone (1), which
every cluster has, is left out. With --json: one object per line. --timeout is for each page of 1,000.

Example:

  nexus-raft zone list --endpoints 127.0.0.1:2026,127.0.0.1:2036`
}

func (c *zoneListCommand) Run(ctx context.Context, s streams) error {
	conn, err := c.client(client.Options{PageTimeout: c.Timeout})
	if err != nil {
		return err
	}
	defer conn.Close()
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	if !c.JSON {
		fmt.Fprintln(t, "ID\tNAME\tSTATE MACHINE\tCREATED\tSHAPE")
	}
	listed := false
	for z, err := range conn.Zones(ctx) {
		switch {
		case err != nil && !listed:
			return err // without the header, which alone would be the list of a cluster without zones
		case err != nil:
			return errors.Join(t.Flush(), err)
		case c.JSON:
			err = printJSON(s.out, z)
		default:
			_, err = fmt.Fprintf(t, "%v\t%s\t%s\t%s\t%s\n", z.ID, printable(z.Name), printable(z.Machine),
				z.Created.Format(time.RFC3339), shapeOf(z))
		}
		if err != nil {
			return err
		}
		listed = true
	}
	return t.Flush()
}
