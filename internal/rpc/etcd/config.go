package etcd

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"github.com/nexi-lab/nexus-raft/internal/feed"
	"github.com/nexi-lab/nexus-raft/kv"
	"github.com/nexi-lab/nexus-raft/kv/lessor"
)

const leastProgressInterval = 10 * time.Millisecond

// Config has what operators may set; the zero value is the documented default.
type Config struct {
	// MaxTxnOps is how many compares a transaction may have, and operations in each branch; those of a
	// transaction inside it count with those around it. 128.
	MaxTxnOps int

	// MaxRequestBytes bounds a request, as it is on the wire: 1.5 MiB, which is the most that a command may have.
	MaxRequestBytes int

	// Lessor is the node's, and needed for leases: without one the service Lease refuses all but the list.
	Lessor *lessor.Lessor
	// WatchProgressInterval is after how long without a change a watch that asks for it is told how far it is: 5 s.
	WatchProgressInterval time.Duration

	// ElectionTimeout is the node's: a watch that requires a leader ends after three of them without one. 1 s.
	ElectionTimeout time.Duration

	// Feeds are those of the node, which others may share; without them the services have their own.
	Feeds *feed.Feeds
}

// Validate returns what is wrong.
func (c Config) Validate() error {
	var errs []error
	if c.MaxTxnOps < 0 || c.MaxTxnOps > kv.MaxTxnTotalOps {
		errs = append(errs, fmt.Errorf("%d operations in a transaction: give 1 to %d", c.MaxTxnOps, kv.MaxTxnTotalOps))
	}
	if c.MaxRequestBytes < 0 || c.MaxRequestBytes > kv.MaxRequestBytes {
		errs = append(errs, fmt.Errorf("%d bytes of a request: give 1 to %d", c.MaxRequestBytes, kv.MaxRequestBytes))
	}
	if d := c.WatchProgressInterval; d != 0 && d < leastProgressInterval {
		errs = append(errs, fmt.Errorf("%v between progress notifications: give %v or more", d, leastProgressInterval))
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	c.MaxTxnOps = cmp.Or(c.MaxTxnOps, kv.MaxTxnOps)
	c.MaxRequestBytes = cmp.Or(c.MaxRequestBytes, kv.MaxRequestBytes)
	c.WatchProgressInterval = cmp.Or(c.WatchProgressInterval, 5*time.Second)
	c.ElectionTimeout = cmp.Or(c.ElectionTimeout, time.Second)
	return c
}
