package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/kv"
)

const (
	sweepChanges = 512                    // of one command of a sweep
	sweepRetry   = 100 * time.Millisecond // after a command that was not run, or nobody knows
	sweepRest    = time.Second            // between two commands, at most
)

// errUnswept: the compaction is in force, and what it is to remove is still there.
var errUnswept = errors.New("nexusraft: compacted, but not all of it is removed yet; that goes on by itself")

// Compact implements etcdserverpb.KVServer. With physical it answers once what was compacted is gone, for which it
// works itself.
func (s *KV) Compact(
	ctx context.Context, req *etcdserverpb.CompactionRequest,
) (*etcdserverpb.CompactionResponse, error) {
	command, err := kv.EncodeCompact(req)
	if err != nil {
		return nil, toStatus(err)
	}
	z, err := s.zone(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	resp, err := write(ctx, s, command, withHistory(kv.DecodeCompactResult))
	if err != nil || !req.Physical {
		return resp, err
	}
	if err := sweep(ctx, z); err != nil {
		return nil, toStatus(err)
	}
	return resp, nil
}

// sweep removes what was compacted, in small commands one after the other, until nothing is left or the caller's time
// ends.
func sweep(ctx context.Context, z Zone) error {
	ctx, cancel := rpc.BeforeDeadline(ctx)
	defer cancel()
	for {
		began := time.Now()
		left, err := sweepStep(ctx, z)
		rest := min(3*time.Since(began), sweepRest) // the others' writes have most of the time
		switch {
		case err == nil && !left:
			return nil
		case err != nil && !passes(err):
			return fmt.Errorf("%w: %v", errUnswept, err) // that was not the compaction's own
		case err != nil:
			rest = sweepRetry
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %v", errUnswept, errors.Join(err, context.Cause(ctx)))
		case <-time.After(rest):
		}
	}
}

// passes reports whether a step of a sweep that has failed may succeed a little later.
func passes(err error) bool {
	return errors.Is(err, nexusraft.ErrNotLeader) || errors.Is(err, nexusraft.ErrNoQuorum) ||
		errors.Is(err, nexusraft.ErrUncertain) || errors.Is(err, nexusraft.ErrOverloaded) ||
		errors.Is(err, context.DeadlineExceeded)
}

// sweepStep does one step, and reports whether there may be more.
func sweepStep(ctx context.Context, z Zone) (left bool, err error) {
	ctx, cancel := rpc.Bounded(ctx)
	defer cancel()
	err = z.Read(ctx, func(r nexusraft.Reader) error {
		s, err := kv.StandingOf(r)
		left = s.Left()
		return err
	})
	if err != nil || !left {
		return left, err
	}
	result, err := z.ProposeOnce(ctx, nexusraft.RequestID{}, kv.EncodeSweep(sweepChanges))
	if err != nil {
		return true, err
	}
	_, err = kv.DecodeCompactResult(result.Data)
	return true, err
}
