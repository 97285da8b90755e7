package main

import (
	"context"
	"encoding/binary"
	"encoding/gob"
	"fmt"
	"io"
	"maps"
	"os"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/logger"
	"github.com/lni/dragonboat/v4/statemachine"
)

// Dragonboat's side of the zones command: a NodeHost in each process, with its log in Pebble and its
// other defaults, and the timing of our nodes. Its shards are numbered from 1. Its state machine is in
// memory, which is less work than ours has: that writes to its store.

const dragonboatSystem = "dragonboat"

// writesMap is the state machine of a shard.
type writesMap map[uint64][]byte

func (m writesMap) Update(e statemachine.Entry) (r statemachine.Result, err error) {
	if len(e.Cmd) < writeHead {
		return r, nil
	}
	writer := binary.BigEndian.Uint64(e.Cmd)
	record, err := nextRecord(m[writer], e.Cmd)
	if err == nil && record != nil {
		m[writer] = record
	}
	return r, err
}

func (m writesMap) Lookup(key any) (any, error) {
	return m[binary.BigEndian.Uint64(key.([]byte))], nil
}

func (m writesMap) SaveSnapshot(w io.Writer, _ statemachine.ISnapshotFileCollection, _ <-chan struct{}) error {
	return gob.NewEncoder(w).Encode(map[uint64][]byte(m))
}

func (m writesMap) RecoverFromSnapshot(r io.Reader, _ []statemachine.SnapshotFile, _ <-chan struct{}) error {
	var state map[uint64][]byte
	if err := gob.NewDecoder(r).Decode(&state); err != nil {
		return err
	}
	clear(m)
	maps.Copy(m, state)
	return nil
}

func (m writesMap) Close() error { return nil }

// dragonboatHost is a NodeHost in this process.
type dragonboatHost struct {
	setup zoneSetup
	host  *dragonboat.NodeHost
}

func openDragonboat(s zoneSetup) (zoneSystem, error) {
	logger.SetLoggerFactory(func(string) logger.ILogger { return quiet{} })
	host, err := dragonboat.NewNodeHost(config.NodeHostConfig{
		NodeHostDir: s.Dir, RTTMillisecond: 50, RaftAddress: s.Addresses[s.Replica-1],
	})
	if err != nil {
		return nil, err
	}
	d := &dragonboatHost{setup: s, host: host}
	err = eachZone(s.Zones, func(zone int) error { return d.startReplica(zone, nil, false) })
	if err != nil {
		host.Close()
		return nil, err
	}
	return d, nil
}

// startReplica starts a replica with the ticks and the log of ours.
func (d *dragonboatHost) startReplica(zone int, members map[uint64]dragonboat.Target, join bool) error {
	return d.host.StartReplica(members, join, func(uint64, uint64) statemachine.IStateMachine {
		return make(writesMap)
	}, config.Config{
		ReplicaID: uint64(d.setup.Replica), ShardID: shard(zone), IsWitness: d.isWitness(),
		ElectionRTT: 6, HeartbeatRTT: 1, CheckQuorum: true, PreVote: true, Quiesce: d.setup.Quiesce,
		SnapshotEntries: snapshotEntries(d.isWitness()), CompactionOverhead: 5000,
	})
}

func shard(zone int) uint64 { return uint64(zone) + 1 }

// snapshotEntries is how many entries are between two snapshots. A witness may not have any.
func snapshotEntries(witness bool) uint64 {
	if witness {
		return 0
	}
	return 10_000
}

func (d *dragonboatHost) isWitness() bool { return d.setup.isThird() }

// create implements zoneSystem. Each process starts its replicas; the first one then adds the
// witnesses, which can only be added to a shard that has a leader.
func (d *dragonboatHost) create(ctx context.Context, n int) error {
	founders := make(map[uint64]dragonboat.Target)
	for i, address := range d.setup.Addresses[:2] {
		founders[uint64(i+1)] = address
	}
	err := eachZone(n, func(zone int) error {
		if d.isWitness() {
			return d.startReplica(zone, nil, true)
		}
		return d.startReplica(zone, founders, false)
	})
	if err != nil || d.setup.Replica > 1 {
		return err
	}
	return eachZone(n, func(zone int) error { return d.addWitness(ctx, zone) }) // by now most have been elected
}

func (d *dragonboatHost) addWitness(ctx context.Context, zone int) error {
	third := len(d.setup.Addresses)
	for {
		attempt, cancel := context.WithTimeout(ctx, readMost)
		err := d.host.SyncRequestAddWitness(attempt, shard(zone), uint64(third), d.setup.Addresses[third-1], 0)
		if err == nil {
			cancel()
			return nil
		}
		m, asked := d.host.SyncGetShardMembership(attempt, shard(zone))
		cancel()
		if asked == nil && len(m.Witnesses) > 0 {
			return nil
		}
		if sleep(ctx, pollEvery) != nil {
			return fmt.Errorf("add a witness to shard %d: %w", shard(zone), err)
		}
	}
}

func (d *dragonboatHost) led(_ context.Context, zone int) (mine, known bool, err error) {
	leader, _, known, err := d.host.GetLeaderID(shard(zone))
	return known && leader == uint64(d.setup.Replica), known, err
}

// whole implements zoneSystem: the shard has its witness, and this replica has what was acknowledged.
func (d *dragonboatHost) whole(ctx context.Context, zone int) error {
	if d.isWitness() {
		return nil
	}
	for {
		attempt, cancel := context.WithTimeout(ctx, readMost)
		_, err := d.read(attempt, zone, make([]byte, writerKeyBytes))
		cancel()
		if err == nil || sleep(ctx, 4*pollEvery) != nil {
			return err
		}
	}
}

func (d *dragonboatHost) handOver(_ context.Context, zone int) error {
	return d.host.RequestLeaderTransfer(shard(zone), uint64(3-d.setup.Replica))
}

func (d *dragonboatHost) write(ctx context.Context, zone int, command []byte) error {
	_, err := d.host.SyncPropose(ctx, d.host.GetNoOPSession(shard(zone)), command)
	return err
}

func (d *dragonboatHost) read(ctx context.Context, zone int, key []byte) ([]byte, error) {
	v, err := d.host.SyncRead(ctx, shard(zone), key)
	if err != nil {
		return nil, err
	}
	return v.([]byte), nil
}

func (d *dragonboatHost) pid() int { return os.Getpid() }

func (d *dragonboatHost) close() error {
	d.host.Close()
	return nil
}

// quiet is a log that keeps quiet, but for a panic.
type quiet struct{}

func (quiet) SetLevel(logger.LogLevel)       {}
func (quiet) Debugf(string, ...any)          {}
func (quiet) Infof(string, ...any)           {}
func (quiet) Warningf(string, ...any)        {}
func (quiet) Errorf(string, ...any)          {}
func (quiet) Panicf(format string, a ...any) { panic(fmt.Sprintf(format, a...)) }
