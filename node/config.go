package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authz"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Config configures a node. The zero value of an optional field is the default given.
type Config struct {
	Dir string // the data directory; created by Init, or by Open if Join is given

	// StateMachine applies the commands of the root zone.
	StateMachine nexusraft.StateMachine

	// Machines are the state machines that other zones may run, by the names under which CreateZone is
	// told of them (nexusraft.ValidateMachineName). A zone whose state machine this program lacks
	// stops on this node, which says so, and goes on once the program has it.
	Machines map[string]nexusraft.StateMachine

	// Workers is how many goroutines share the zones, 64 at most: a zone is on one of them for as long as the node
	// runs. 0: one for two of the cores that Go uses (GOMAXPROCS), 8 at most. Any number opens any directory.
	Workers int

	Name      string   // what people call the node; default: none
	Advertise string   // where peers reach this node, host:port; default: the listener's address
	Join      []string // members of a cluster; used while the directory belongs to none, hints afterwards

	TickInterval   time.Duration // 50 ms
	ElectionTicks  int           // 6: silence before a member campaigns, randomised up to twice that
	HeartbeatTicks int           // 1; an awake zone sends fewer, down to a third: its nodes signal in each that they live
	HoldTicks      int           // 6: how long a write may wait for both members, see internal/zone/gate.go

	// MaxClockDrift, if it is not 0, lets zones that this node leads serve Zone.ReadLease alone: of the machines
	// of two nodes none's monotonic clock gains more than this part on the other's, such as 0.01. That is a
	// hundred times what quartz clocks do; above it reads may be stale. TickInterval and ElectionTicks have to be
	// the same on all nodes. At most 1; 0: off.
	MaxClockDrift float64

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
	// time never goes back, whichever node leads: a clock that was ahead holds it until the others
	// have caught up. Certificates are judged by it; nothing else depends on a clock's time of day.
	Clock func() time.Time

	// SpareAfter is for how long a node is silent until it counts as lost: another one takes its place in zones whose
	// ZoneSpec says so. 10 minutes; at least 5 s. The root zone's leader goes by its own, and counts only what it has seen
	// itself, without a pause, since it leads.
	SpareAfter time.Duration

	JoinTimeout time.Duration // 30 s: how long no address of Join may answer; "not yet" is waited for

	// TLS is how the node proves its identity, as a server and to its peers; nil: not encrypted.
	TLS *mtls.TLS

	// ClusterTLS, without TLS, encrypts with certificates of the cluster's own authority. A node
	// gets its own when it joins, for JoinToken, and renews it by itself.
	ClusterTLS bool
	JoinToken  string // what Credentials.CreateToken has returned: a secret

	// Insecure allows a directory that has been served with TLS to be served without. Otherwise it
	// goes on with ClusterTLS, or Open returns ErrRefused where the certificates came from files.
	Insecure bool

	// AnswerBytes is what large answers that are under way may hold of memory, together: 256 MiB. An answer over it is
	// made alone. Callers wait for their place; see docs/budgets.md.
	AnswerBytes int64

	// Answer answers questions about a zone that this node leads, which AskLeader of a node with a copy of its state has
	// asked: the programs agree what they mean. By then another node may lead: where that counts, LedZone.Read tells.
	// Question and answer have at most 64 KiB; the question is the function's own. It is called from many
	// goroutines, and its ctx ends after 10 s at the latest. An error reaches the one that asks as the
	// sentinel that it matches. nil: the node leads no zone whose leader answers.
	Answer func(ctx context.Context, zone nexusraft.ZoneID, question []byte) (answer []byte, err error)

	ServerOptions []grpc.ServerOption // of the gRPC server, after the node's own: for services that Run registers

	// Permissions says what the methods of services that Run registers ask of their callers where the
	// node speaks TLS, by full name ("/package.Service/Method"). Methods that are not here are refused
	// there. Those of package nexusraft.v1 and of gRPC's own services can't be here: the .proto and the
	// node say who may call them.
	Permissions map[string]nexusraft.Permission

	Storage storage.Options // of the store; its Logger is set from Logger, and nothing is synced in the background
	Logger  *slog.Logger    // discards by default
}

// Each worker makes batches and rounds of its own: more of them than there are cores to spare cost more than they
// bring, and each has its ticks while nothing happens.
const (
	defaultWorkers = 8
	maxWorkers     = 64
)

func (c Config) withDefaults() (Config, error) {
	setDefault(&c.TickInterval, 50*time.Millisecond)
	setDefault(&c.ElectionTicks, 6)
	setDefault(&c.HeartbeatTicks, 1)
	setDefault(&c.HoldTicks, 6)
	setDefault(&c.CompactEntries, 10_000)
	setDefault(&c.CompactBytes, 32<<20)
	setDefault(&c.JoinTimeout, 30*time.Second)
	setDefault(&c.Workers, min(max(1, runtime.GOMAXPROCS(0)/2), defaultWorkers))
	setDefault(&c.SpareAfter, 10*time.Minute)
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
	for name, machine := range c.Machines {
		if machine == nil {
			errs = append(errs, fmt.Errorf("Config.Machines[%q] is nil", name))
		}
		if err := nexusraft.ValidateMachineName(name); err != nil {
			errs = append(errs, fmt.Errorf("Config.Machines: %w", err))
		}
	}
	if b := c.SnapshotBandwidth; b != 0 && b < transport.MinSnapshotBandwidth {
		errs = append(errs, fmt.Errorf("Config.SnapshotBandwidth is %d bytes a second: give at least %d, or 0 for no limit",
			b, transport.MinSnapshotBandwidth))
	}
	if err := authz.CheckPermissions(c.Permissions); err != nil {
		errs = append(errs, err)
	}
	if err := nexusraft.ValidateName(c.Name); err != nil {
		errs = append(errs, err)
	}
	if c.Advertise != "" {
		if err := nexusraft.ValidateAddress(c.Advertise); err != nil {
			errs = append(errs, fmt.Errorf("Config.Advertise: %w", err))
		}
	}
	if !(c.MaxClockDrift >= 0 && c.MaxClockDrift <= 1) {
		errs = append(errs, fmt.Errorf("Config.MaxClockDrift is %v: give a part of 1, or 0 for none", c.MaxClockDrift))
	}
	if c.MaxClockDrift > 0 && c.ElectionTicks < 4 {
		errs = append(errs, fmt.Errorf("Config.MaxClockDrift needs ElectionTicks of 4 at least, got %d", c.ElectionTicks))
	}
	if c.Workers < 1 || c.Workers > maxWorkers {
		errs = append(errs, fmt.Errorf("Config.Workers is %d: give 1 to %d, or 0 for the default", c.Workers, maxWorkers))
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
