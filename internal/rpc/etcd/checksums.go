package etcd

import (
	"context"
	"encoding/binary"
	"hash/crc32"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/rpc"
	"github.com/nexi-lab/nexus-raft/kv"
)

// HashKV implements etcdserverpb.MaintenanceServer: the checksum of what this replica keeps of its keys up to a
// revision. It is not the number that etcd computes, but the same on all members.
func (s *Operator) HashKV(
	ctx context.Context, req *etcdserverpb.HashKVRequest,
) (*etcdserverpb.HashKVResponse, error) {
	resp := &etcdserverpb.HashKVResponse{Header: new(etcdserverpb.ResponseHeader)}
	err := s.sum(ctx, resp.Header, func(r nexusraft.Reader) error {
		h, err := kv.HashKV(r, req.Revision)
		resp.Header.Revision = h.Newest
		resp.Hash, resp.HashRevision, resp.CompactRevision = h.Sum, h.Revision, h.Compacted
		return err
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return resp, nil
}

// Hash implements etcdserverpb.MaintenanceServer: the checksum of all that this replica stores of the zone's state. It
// depends on how far sweeps are, so that members have the same number only where they have applied as much.
func (s *Operator) Hash(ctx context.Context, _ *etcdserverpb.HashRequest) (*etcdserverpb.HashResponse, error) {
	resp := &etcdserverpb.HashResponse{Header: new(etcdserverpb.ResponseHeader)}
	err := s.sum(ctx, resp.Header, func(r nexusraft.Reader) (err error) {
		now, err := kv.StandingOf(r)
		if err != nil {
			return err
		}
		resp.Header.Revision = now.Newest
		resp.Hash, err = hashRows(r)
		return err
	})
	if err != nil {
		return nil, toStatus(err)
	}
	return resp, nil
}

// hashRows is CRC-32C over all rows, each key and each value behind its length.
func hashRows(r nexusraft.Reader) (sum uint32, err error) {
	table := crc32.MakeTable(crc32.Castagnoli)
	for p, err := range r.Scan(nil, nil) {
		if err != nil {
			return 0, err
		}
		for _, b := range [...][]byte{p.Key, p.Value} {
			sum = crc32.Update(sum, table, binary.BigEndian.AppendUint32(nil, uint32(len(b))))
			sum = crc32.Update(sum, table, b)
		}
	}
	return sum, nil
}

// sum computes a checksum of the state of the zone that the request's metadata name, when no other one is
// computed, and for as long as its caller waits. For its turn a caller without a deadline waits as for any answer.
func (s *Operator) sum(
	ctx context.Context, header *etcdserverpb.ResponseHeader, fn func(nexusraft.Reader) error,
) error {
	z, err := s.keys.zone(ctx)
	if err != nil {
		return err
	}
	turn, cancel := rpc.Bounded(ctx)
	defer cancel()
	select {
	case s.summing <- struct{}{}:
		defer func() { <-s.summing }()
	case <-turn.Done():
		return turn.Err()
	}
	err = z.ReadLocal(ctx, func(r nexusraft.Reader) error { return fn(abortable{r, ctx, s.keys.turns}) })
	if err == nil {
		s.keys.complete(header, z)
	}
	return err
}
