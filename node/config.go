package node

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// Config configures a node. The zero value of an optional field is the default given.
type Config struct {
	Dir string // the data directory; created by Init, or by Open if Join is given

	// StateMachine applies the commands of every zone.
	StateMachine nexusraft.StateMachine

	Name      string   // what people call the node; default: none
	Advertise string   // where peers reach this node, host:port; default: the listener's address
	Join      []string // members of a cluster; used while the directory belongs to none, hints afterwards

	TickInterval   time.Duration // 50 ms
	ElectionTicks  int           // 6: silence before a member campaigns, randomised up to twice that
	HeartbeatTicks int           // 1
	HoldTicks      int           // 6: how long a write may wait for both members, see internal/zone/gate.go

	// The log is compacted when it has more than CompactEntries entries (10,000) or
	// CompactBytes bytes (32 MiB); half of that stays for followers that are a little behind.
	CompactEntries int
	CompactBytes   int64

	// SnapshotBandwidth is how many bytes a second the snapshots that this node sends take
	// together, at least 64 KiB; 0 for no limit.
	SnapshotBandwidth int

	// SnapshotCompression compresses them on their way; see transport.PoolOptions.
	SnapshotCompression bool

	// Clock tells the time that a leader puts into commands; time.Now by default. A zone's
	// time never goes back, whoever leads: a clock that was ahead holds it until the others
	// have caught up. Nothing else depends on a clock's time of day.
	Clock func() time.Time

	JoinTimeout time.Duration // 30 s: how long addresses where nobody listens are retried

	// TLS is how the node proves who it is, as a server and to its peers; nil: not encrypted.
	TLS *transport.TLS

	// ClusterTLS, without TLS, encrypts with certificates of the cluster's own authority. A node
	// gets its own when it joins, for JoinToken, and renews it by itself.
	ClusterTLS bool
	JoinToken  string // what Node.CreateToken has returned: a secret

	ServerOptions []grpc.ServerOption // of the gRPC server, after the node's own: for services that Run registers

	// Needs says what the methods of services that Run registers ask of their callers where the node speaks TLS,
	// by full name ("/package.Service/Method"). Methods that are not here are refused there; see Need.
	Needs map[string]Need

	Storage storage.Options // of the store; its Logger is set from Logger, and nothing is synced in the background
	Logger  *slog.Logger    // discards by default
}

func (c Config) withDefaults() (Config, error) {
	setDefault(&c.TickInterval, 50*time.Millisecond)
	setDefault(&c.ElectionTicks, 6)
	setDefault(&c.HeartbeatTicks, 1)
	setDefault(&c.HoldTicks, 6)
	setDefault(&c.CompactEntries, 10_000)
	setDefault(&c.CompactBytes, 32<<20)
	setDefault(&c.JoinTimeout, 30*time.Second)
	setDefault(&c.Storage.FlushInterval, -1) // what a round leaves unsynced, the log can do again
	// A node lives on small servers, and mostly writes: 64 MiB is all that its store holds in memory.
	setDefault(&c.Storage.MemTableBytes, 16<<20)
	setDefault(&c.Storage.CacheBytes, 64<<20)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	c.Storage.Logger = c.Logger
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("Config.Dir is required"))
	}
	if c.StateMachine == nil {
		errs = append(errs, errors.New("Config.StateMachine is required"))
	}
	if b := c.SnapshotBandwidth; b != 0 && b < transport.MinSnapshotBandwidth {
		errs = append(errs, fmt.Errorf("Config.SnapshotBandwidth is %d bytes a second: give at least %d, or 0 for no limit", b, transport.MinSnapshotBandwidth))
	}
	if err := checkNeeds(c.Needs); err != nil {
		errs = append(errs, err)
	}
	if err := nexusraft.ValidateName(c.Name); err != nil {
		errs = append(errs, err)
	}
	if c.TickInterval < time.Millisecond {
		errs = append(errs, fmt.Errorf("TickInterval %v is below 1 ms", c.TickInterval))
	}
	if c.CompactEntries < 2 || c.CompactBytes < 2 {
		errs = append(errs, errors.New("CompactEntries and CompactBytes are at least 2"))
	}
	return c, errors.Join(errs...)
}

func (c Config) electionTimeout() time.Duration {
	return time.Duration(c.ElectionTicks) * c.TickInterval
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
