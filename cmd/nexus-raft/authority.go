package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// authorityCommand is about the certificate authority of a cluster.
type authorityCommand struct {
	Status authorityStatusCommand `cmd:"" help:"Print which authority signs certificates, and which nodes follow."`
	Rotate authorityRotateCommand `cmd:"" help:"Begin to replace the authority: nodes believe a new one, too."`
	Switch authoritySwitchCommand `cmd:"" help:"Have the new authority sign; nodes renew their certificates."`
	Finish authorityFinishCommand `cmd:"" help:"Take the old authority away."`
	CA     authorityCACommand     `cmd:"" name:"ca" help:"Print the certificates of the authorities to believe."`
}

// authorityHelp is what the commands have in common.
const authorityHelp = `The authority is replaced in three steps. A step is refused while nodes are not ready for it; the
refusal names them:

  nexus-raft authority rotate   the cluster believes a new one, too, which signs for clients
  nexus-raft authority switch   the new one signs for nodes, which renew their certificates; the old
                                private key is deleted
  nexus-raft authority finish   the cluster no longer believes the old one

Between the first step and the second give every client new credentials, first those that you use here:
from nexus-raft access cert, or, for clients with an access token, what nexus-raft authority ca prints.
Older credentials end with the second step or the third, all join tokens with both. Any step can be
repeated, at any member. The steps need the role admin in the root zone.

Until the last step a holder of the old key can do everything, get certificates of the new authority
included: if others have it, let only the nodes and yourself reach the ports until then, and check
member list and access list afterwards.`

// stepping are the flags of a step.
type stepping struct {
	Without []string `help:"${without}" placeholder:"NODE"`
	asking
}

// take takes a step, once ready has nothing against it.
func (c *stepping) take(
	ctx context.Context, s streams, to nexusraft.AuthorityPhase, ready func(nexusraft.Authorities) error,
) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	all, err := conn.Authorities(ctx)
	if err != nil {
		return err
	}
	without, err := c.without(all)
	if err == nil {
		err = ready(all)
	}
	if err != nil {
		return err
	}
	if all, err = conn.RotateAuthority(ctx, to, without...); err != nil {
		return err
	}
	return printAuthorities(s.out, all, c.JSON)
}

// without returns the nodes of --without.
func (c *stepping) without(all nexusraft.Authorities) (ids []nexusraft.NodeID, err error) {
	var m nexusraft.Membership
	for _, n := range all.Nodes {
		m.Members = append(m.Members, nexusraft.Member{Node: n.Node, Name: n.Name, Role: n.Role})
	}
	for _, name := range c.Without {
		x, err := findNode(m, name, anyReplica)
		if err != nil {
			return nil, fmt.Errorf("--without: %w", err)
		}
		ids = append(ids, x.Node)
	}
	return ids, nil
}

// prepared refuses a step that would end the credentials with which it is asked for.
func (c *stepping) prepared(all nexusraft.Authorities) error {
	own, _, err := c.read()
	if err != nil || own == nil {
		return err
	}
	if err := client.Outlives(own, all); err != nil {
		return fmt.Errorf("--credentials %s: %w; make new ones first: nexus-raft access cert NAME --out FILE", c.Credentials,
			err)
	}
	return nil
}

type authorityRotateCommand struct{ stepping }

func (*authorityRotateCommand) Help() string {
	return authorityHelp + `

Example:

  nexus-raft authority rotate --credentials D1/admin.pem
  nexus-raft access cert admin --credentials D1/admin.pem --out admin2.pem
  nexus-raft authority switch --credentials admin2.pem
  nexus-raft authority status --credentials admin2.pem
  nexus-raft authority finish --credentials admin2.pem`
}

func (c *authorityRotateCommand) Run(ctx context.Context, s streams) error {
	return c.take(ctx, s, nexusraft.AuthorityBelieved, func(nexusraft.Authorities) error { return nil })
}

type authoritySwitchCommand struct{ stepping }

func (*authoritySwitchCommand) Help() string { return authorityHelp }

func (c *authoritySwitchCommand) Run(ctx context.Context, s streams) error {
	return c.take(ctx, s, nexusraft.AuthoritySigns, c.prepared)
}

type authorityFinishCommand struct{ stepping }

func (*authorityFinishCommand) Help() string { return authorityHelp }

func (c *authorityFinishCommand) Run(ctx context.Context, s streams) error {
	return c.take(ctx, s, nexusraft.AuthorityAlone, c.prepared)
}

type authorityStatusCommand struct{ asking }

func (*authorityStatusCommand) Help() string {
	return `BELIEVES says whether a node believes exactly the authorities that the cluster believes; SHOWS, whether
its certificate is of the one that signs for nodes.

Example:

  nexus-raft authority status --credentials D1/admin.pem`
}

func (c *authorityStatusCommand) Run(ctx context.Context, s streams) error {
	all, err := c.ask(ctx)
	if err != nil {
		return err
	}
	return printAuthorities(s.out, all, c.JSON)
}

type authorityCACommand struct{ asking }

func (*authorityCACommand) Help() string {
	return `Prints PEM: while an authority is replaced, two certificates; a client that believes both goes on
through all steps. With an access token they are a client's credentials. nexus-raft access ca prints
those in a file of credentials, without asking the cluster.

Example:

  nexus-raft authority ca --credentials D1/admin.pem >ca.pem`
}

func (c *authorityCACommand) Run(ctx context.Context, s streams) error {
	all, err := c.ask(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, struct {
			Certificates string `json:"certificates"`
		}{string(all.Certificates)})
	}
	_, err = s.out.Write(all.Certificates)
	return err
}

func (a *asking) ask(ctx context.Context) (nexusraft.Authorities, error) {
	conn, ctx, end, err := a.connect(ctx, client.Options{})
	if err != nil {
		return nexusraft.Authorities{}, err
	}
	defer end()
	return conn.Authorities(ctx)
}

// signer is one authority as JSON.
type signer struct {
	Fingerprint string    `json:"fingerprint"` // SHA-256
	Expires     time.Time `json:"expires"`
	SignsFor    []string  `json:"signs_for,omitempty"`
}

// signers are the authorities, that of nodes first.
func signers(all nexusraft.Authorities) ([]signer, error) {
	list, err := client.DescribeAuthorities(all.Certificates)
	if err != nil {
		return nil, err
	}
	var out []signer
	for i, x := range list {
		s := signer{Fingerprint: hex.EncodeToString(x.Fingerprint[:]), Expires: x.Expires}
		believed := all.Phase == nexusraft.AuthorityBelieved
		if i == 0 {
			s.SignsFor = []string{"nodes"}
		}
		if i == 0 && !believed || i == 1 && believed {
			s.SignsFor = append(s.SignsFor, "clients")
		}
		out = append(out, s)
	}
	return out, nil
}

func printAuthorities(w io.Writer, all nexusraft.Authorities, asJSON bool) error {
	list, err := signers(all)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(w, struct {
			Phase       nexusraft.AuthorityPhase  `json:"phase"`
			Authorities []signer                  `json:"authorities"`
			Nodes       []nexusraft.AuthorityNode `json:"nodes"`
		}{all.Phase, list, all.Nodes})
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "AUTHORITY\tEXPIRES\tSIGNS FOR")
	for _, x := range list {
		fmt.Fprintf(t, "%.16s\t%s\t%s\n", x.Fingerprint, x.Expires.Format(time.RFC3339),
			cmp.Or(strings.Join(x.SignsFor, " and "), "none"))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(t, "NAME\tNODE\tROLE\tBELIEVES\tSHOWS")
	for _, n := range all.Nodes {
		believes, shows := yesNo(n.Believes), yesNo(n.Shows)
		if n.Problem != "" {
			believes, shows = "?", "?"
		}
		fmt.Fprintf(t, "%s\t%v\t%s\t%s\t%s\n", cmp.Or(printable(n.Name), "-"), n.Node, n.Role, believes, shows)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range all.Nodes {
		if n.Problem != "" {
			fmt.Fprintf(w, "%s: %s\n", cmp.Or(printable(n.Name), n.Node.String()), printable(n.Problem))
		}
	}
	_, err = fmt.Fprintln(w, authorityAdvice(all))
	return err
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// authorityAdvice says what comes next.
func authorityAdvice(all nexusraft.Authorities) string {
	next := all.Phase.Next()
	waits := slices.ContainsFunc(all.Nodes, func(n nexusraft.AuthorityNode) bool { return n.Lacks(next) != "" })
	switch {
	case all.Phase == nexusraft.AuthorityAlone:
		return "one authority is believed; to replace it: nexus-raft authority rotate"
	case all.Phase == nexusraft.AuthorityBelieved && waits:
		return "a new authority is to be believed, too; not all nodes do yet: nexus-raft authority status"
	case all.Phase == nexusraft.AuthorityBelieved:
		return "a new authority is believed, too; give clients new credentials (nexus-raft access cert, or authority ca), " +
			"and then: nexus-raft authority switch"
	case waits:
		return "the new authority signs; not all nodes have renewed their certificates yet: nexus-raft authority status"
	}
	return "the new authority signs, and all nodes show certificates of it; the old one ends with: nexus-raft authority " +
		"finish"
}
