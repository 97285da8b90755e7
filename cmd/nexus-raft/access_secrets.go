package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/client"
)

type accessTokenCommand struct {
	Name string        `arg:"" help:"The client's name."`
	TTL  time.Duration `help:"How long it is valid, 8784h at most." default:"720h"`
	Out  string        `help:"${tokenOut}" placeholder:"FILE"`
	asking
}

func (*accessTokenCommand) Help() string {
	return accessHelp + `

An access token is a secret: its holder may do what the name may. It is shown once: the command prints
it to standard output, and how to use it to standard error. etcd's clients send it as the metadata
authorization, after "Bearer ", or token.

Examples:

  nexus-raft access token billing --credentials D1/admin.pem --out billing.pem
  nexus-raft get greeting --credentials billing.pem
  nexus-raft access token billing --ttl 24h --credentials D1/admin.pem >token
  nexus-raft access ca --credentials D1/admin.pem >ca.pem
  nexus-raft get greeting --credentials ca.pem --access-token-file token`
}

// issuedToken is a new token as JSON.
type issuedToken struct {
	Token string `json:"token,omitempty"` // unless it is in the file
	nexusraft.AccessToken
	File string `json:"file,omitempty"`
}

func (c *accessTokenCommand) Run(ctx context.Context, s streams) error {
	if err := checkTTL(c.TTL); err != nil {
		return err
	}
	if c.Out != "" && c.Credentials == "" {
		return usageError{errors.New("--out needs --credentials: the file is to say which cluster to believe, too")}
	}
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	issued := issuedToken{File: c.Out}
	if c.Out == "" {
		issued.Token, issued.AccessToken, err = conn.CreateAccessToken(ctx, c.Name, c.TTL)
	} else {
		err = c.toFile(ctx, conn, &issued)
	}
	switch {
	case err != nil:
		return howToList(err)
	case c.JSON:
		return printJSON(s.out, issued)
	}
	return c.print(s, issued)
}

// toFile makes the token and writes it to the file, with what else a client needs.
func (c *accessTokenCommand) toFile(ctx context.Context, conn *client.Client, issued *issuedToken) error {
	own, err := readCredentials(c.Credentials)
	if err != nil {
		return fmt.Errorf("--credentials: %w", err)
	}
	f, err := newSecretFile(c.Out)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	err = fillSecret(f, func() (_ []byte, err error) {
		var text string
		if text, issued.AccessToken, err = conn.CreateAccessToken(ctx, c.Name, c.TTL); err != nil {
			return nil, err
		}
		return client.TokenCredentials(own, text)
	})
	if err != nil && issued.ID != (nexusraft.TokenID{}) {
		return fmt.Errorf("%w; the token is lost: nexus-raft access revoke-token %s", err, issued.ID)
	}
	return err
}

func (c *accessTokenCommand) print(s streams, issued issuedToken) error {
	until := issued.Expires.Format(time.RFC3339)
	if issued.File != "" {
		_, err := fmt.Fprintf(s.out, "token %s of %s, good until %s, is in %s: show it with --credentials, and keep it "+
			"secret\n",
			issued.ID, printable(c.Name), until, printable(issued.File))
		return err
	}
	if _, err := fmt.Fprintln(s.out, issued.Token); err != nil {
		return err
	}
	_, err := fmt.Fprintf(s.err, "good until %s; show it with: %s=... nexus-raft get KEY --credentials FILE, where FILE "+
		"has the cluster's CA\n", until, accessTokenVariable)
	return err
}

func checkTTL(ttl time.Duration) error {
	if ttl <= 0 {
		return usageError{fmt.Errorf("--ttl %v is not above 0", ttl)}
	}
	return nil
}

type accessRevokeTokenCommand struct {
	ID string `arg:"" help:"The token's identifier, as access list prints it."`
	asking
}

func (*accessRevokeTokenCommand) Help() string {
	return `Open connections that use the token end at once; a member that is cut off from the others goes by what
it knows until it is back. The name's roles, other tokens and certificates stay: access revoke takes
those.

Example:

  nexus-raft access revoke-token 0f3c9a1d22b4e870 --credentials D1/admin.pem`
}

func (c *accessRevokeTokenCommand) Run(ctx context.Context, s streams) error {
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	if err := conn.RevokeAccessToken(ctx, c.ID); err != nil {
		return howToList(err)
	}
	if c.JSON {
		return printJSON(s.out, struct {
			ID string `json:"id"`
		}{c.ID})
	}
	_, err = fmt.Fprintln(s.out, "revoked token", printable(c.ID))
	return err
}

type accessCertCommand struct {
	Name string        `arg:"" help:"The client's name."`
	TTL  time.Duration `help:"How long it is valid, 8784h at most." default:"2160h"`
	Out  string        `help:"${certOut}" required:"" placeholder:"FILE"`
	asking
}

func (*accessCertCommand) Help() string {
	return accessHelp + `

The key is made here and leaves this machine only in the file. A single certificate can't be revoked:
access revoke makes all certificates of a name useless. Where the nodes' certificates come from files,
so do those of clients.

Example:

  nexus-raft access cert billing --credentials D1/admin.pem --out billing.pem
  nexus-raft get greeting --credentials billing.pem`
}

func (c *accessCertCommand) Run(ctx context.Context, s streams) error {
	if err := checkTTL(c.TTL); err != nil {
		return err
	}
	if c.Out == "" {
		return usageError{errors.New("--out is empty: name the file to make")}
	}
	conn, ctx, end, err := c.connect(ctx, client.Options{})
	if err != nil {
		return err
	}
	defer end()
	f, err := newSecretFile(c.Out)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	if err := fillSecret(f, func() ([]byte, error) { return conn.IssueCertificate(ctx, c.Name, c.TTL) }); err != nil {
		return err
	}
	return printCertificate(s, c.Name, c.Out, c.JSON)
}

// printCertificate says where a certificate and its key are.
func printCertificate(s streams, name, file string, asJSON bool) error {
	if asJSON {
		return printJSON(s.out, struct {
			Name string `json:"name"`
			File string `json:"file"`
		}{name, file})
	}
	_, err := fmt.Fprintf(s.out, "certificate and key of %s are in %s: show them with --credentials, and keep them "+
		"secret\n", printable(name), printable(file))
	return err
}

type accessCACommand struct {
	Credentials string `help:"File of credentials." required:"" placeholder:"FILE"`
}

func (*accessCACommand) Help() string {
	return `Prints the CA certificate in the file of credentials, as PEM, without asking the cluster. A client with
an access token needs nothing else to trust the cluster, nor does other software.

Example:

  nexus-raft access ca --credentials D1/admin.pem >ca.pem`
}

func (c *accessCACommand) Run(s streams) error {
	own, err := readCredentials(c.Credentials)
	if err != nil {
		return usageError{fmt.Errorf("--credentials: %w", err)}
	}
	ca, err := client.AuthorityOf(own)
	if err != nil {
		return usageError{fmt.Errorf("--credentials %s: %w", c.Credentials, err)}
	}
	_, err = s.out.Write(ca)
	return err
}
