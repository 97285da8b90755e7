package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/nexi-lab/nexus-raft/node"
)

type accessRecoverCommand struct {
	Name    string        `arg:"" help:"The client's name; it must have a role." default:"admin"`
	DataDir string        `help:"A stopped member's directory." required:"" env:"NEXUS_RAFT_DATA_DIR" placeholder:"DIR"`
	TTL     time.Duration `help:"How long it is valid, 8784h at most." default:"2160h"`
	Out     string        `help:"${certOut}" required:"" placeholder:"FILE"`
	JSON    bool          `name:"json" help:"Print JSON."`
}

func (*accessRecoverCommand) Help() string {
	return `This is for a cluster whose admin credentials are all lost. It asks no cluster and changes nothing: a
member's data directory holds the key of the cluster's authority, so read access to it is enough. Stop
one member, run this on its machine as the user it runs as, and start the member again; the other one
serves meanwhile.

Example:

  nexus-raft access recover admin --data-dir D1 --out admin.pem
  nexus-raft access list --credentials admin.pem`
}

func (c *accessRecoverCommand) Run(s streams) error {
	if err := checkTTL(c.TTL); err != nil {
		return err
	}
	if c.Out == "" {
		return usageError{errors.New("--out is empty: name the file to make")}
	}
	f, err := newSecretFile(c.Out)
	if err != nil {
		return fmt.Errorf("--out: %w", err)
	}
	if err := fillSecret(f, func() ([]byte, error) {
		return node.RecoverAccess(node.Config{Dir: c.DataDir}, c.Name,
			c.TTL)
	}); err != nil {
		return err
	}
	return printCertificate(s, c.Name, c.Out, c.JSON)
}
