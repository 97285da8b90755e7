package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// accessCommand is about what clients may do.
type accessCommand struct {
	Grant       accessGrantCommand       `cmd:"" help:"Give a name a role in one zone or in all."`
	Revoke      accessRevokeCommand      `cmd:"" help:"Take everything from a name, or its role in one zone."`
	List        accessListCommand        `cmd:"" help:"Print names, roles, and valid access tokens, without secrets."`
	Token       accessTokenCommand       `cmd:"" help:"Make an access token for a name that has a role."`
	RevokeToken accessRevokeTokenCommand `cmd:"" help:"Take an access token back."`
	Cert        accessCertCommand        `cmd:"" help:"Make a key and a certificate for a name that has a role."`
	CA          accessCACommand          `cmd:"" name:"ca" help:"Print the cluster's CA certificate, which is public."`
	Recover     accessRecoverCommand     `cmd:"" help:"Make credentials from a stopped member's data directory."`
}

// accessHelp is what the commands have in common.
const accessHelp = `In a cluster that speaks TLS a client has a name, which its certificate or access token carries.
The name's roles say what the client may do: read, write (and read), or admin (and write). Only an
admin of the root zone may change names, roles and tokens.`

// inZone is for people; name is "" if it is not known.
func inZone(id nexusraft.ZoneID, name string) string {
	return whichZone{zoneFlag{id, name}, id == nexusraft.EveryZone}.String()
}

type accessGrantCommand struct {
	Name string    `arg:"" help:"The client's name: 1 to 64 letters, digits, dots, hyphens and underscores."`
	Role string    `help:"The role: read, write or admin." enum:"read,write,admin" required:""`
	Zone whichZone `help:"The zone, by its name or its ID, or all." default:"all" env:"-" placeholder:"NAME"`
	asking
}

func (*accessGrantCommand) Help() string {
	return accessHelp + `

The role replaces the one that the name has in that zone; of a role for the zone and one for all
zones, the higher one counts. Open connections get it at once, too.

Examples:

  nexus-raft access grant backup --role read --credentials D1/admin.pem
  nexus-raft access grant billing --role write --zone orders --credentials D1/admin.pem`
}

func (c *accessGrantCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	if err := c.Zone.find(ctx, &c.asking); err != nil {
		return err
	}
	// IDs are given in their order: a role in a zone that is still to come would be one in whatever comes.
	if !c.Zone.all {
		if _, err := conn.Zone(ctx, c.Zone.id); errors.Is(err, nexusraft.ErrZoneNotFound) {
			return fmt.Errorf("there is no %v; nexus-raft zone list shows which there are", c.Zone)
		}
	}
	given := nexusraft.ZoneRole{Zone: c.Zone.id, Role: nexusraft.AccessRole(c.Role)}
	if err := conn.Grant(ctx, c.Name, given.Zone, given.Role); err != nil {
		return howToList(err)
	}
	if c.JSON {
		return printJSON(s.out, struct {
			Name string `json:"name"`
			nexusraft.ZoneRole
		}{c.Name, given})
	}
	_, err = fmt.Fprintf(s.out, "%s has the role %s in %s\n", printable(c.Name), given.Role, c.Zone)
	return err
}

type accessRevokeCommand struct {
	Name string     `arg:"" help:"The client's name."`
	Zone *whichZone `help:"${revokeZone}" env:"-" placeholder:"NAME|all"`
	asking
}

func (*accessRevokeCommand) Help() string {
	return accessHelp + `

A name that loses its last role loses all its access tokens, and its certificates grant nothing until
the name is given a role again. Open connections lose the right at once; a member that is cut off from
the others goes by what it knows until it is back.

Examples:

  nexus-raft access revoke billing --credentials D1/admin.pem
  nexus-raft access revoke billing --zone orders --credentials D1/admin.pem`
}

func (c *accessRevokeCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	done, zone := "revoked all roles and tokens of "+printable(c.Name), nexusraft.EveryZone
	if c.Zone == nil {
		err = conn.RevokeAll(ctx, c.Name)
	} else {
		if err := c.Zone.find(ctx, &c.asking); err != nil {
			return err
		}
		zone = c.Zone.id
		done = fmt.Sprintf("revoked the role of %s in %s", printable(c.Name), c.Zone)
		err = conn.Revoke(ctx, c.Name, zone)
	}
	if err != nil {
		return howToList(err)
	}
	if c.JSON {
		return printJSON(s.out, struct {
			Name       string           `json:"name"`
			Zone       nexusraft.ZoneID `json:"zone,omitzero"`
			Everything bool             `json:"everything"`
		}{c.Name, zone, c.Zone == nil})
	}
	_, err = fmt.Fprintln(s.out, done)
	return err
}

type accessListCommand struct {
	asking
}

func (*accessListCommand) Help() string {
	return accessHelp + `

A role in a zone that was deleted stays until it is revoked, by the zone's ID, and is good for nothing: no
other zone gets the ID, also none of the same name.

With --json: one object per name; the zone of a role for all zones is left out.

Example:

  nexus-raft access list --credentials D1/admin.pem`
}

func (c *accessListCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	list, err := conn.ListAccess(ctx)
	if err != nil {
		return err
	}
	if !c.JSON {
		var names map[nexusraft.ZoneID]string
		all := false
		if slices.ContainsFunc(list, hasRoleInAZone) {
			names, all = zoneNames(ctx, conn)
		}
		return printAccess(s.out, list, names, all)
	}
	for _, p := range list {
		if err := printJSON(s.out, p); err != nil {
			return err
		}
	}
	return nil
}

// hasRoleInAZone reports whether a name has a role in a zone that may have a name.
func hasRoleInAZone(p nexusraft.Principal) bool {
	return slices.ContainsFunc(p.Roles, func(r nexusraft.ZoneRole) bool { return r.Zone > nexusraft.RootZone })
}

// printAccess prints a line for each role, and then one for each token. A role in a zone that is none of all
// zones is good for nothing.
func printAccess(w io.Writer, list []nexusraft.Principal, zones map[nexusraft.ZoneID]string, all bool) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tROLE\tIN")
	tokens := 0
	for _, p := range list {
		for _, r := range p.Roles {
			name, ok := zones[r.Zone]
			in := inZone(r.Zone, printable(name))
			if all && !ok && r.Zone > nexusraft.RootZone {
				in += ", which there is not (any more)"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\n", printable(p.Name), r.Role, in)
		}
		tokens += len(p.Tokens)
	}
	if err := t.Flush(); err != nil || tokens == 0 {
		return err
	}
	fmt.Fprintln(t, "\nTOKEN\tOF\tEXPIRES")
	for _, p := range list {
		for _, x := range p.Tokens {
			fmt.Fprintf(t, "%s\t%s\t%s\n", x.ID, printable(p.Name), x.Expires.Format(time.RFC3339))
		}
	}
	return t.Flush()
}

// howToList adds to an uncertain change which command shows what has become of it.
func howToList(err error) error {
	if errors.Is(err, nexusraft.ErrUncertain) {
		return fmt.Errorf("%w; look at what there is before you ask again: nexus-raft access list", err)
	}
	return err
}
