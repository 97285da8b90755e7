package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// accessCommand is about what clients may do.
type accessCommand struct {
	Grant       accessGrantCommand       `cmd:"" help:"Give a name a role in one zone or in all."`
	Revoke      accessRevokeCommand      `cmd:"" help:"Take everything from a name, or its role in one zone."`
	List        accessListCommand        `cmd:"" help:"Print who may do what, and the access tokens that are still good, without their secrets."`
	Token       accessTokenCommand       `cmd:"" help:"Make an access token for a name that has a role."`
	RevokeToken accessRevokeTokenCommand `cmd:"" help:"Take an access token back."`
	Cert        accessCertCommand        `cmd:"" help:"Make a key and a certificate for a name that has a role."`
	CA          accessCACommand          `cmd:"" name:"ca" help:"Print the certificate of the cluster's CA, which is no secret."`
	Recover     accessRecoverCommand     `cmd:"" help:"Make a key and a certificate from a stopped member's data directory, when all credentials are lost."`
}

// accessHelp is what the commands have in common.
const accessHelp = `Where a cluster speaks TLS, a client is known by the name in its certificate or access token, and does what that
name's roles allow: read, write (and read), or admin (and write). It takes the role admin in the root zone to change who may do what.`

// whichZone is one zone, or all: client.EveryZone.
type whichZone nexusraft.ZoneID

// UnmarshalText implements encoding.TextUnmarshaler.
func (z *whichZone) UnmarshalText(text []byte) error {
	if string(text) == "all" {
		*z = whichZone(client.EveryZone)
		return nil
	}
	var id nexusraft.ZoneID
	if err := id.UnmarshalText(text); err != nil {
		return fmt.Errorf("%w; give all for every zone", err)
	}
	if id == client.EveryZone {
		return fmt.Errorf("%s is no zone; 1 is the root zone, all is every one", text)
	}
	*z = whichZone(id)
	return nil
}

// inZone is for people.
func inZone(id nexusraft.ZoneID) string {
	if id == client.EveryZone {
		return "all zones"
	}
	return "zone " + id.String()
}

type accessGrantCommand struct {
	Name string    `arg:"" help:"Who: 1 to 64 letters, digits, dots, hyphens and underscores."`
	Role string    `help:"What: read, write or admin." enum:"read,write,admin" required:""`
	Zone whichZone `help:"Where, in hexadecimal, 1 is the root zone; or all." default:"all" env:"-" placeholder:"HEX"`
	asking
}

func (*accessGrantCommand) Help() string {
	return accessHelp + `

The role takes the place of the one that the name has in that zone; of a role for the zone and one for
all, the higher one counts. It holds from now on for those who are connected, too.

Examples:

  nexus-raft access grant backup --role read --credentials D1/admin.pem
  nexus-raft access grant billing --role write --zone 1 --credentials D1/admin.pem`
}

func (c *accessGrantCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	given := client.ZoneRole{Zone: nexusraft.ZoneID(c.Zone), Role: nexusraft.AccessRole(c.Role)}
	if err := conn.Grant(ctx, c.Name, given.Zone, given.Role); err != nil {
		return howToList(err)
	}
	if c.JSON {
		return printJSON(s.out, struct {
			Name string `json:"name"`
			client.ZoneRole
		}{c.Name, given})
	}
	_, err = fmt.Fprintf(s.out, "%s has the role %s in %s\n", printable(c.Name), given.Role, inZone(given.Zone))
	return err
}

type accessRevokeCommand struct {
	Name string     `arg:"" help:"Whose."`
	Zone *whichZone `help:"Take only the role in this zone, in hexadecimal, or the one for all zones; without it, all roles and tokens." env:"-" placeholder:"HEX|all"`
	asking
}

func (*accessRevokeCommand) Help() string {
	return accessHelp + `

Who has lost the last role has lost all access tokens. Certificates in that name are good for nothing until it is given a
role again. It holds at once for those who are connected; a member that is cut off from the others
goes by what it knows until it is back.

Examples:

  nexus-raft access revoke billing --credentials D1/admin.pem
  nexus-raft access revoke billing --zone 2 --credentials D1/admin.pem`
}

func (c *accessRevokeCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	done, zone := "revoked all roles and tokens of "+printable(c.Name), client.EveryZone
	if c.Zone == nil {
		err = conn.RevokeAll(ctx, c.Name)
	} else {
		zone = nexusraft.ZoneID(*c.Zone)
		done = fmt.Sprintf("revoked the role of %s in %s", printable(c.Name), inZone(zone))
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
		return printAccess(s.out, list)
	}
	for _, p := range list {
		if err := printJSON(s.out, p); err != nil {
			return err
		}
	}
	return nil
}

// printAccess prints a line for each role, and then one for each token.
func printAccess(w io.Writer, list []client.Principal) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tROLE\tIN")
	tokens := 0
	for _, p := range list {
		for _, r := range p.Roles {
			fmt.Fprintf(t, "%s\t%s\t%s\n", printable(p.Name), r.Role, inZone(r.Zone))
		}
		tokens += len(p.Tokens)
	}
	if err := t.Flush(); err != nil || tokens == 0 {
		return err
	}
	fmt.Fprintln(t, "\nTOKEN\tOF\tEXPIRES")
	for _, p := range list {
		for _, x := range p.Tokens {
			fmt.Fprintf(t, "%s\t%s\t%s\n", printable(x.ID), printable(p.Name), x.Expires.Format(time.RFC3339))
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
