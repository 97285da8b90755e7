package lessor

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
)

// MinTTL returns the shortest TTL of a lease, in seconds: one and a half election timeouts, rounded up.
func MinTTL(election time.Duration) int64 {
	return int64((election + election/2 + time.Second - 1) / time.Second)
}

// EncodeGrant returns the command that grants a lease: with an ID of 0 a random one, and a TTL that is too short
// raised. Errors: kv.ErrLeaseTTLTooLarge, ErrRefused for a negative ID, and ErrOverloaded before Run.
func (l *Lessor) EncodeGrant(id, ttl int64) ([]byte, error) {
	l.mu.Lock()
	h := l.host
	l.mu.Unlock()
	if h == nil {
		return nil, fmt.Errorf("%w: the lessor does not run yet", nexusraft.ErrOverloaded)
	}
	if id == 0 {
		id = randomID()
	}
	if id < 0 {
		return nil, fmt.Errorf("%w: grant lease %d: the ID of a lease is above 0", nexusraft.ErrRefused, id)
	}
	return kv.EncodeGrant(id, max(ttl, MinTTL(h.ElectionTimeout())))
}

func randomID() int64 {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // it never fails
		if id := int64(binary.BigEndian.Uint64(b[:]) >> 1); id != 0 {
			return id
		}
	}
}

// Grant grants a lease, and returns its ID and TTL in seconds: those that were asked for, or with an ID of 0 a random
// one, and no TTL below MinTTL. It does not wait for a leader. Errors are those of node.Zone.ProposeOnce, and
// kv.ErrLeaseExists, kv.ErrLeaseTTLTooLarge, kv.ErrTooManyLeases and kv.ErrNoLeases.
func (l *Lessor) Grant(
	ctx context.Context, zone nexusraft.ZoneID, id, ttl int64,
) (*etcdserverpb.LeaseGrantResponse, error) {
	command, err := l.EncodeGrant(id, ttl)
	if err != nil {
		return nil, err
	}
	result, err := l.host.ProposeAt(ctx, zone, command)
	if err != nil {
		return nil, err
	}
	return kv.DecodeGrantResult(result.Data)
}

// Revoke revokes a lease and deletes its keys; of a lease with very many that takes several commands. Errors are those
// of node.Zone.ProposeOnce, and kv.ErrLeaseNotFound.
func (l *Lessor) Revoke(
	ctx context.Context, zone nexusraft.ZoneID, id int64,
) (resp *etcdserverpb.LeaseRevokeResponse, err error) {
	l.mu.Lock()
	h := l.host
	l.mu.Unlock()
	if h == nil {
		return nil, fmt.Errorf("%w: the lessor does not run yet", nexusraft.ErrOverloaded)
	}
	for {
		result, err := h.ProposeAt(ctx, zone, kv.EncodeRevoke(id, 0))
		if err != nil {
			return nil, err
		}
		next, err := kv.DecodeRevokeResult(result.Data)
		if resp != nil && errors.Is(err, kv.ErrLeaseNotFound) { // the leader's lessor was faster
			return resp, nil
		}
		if resp = next; !errors.Is(err, kv.ErrLeaseRevoking) {
			return resp, err
		}
	}
}

// Left is what is left of a lease.
type Left struct {
	TTL     int64 // seconds, as granted; 0: there is no such lease
	Seconds int64 // whole ones that are left
}

// TimeToLive asks the zone's leader what is left of a lease. Errors are those of Renew.
func (l *Lessor) TimeToLive(ctx context.Context, zone nexusraft.ZoneID, id int64) (Left, error) {
	l.mu.Lock()
	h, over := l.host, l.ended
	l.mu.Unlock()
	switch {
	case over:
		return Left{}, errEnded()
	case h == nil:
		return Left{}, fmt.Errorf("%w: the lessor does not run yet", nexusraft.ErrOverloaded)
	case id <= 0:
		return Left{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	numbers, err := l.ask(ctx, zone, askLeft, []int64{id}, 2)
	if err != nil {
		return Left{}, err
	}
	return Left{TTL: numbers[0], Seconds: numbers[1]}, nil
}
