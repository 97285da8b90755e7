package witness

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Config configures a witness. The zero value of an optional field is the default given.
type Config struct {
	Dir string // the data directory; created if Join is given

	Name      string   // what people call the witness; default: as before, or none
	Advertise string   // where peers reach it, host:port; default: the listener's address
	Join      []string // members of a cluster; used until the directory belongs to one

	TickInterval  time.Duration // 50 ms
	ElectionTicks int           // 6: silence of the leader before the witness forgets it
	JoinTimeout   time.Duration // 30 s: how long no address of Join may answer; "not yet" is waited for

	// TLS is how the witness proves its identity, as a server and to its peers; nil: not encrypted.
	TLS *mtls.TLS

	// ClusterTLS, without TLS, encrypts with certificates of the cluster's own authority. The
	// witness gets its own when it joins, for JoinToken, and renews it by itself.
	ClusterTLS bool
	JoinToken  string // what a member's token create has printed: a secret

	// Insecure allows a directory that has been served with TLS to be served without. Otherwise it
	// goes on with ClusterTLS, or Open returns ErrRefused where the certificates came from files.
	Insecure bool

	Clock  func() time.Time // time.Now by default; certificates are judged by it
	Logger *slog.Logger     // discards by default
	FS     FS               // OSFS by default

	ticks <-chan time.Time // in place of a ticker, for tests
}

func (c Config) withDefaults() (Config, error) {
	c.TickInterval = cmp.Or(c.TickInterval, 50*time.Millisecond)
	c.ElectionTicks = cmp.Or(c.ElectionTicks, 6)
	c.JoinTimeout = cmp.Or(c.JoinTimeout, 30*time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.FS == nil {
		c.FS = OSFS{}
	}
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("Config.Dir is required"))
	}
	if err := nexusraft.ValidateName(c.Name); err != nil {
		errs = append(errs, err)
	}
	if c.Advertise != "" {
		if err := nexusraft.ValidateAddress(c.Advertise); err != nil {
			errs = append(errs, fmt.Errorf("Config.Advertise: %w", err))
		}
	}
	if c.TickInterval < time.Millisecond {
		errs = append(errs, fmt.Errorf("TickInterval %v is below 1 ms", c.TickInterval))
	}
	for _, addr := range c.Join {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			errs = append(errs, fmt.Errorf("address %q to join is not host:port", addr))
		}
	}
	return c, errors.Join(errs...)
}
