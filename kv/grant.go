package kv

import (
	"encoding/binary"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

type grantRequest struct{ id, ttl int64 }

// EncodeGrant returns the command that grants a lease for some seconds. Both are above 0: the caller has chosen an ID
// and raised the TTL to the least one that it offers. It returns ErrLeaseTTLTooLarge, which Apply does, too.
func EncodeGrant(id, ttl int64) ([]byte, error) {
	switch {
	case id <= 0 || ttl <= 0:
		return nil, fmt.Errorf("%w: a grant of lease %d for %d s, both are to be above 0", ErrBadCommand, id, ttl)
	case ttl > MaxLeaseTTL:
		return nil, ErrLeaseTTLTooLarge
	}
	return appendNumbers([]byte{kindGrant}, id, ttl), nil
}

func decodeGrant(b []byte) (g grantRequest, ok bool) {
	rest, ok := decodeNumbers(b, &g.id, &g.ttl)
	return g, ok && len(rest) == 0 && g.id > 0 && g.ttl > 0
}

// DecodeGrantResult is DecodePutResult for a command that EncodeGrant made: the lease's ID and TTL, and a header with
// the newest revision, which a grant does not change. The refusals are ErrLeaseExists, ErrLeaseTTLTooLarge,
// ErrTooManyLeases, and ErrNoLeases.
func DecodeGrantResult(b []byte) (*etcdserverpb.LeaseGrantResponse, error) {
	resp := new(etcdserverpb.LeaseGrantResponse)
	if err := decodeResult(b, resp); err != nil {
		return nil, ofLeases(err)
	}
	return resp, nil
}

// ofLeases returns what an error of a lease's command means: zones below VersionLeases call it no command.
func ofLeases(err error) error {
	if errors.Is(err, ErrBadCommand) {
		return ErrNoLeases
	}
	return err
}

func (w *writer) grant(req grantRequest) (*etcdserverpb.LeaseGrantResponse, error) {
	if req.ttl > MaxLeaseTTL {
		return nil, ErrLeaseTTLTooLarge
	}
	switch _, ok, err := LeaseOf(w.tx, req.id); {
	case err != nil:
		return nil, err
	case ok:
		return nil, ErrLeaseExists
	}
	switch counts, err := LeaseStanding(w.tx); {
	case err != nil:
		return nil, err
	case counts.Count >= maxLeases:
		return nil, ErrTooManyLeases
	}
	l, err := w.addLease(Lease{ID: req.id, TTL: req.ttl}, nil)
	if err != nil {
		return nil, err
	}
	return &etcdserverpb.LeaseGrantResponse{
		Header: &etcdserverpb.ResponseHeader{Revision: w.revision()}, ID: l.ID, TTL: l.TTL,
	}, nil
}

func appendNumbers(b []byte, numbers ...int64) []byte {
	for _, v := range numbers {
		b = binary.AppendUvarint(b, uint64(v))
	}
	return b
}

// decodeNumbers reads canonical uvarints that are int64.
func decodeNumbers(b []byte, into ...*int64) (rest []byte, ok bool) {
	for _, n := range into {
		if *n, b, ok = uvarint(b); !ok {
			return nil, false
		}
	}
	return b, true
}
