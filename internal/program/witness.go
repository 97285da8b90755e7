package program

import (
	"context"
	"net"

	"github.com/nexi-lab/nexus-raft/witness"
)

// Witness is the witness as a command: nexus-witness is nothing else, nexus-raft has it as
// a sub-command.
type Witness struct {
	Daemon `set:"listen=127.0.0.1:2027"`
}

// Help is shown by --help.
func (*Witness) Help() string {
	return `A witness votes in a cluster of two members and holds no data, so that the cluster goes on
when any one of the three is lost. It is admitted after the second member.

Example:

  nexus-witness --data-dir /var/lib/nexus-witness --join 127.0.0.1:2026

The same command line starts it again.` + DaemonHelp
}

// DaemonHelp ends the help of every daemon.
const DaemonHelp = ` It logs to standard error: a line "ready" with the keys node,
name, addr and cluster says that it serves. SIGTERM and SIGINT stop it in order, within five
seconds; a second one ends it at once. What a flag does not say is taken from the environment,
then from the file of --config, for instance:

  data-dir: /var/lib/nexus
  join: [10.0.0.1:2026, 10.0.0.2:2026]
  log-format: json`

// Run serves until ctx ends, which is no error.
func (c *Witness) Run(ctx context.Context, std Standard) error {
	return c.Serve(ctx, std.In, func(ctx context.Context, lis net.Listener) error {
		log := c.Logger(std.Err)
		HeedMemoryLimit(log)
		security, err := c.Secure(log)
		if err != nil {
			lis.Close()
			return err
		}
		election, tick := c.Ticks()
		w, err := witness.Open(witness.Config{
			TickInterval: tick, ElectionTicks: election,
			Dir: c.DataDir, Name: c.Name, Advertise: c.Advertise, Join: c.Join,
			JoinTimeout: c.JoinTimeout, TLS: security, ClusterTLS: c.Encrypted, Insecure: c.Insecure, JoinToken: c.Token,
			Logger: log,
		})
		if err != nil {
			lis.Close()
			return err
		}
		return w.Run(ctx, lis)
	})
}
