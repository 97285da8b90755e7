package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// LeaseID names a lease of a zone; 0 is none. Its text is hexadecimal, as in etcd's tools and in the keys of locks.
type LeaseID int64

func (id LeaseID) String() string { return strconv.FormatInt(int64(id), 16) }

// MarshalText implements encoding.TextMarshaler.
func (id LeaseID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It takes positive IDs.
func (id *LeaseID) UnmarshalText(text []byte) error {
	n, err := strconv.ParseInt(string(text), 16, 64)
	if err != nil || n <= 0 || text[0] == '+' {
		return fmt.Errorf("%.40q is no lease's ID, which is hexadecimal: up to 16 of the digits 0 to 9 and a to f", text)
	}
	*id = LeaseID(n)
	return nil
}

// ErrLeaseNotFound: there is no such lease: it has expired, was revoked, or was never there. Compare with errors.Is.
var ErrLeaseNotFound = errors.New("client: lease not found")

// GrantedLease is a lease as a zone knows it.
type GrantedLease struct {
	ID        LeaseID
	TTL       time.Duration // that was granted, in whole seconds: how long it lives without being renewed
	Remaining time.Duration // it lives so long at least, counted from the answer, in whole seconds
}

// GrantLease makes a lease that lives for ttl, rounded up to whole seconds, unless it is renewed. A zone raises what
// is below its minimum, 1.5 election timeouts, and says so in the result. KeepLease also keeps it alive.
//
// It is sent again while its outcome is unknown, and makes one lease. With ErrUncertain there may be one, until its
// time is over.
func (c *Client) GrantLease(ctx context.Context, ttl time.Duration) (GrantedLease, error) {
	lease, _, err := c.grant(ctx, ttl)
	if err != nil {
		return GrantedLease{}, fmt.Errorf("grant a lease: %w", err)
	}
	return lease, nil
}

// grant makes a lease, which has its whole time from sent on. One that an earlier attempt has made is renewed: its time
// runs since nobody knows when.
func (c *Client) grant(ctx context.Context, ttl time.Duration) (lease GrantedLease, sent time.Time, err error) {
	if ttl <= 0 {
		return GrantedLease{}, sent, fmt.Errorf("client: a time to live of %v is not above 0", ttl)
	}
	lease.ID = LeaseID(rand.Int64N(1<<63-1) + 1) // by which a second attempt finds what the first has made
	req := &etcdserverpb.LeaseGrantRequest{ID: int64(lease.ID), TTL: int64((ttl + time.Second - 1) / time.Second)}
	err = c.try(ctx, writesOnce, func(ctx context.Context, conn *grpc.ClientConn) error {
		sent = time.Now()
		resp, err := etcdserverpb.NewLeaseClient(conn).LeaseGrant(ctx, req)
		lease.TTL = seconds(resp.GetTTL())
		return err
	})
	if errors.Is(err, errLeaseExists) && errors.Is(err, nexusraft.ErrUncertain) { // by an earlier attempt
		lease.TTL, sent, err = c.renew(ctx, lease.ID, c.opts.AttemptTimeout)
	}
	lease.Remaining = lease.TTL
	return lease, sent, err
}

// RevokeLease ends a lease, and deletes the keys that hang on it. The errors are ErrLeaseNotFound, and those of
// Delete. It is sent again while its outcome is unknown.
func (c *Client) RevokeLease(ctx context.Context, id LeaseID) error {
	err := c.try(ctx, writesOnce, func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := etcdserverpb.NewLeaseClient(conn).LeaseRevoke(ctx, &etcdserverpb.LeaseRevokeRequest{ID: int64(id)})
		return err
	})
	if errors.Is(err, ErrLeaseNotFound) && errors.Is(err, nexusraft.ErrUncertain) { // by an earlier attempt, or before
		return nil
	}
	if err != nil {
		return fmt.Errorf("revoke lease %v: %w", id, err)
	}
	return nil
}

// RenewLease makes a lease live for its whole time again, once, and returns that time. The errors are
// ErrLeaseNotFound, and those of Get.
func (c *Client) RenewLease(ctx context.Context, id LeaseID) (ttl time.Duration, err error) {
	ttl, _, err = c.renew(ctx, id, c.opts.AttemptTimeout)
	if err != nil {
		return 0, fmt.Errorf("renew lease %v: %w", id, err)
	}
	return ttl, nil
}

// renew also returns when the request that was answered was sent. Patience bounds each attempt.
func (c *Client) renew(
	ctx context.Context, id LeaseID, patience time.Duration,
) (ttl time.Duration, sent time.Time, err error) {
	err = c.read(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		stream, err := etcdserverpb.NewLeaseClient(conn).LeaseKeepAlive(ctx)
		if err != nil {
			return err
		}
		sent = time.Now()
		_ = stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(id)}) // Recv says what is wrong
		resp, err := stream.Recv()
		switch {
		case err != nil:
			return broken(err)
		case resp.GetTTL() <= 0:
			return rpctypes.ErrGRPCLeaseNotFound
		}
		ttl = seconds(resp.GetTTL())
		return nil
	})
	return ttl, sent, err
}

// Lease returns a lease as it is now. The errors are ErrLeaseNotFound, and those of Get.
func (c *Client) Lease(ctx context.Context, id LeaseID) (GrantedLease, error) {
	lease, err := c.lease(ctx, id)
	if err != nil {
		return GrantedLease{}, fmt.Errorf("lease %v: %w", id, err)
	}
	return lease, nil
}

func (c *Client) lease(ctx context.Context, id LeaseID) (GrantedLease, error) {
	resp, err := c.timeToLive(ctx, id, false)
	if err != nil {
		return GrantedLease{}, err
	}
	return GrantedLease{ID: id, TTL: seconds(resp.GetGrantedTTL()), Remaining: seconds(resp.GetTTL())}, nil
}

// LeaseKeys returns the keys that hang on a lease, in ascending order, which belong to the caller. The errors are
// ErrLeaseNotFound, and those of Get.
func (c *Client) LeaseKeys(ctx context.Context, id LeaseID) ([][]byte, error) {
	resp, err := c.timeToLive(ctx, id, true)
	if err != nil {
		return nil, fmt.Errorf("keys of lease %v: %w", id, err)
	}
	return resp.GetKeys(), nil
}

func (c *Client) timeToLive(
	ctx context.Context, id LeaseID, keys bool,
) (resp *etcdserverpb.LeaseTimeToLiveResponse, err error) {
	err = c.read(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
		req := &etcdserverpb.LeaseTimeToLiveRequest{ID: int64(id), Keys: keys}
		resp, err = etcdserverpb.NewLeaseClient(conn).LeaseTimeToLive(ctx, req)
		if err == nil && resp.GetTTL() < 0 {
			return rpctypes.ErrGRPCLeaseNotFound
		}
		return err
	})
	return resp, err
}

// Leases returns the IDs of all leases of the zone, in ascending order. Errors are as those of Get.
func (c *Client) Leases(ctx context.Context) (ids []LeaseID, err error) {
	err = c.read(ctx, func(ctx context.Context, conn *grpc.ClientConn) error {
		resp, err := etcdserverpb.NewLeaseClient(conn).LeaseLeases(ctx, &etcdserverpb.LeaseLeasesRequest{})
		ids = ids[:0]
		for _, l := range resp.GetLeases() {
			ids = append(ids, LeaseID(l.GetID()))
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("leases: %w", err)
	}
	slices.Sort(ids)
	return ids, nil
}

// seconds is a time to live of a node's; none is over 285 years.
func seconds(n int64) time.Duration {
	const most = 9_000_000_000
	return time.Duration(min(max(n, 0), most)) * time.Second
}
