package main

import (
	"cmp"
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

// tokenCommand is about join tokens.
type tokenCommand struct {
	Create tokenCreateCommand `cmd:"" help:"Make a token with which a node can join a cluster that speaks TLS."`
	List   tokenListCommand   `cmd:"" help:"Print the tokens that are still valid, without their secrets."`
	Revoke tokenRevokeCommand `cmd:"" help:"Take a token back; nodes that have joined with it stay."`
}

type tokenCreateCommand struct {
	asking
	Role string        `help:"${tokenRole}" enum:"member,witness" required:""`
	TTL  time.Duration `help:"How long it is valid, 720h at most." default:"1h"`
	Uses uint32        `help:"How many nodes may join with it, 64 at most." default:"1"`
}

func (*tokenCreateCommand) Help() string {
	return `The token is a secret: its holder can join. It also tells the node which cluster to believe.
Prints the token, and to standard error how to use it.

Example:

  nexus-raft token create --role witness --credentials D1/admin.pem >token
  nexus-witness --data-dir W --listen 10.0.0.3:2027 --join 10.0.0.1:2026 --token-file token`
}

func (c *tokenCreateCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	role := nexusraft.Role(c.Role)
	text, info, err := conn.CreateToken(ctx, role, c.TTL, c.Uses)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(s.out, struct {
			Token string `json:"token"`
			nexusraft.JoinToken
		}{text, info})
	}
	if _, err := fmt.Fprintln(s.out, text); err != nil {
		return err
	}
	program := "nexus-raft serve"
	if role == nexusraft.RoleWitness {
		program = "nexus-witness"
	}
	fmt.Fprintf(s.err, "good until %s; join with: NEXUS_RAFT_TOKEN=... %s --tls --data-dir DIR --join %s\n",
		info.Expires.Format(time.RFC3339), program, c.Endpoints[0])
	return nil
}

type tokenListCommand struct {
	asking
}

func (c *tokenListCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	tokens, err := conn.Tokens(ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		for _, t := range tokens {
			if err := printJSON(s.out, t); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TOKEN\tROLE\tEXPIRES\tUSES LEFT\tUSED")
	for _, t := range tokens {
		fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%d\n", t.ID, cmp.Or(string(t.Role), "any"), t.Expires.Format(time.RFC3339),
			t.UsesLeft, len(t.Nodes))
	}
	return w.Flush()
}

type tokenRevokeCommand struct {
	Token string `arg:"" help:"The token's identifier, as token list prints it."`
	asking
}

func (c *tokenRevokeCommand) Run(ctx context.Context, _ streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	return conn.RevokeToken(ctx, c.Token)
}
