package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/nexi-lab/nexus-raft/node"
)

type accessRecoverCommand struct {
	Name    string        `arg:"" help:"Whose; it must have a role." default:"admin"`
	DataDir string        `help:"Data directory of a member that does not run." required:"" env:"NEXUS_RAFT_DATA_DIR" placeholder:"DIR"`
	TTL     time.Duration `help:"How long it is good for, 8784h at most." default:"2160h"`
	Out     string        `help:"New file for the certificate, its key and the cluster's CA, which only its owner can read: it is for --credentials." required:"" placeholder:"FILE"`
	JSON    bool          `name:"json" help:"Print JSON."`
}

func (*accessRecoverCommand) Help() string {
	return `For when nobody has credentials of an admin any more. It asks no cluster and changes nothing: whoever may read a member's data
directory has the key of the cluster's authority. Stop one member, run this on its machine as the user it runs as, and start it again; the
other one serves meanwhile.

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
	if err := fillSecret(f, func() ([]byte, error) { return node.RecoverAccess(node.Config{Dir: c.DataDir}, c.Name, c.TTL) }); err != nil {
		return err
	}
	return printCertificate(s, c.Name, c.Out, c.JSON)
}
