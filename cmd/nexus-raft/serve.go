package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/feed"
	"github.com/nexi-lab/nexus-raft/internal/program"
	"github.com/nexi-lab/nexus-raft/internal/rpc/etcd"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/kv/compactor"
	"github.com/nexi-lab/nexus-raft/kv/lessor"
	"github.com/nexi-lab/nexus-raft/node"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

// initCommand founds a cluster.
type initCommand struct {
	DataDir   string `help:"Directory to make; it must hold no node yet." required:"" placeholder:"DIR"`
	Name      string `help:"Name of the node, unique in the cluster." placeholder:"NAME"`
	Listen    string `help:"Address that the node will serve on." default:"127.0.0.1:2026" placeholder:"HOST:PORT"`
	Advertise string `help:"Address for other nodes; by default that of --listen." placeholder:"HOST:PORT"`
	JSON      bool   `help:"Print what was founded as JSON: cluster, node, name, credentials."`
}

func (*initCommand) Help() string {
	return `A cluster is founded once, on one directory; all other nodes join. Serving an empty directory
never founds one, so that a founder whose disk was lost can't open a second, empty cluster.

Example:

  nexus-raft init --data-dir D1 --name n1`
}

func (c *initCommand) Run(s streams) error {
	if err := program.CheckNode(c.DataDir, c.Name); err != nil {
		return usageError{err}
	}
	if err := program.CheckReachable(c.Listen, c.Advertise); err != nil {
		return usageError{err}
	}
	address := cmp.Or(c.Advertise, c.Listen)
	founded, err := node.Init(node.Config{
		Dir: c.DataDir, Name: c.Name, Advertise: address, StateMachine: kv.StateMachine{},
		Storage: storage.Options{DiskReserve: -1}, // it writes next to nothing, and serve has a reserve of its own
	})
	if err != nil {
		return err
	}
	admin := filepath.Join(c.DataDir, "admin.pem")
	if err := writeSecret(admin, founded.Admin); err != nil {
		return fmt.Errorf("the cluster is founded, but the credentials of its administrator are lost: clear %s and found "+
			"it anew: %w", c.DataDir, err)
	}
	if c.JSON {
		return json.NewEncoder(s.out).Encode(struct {
			node.Founded
			Credentials string `json:"credentials"`
		}{founded, admin})
	}
	_, err = fmt.Fprintf(s.out, "founded cluster %v with node %v in %s\nwith TLS, the credentials of its administrator "+
		"are %s: keep them secret\nstart it with: %s\n",
		founded.Cluster, founded.Node, c.DataDir, admin, c.next())
	return err
}

// next is the command line that serves what was founded.
func (c *initCommand) next() string {
	words := []string{"nexus-raft", "serve", "--data-dir", quoted(c.DataDir), "--listen", quoted(c.Listen)}
	if c.Advertise != "" {
		words = append(words, "--advertise", quoted(c.Advertise))
	}
	return strings.Join(words, " ")
}

// quoted returns a word as a POSIX shell wants it.
func quoted(word string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+=,", r)
	}
	if word != "" && strings.TrimFunc(word, plain) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// serveCommand runs a member.
type serveCommand struct {
	program.Daemon `set:"listen=127.0.0.1:2026"`

	DiskReserve byteSize `help:"${diskReserve}" default:"128MiB" placeholder:"SIZE"`

	SnapshotBandwidth byteSize `help:"${snapshotBandwidth}" default:"0" placeholder:"SIZE"`

	MaxAnswerBytes  byteSize `help:"${maxAnswerBytes}" default:"256MiB" placeholder:"SIZE"`
	MaxRequestBytes byteSize `help:"${maxRequestBytes}" default:"1536KiB" placeholder:"SIZE"`
	MaxTxnOps       int      `help:"${maxTxnOps}" default:"128"`

	WatchProgressNotifyInterval time.Duration `help:"${watchProgress}" default:"5s" placeholder:"DURATION"`

	Workers int `help:"Goroutines that share the zones, 1 to 64; 0: one for two cores, at most 8." default:"0"`

	SnapshotCompression bool `help:"Compress snapshots to other members: for links that are slower than a core."`

	compactionFlags
}

func (*serveCommand) Help() string {
	return `A member holds data and votes.

Examples:

  nexus-raft serve --data-dir D1
  nexus-raft serve --data-dir D2 --name n2 --listen 127.0.0.1:2036 --join 127.0.0.1:2026

The same command line starts it again.` + program.DaemonHelp
}

func (c *serveCommand) Run(ctx context.Context, s streams) error {
	if b := c.SnapshotBandwidth; b != 0 && b < transport.MinSnapshotBandwidth {
		return usageError{fmt.Errorf("--snapshot-bandwidth %d is below 64KiB a second; give 0 for no limit", b)}
	}
	election, tick := c.Ticks()
	services := etcd.Config{
		MaxTxnOps: c.MaxTxnOps, MaxRequestBytes: int(min(c.MaxRequestBytes, math.MaxInt32)),
		WatchProgressInterval: c.WatchProgressNotifyInterval, ElectionTimeout: time.Duration(election) * tick,
	}
	if err := services.Validate(); err != nil {
		return usageError{fmt.Errorf("--max-txn-ops, --max-request-bytes, --watch-progress-notify-interval: %w", err)}
	}
	compaction, err := c.options()
	if err != nil {
		return usageError{err}
	}
	return c.Serve(ctx, s.in, func(ctx context.Context, lis net.Listener) error {
		log := c.Logger(s.err)
		program.HeedMemoryLimit(log)
		security, err := c.Secure(log)
		if err != nil {
			lis.Close()
			return err
		}
		services.Lessor = lessor.New(lessor.Options{Logger: log})
		n, err := node.Open(node.Config{
			Answer:       services.Lessor.Answer,
			TickInterval: tick, ElectionTicks: election, Workers: c.Workers,
			Dir: c.DataDir, Name: c.Name, Advertise: c.Advertise, Join: c.Join, JoinTimeout: c.JoinTimeout, TLS: security,
			ClusterTLS: c.Encrypted, Insecure: c.Insecure, JoinToken: c.Token,
			StateMachine: kv.StateMachine{}, Logger: log,
			Machines:      map[string]nexusraft.StateMachine{"kv": kv.StateMachine{}},
			ServerOptions: etcd.Options(), Permissions: etcd.Permissions(),
			SnapshotBandwidth: int(min(c.SnapshotBandwidth, math.MaxInt32)), SnapshotCompression: c.SnapshotCompression,
			AnswerBytes: int64(c.MaxAnswerBytes), Storage: storage.Options{DiskReserve: c.reserve()},
		})
		if err != nil {
			lis.Close()
			return err
		}
		compaction.Logger = log
		return runTended(ctx, n, lis, services, compaction)
	})
}

// runTended runs a node, and beside it the compaction of its zones, and their leases' time.
func runTended(
	ctx context.Context, n *node.Node, lis net.Listener, services etcd.Config, o compactor.Options,
) error {
	tending, stop := context.WithCancel(ctx)
	var ended sync.WaitGroup
	ended.Go(func() { compactor.Run(tending, n, o) })
	ended.Go(func() { services.Lessor.Run(tending, n) })
	services.Feeds = feed.Of(n)
	err := n.Run(ctx, lis, services.Services(n))
	stop()
	ended.Wait()
	return err
}

// reserve is the flag as the store wants it, where 0 is the default and none is negative.
func (c *serveCommand) reserve() int64 {
	if c.DiskReserve == 0 {
		return -1
	}
	return int64(c.DiskReserve)
}
