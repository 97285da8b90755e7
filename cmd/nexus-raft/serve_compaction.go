package main

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/nexi-lab/nexus-raft/kv/compactor"
)

// compactionFlags are etcd's flags of the same names. By default etcd keeps everything.
type compactionFlags struct {
	AutoCompactionMode      string `help:"${compactionMode}" enum:"periodic,revision" default:"periodic"`
	AutoCompactionRetention string `help:"${compactionRetention}" placeholder:"RETENTION"`
}

// options returns what the flags say.
func (c compactionFlags) options() (compactor.Options, error) {
	if c.AutoCompactionMode == "revision" {
		return c.byRevision()
	}
	if c.AutoCompactionRetention == "" {
		return compactor.Options{}, nil
	}
	period, err := time.ParseDuration(c.AutoCompactionRetention)
	if hours, notNumber := strconv.ParseUint(c.AutoCompactionRetention, 10, 64); notNumber == nil {
		period, err = time.Duration(hours)*time.Hour, nil
		if hours > uint64(math.MaxInt64/time.Hour) {
			period = math.MaxInt64
		}
	}
	if err != nil || period < 0 {
		return compactor.Options{}, fmt.Errorf("--auto-compaction-retention %s: give hours, or a duration as in 90m; 0 "+
			"compacts nothing", c.AutoCompactionRetention)
	}
	if period == 0 {
		period = -1
	}
	return compactor.Options{Period: period}, nil
}

func (c compactionFlags) byRevision() (compactor.Options, error) {
	n, err := strconv.ParseInt(c.AutoCompactionRetention, 10, 64)
	if err != nil || n < 0 {
		return compactor.Options{}, fmt.Errorf("--auto-compaction-retention %q: with --auto-compaction-mode revision give "+
			"the number of revisions to keep, such as 10000; 0 compacts nothing", c.AutoCompactionRetention)
	}
	return compactor.Options{Period: -1, Revisions: n}, nil
}
