package simtest

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/kv"
)

// keyLeases are the leases of a keySpace.
type keyLeases struct {
	leased     bool // kv's version has them
	generation int64
	leases     map[int64]kv.Lease // not changed once it is made
}

func (k keyLeases) same(other keyLeases) bool {
	return k.leased == other.leased && k.generation == other.generation && maps.Equal(k.leases, other.leases)
}

// list is what a member's leases are listed as: in the order of the IDs, and of the generations.
func (k keyLeases) list() string {
	byID := slices.SortedFunc(maps.Values(k.leases), func(a, b kv.Lease) int { return cmp.Compare(a.ID, b.ID) })
	byGeneration := slices.SortedFunc(slices.Values(byID), func(a, b kv.Lease) int {
		return cmp.Compare(a.Generation, b.Generation)
	})
	return fmt.Sprint(kv.LeaseCounts{Generation: k.generation, Count: int64(len(byID))}, byID, byGeneration)
}

// readLeases is list of what a member has.
func readLeases(r nexusraft.Reader) (string, error) {
	var byID, byGeneration []kv.Lease
	add := func(to *[]kv.Lease) func(kv.Lease) error {
		return func(l kv.Lease) error {
			*to = append(*to, l)
			return nil
		}
	}
	if err := kv.Leases(r, add(&byID)); err != nil {
		return "", err
	}
	if err := kv.LeasesSince(r, 0, add(&byGeneration)); err != nil {
		return "", err
	}
	counts, err := kv.LeaseStanding(r)
	return fmt.Sprint(counts, byID, byGeneration), err
}

// lease is a command for a lease.
func (k *keySpace) lease(kind byte, body []byte) (next *keySpace, result string) {
	var n []int64
	for len(body) > 0 {
		v, size := binary.Uvarint(body)
		n, body = append(n, int64(v)), body[size:]
	}
	after := *k
	after.leases = maps.Clone(k.leases)
	if after.leases == nil {
		after.leases = make(map[int64]kv.Lease)
	}
	was, ok := k.leases[n[0]]
	header := &etcdserverpb.ResponseHeader{Revision: k.rev}
	switch {
	case kind == 6 && ok:
		return k, refusedExists
	case kind == 6:
		after.renew(kv.Lease{ID: n[0], TTL: n[1]})
		return &after, answered(&etcdserverpb.LeaseGrantResponse{Header: header, ID: n[0], TTL: n[1]})
	case kind == 7 && !ok:
		return k, refusedNoLease
	case kind == 7 && n[1] != 0 && n[1] != was.Generation:
		return k, refusedRenewed
	case kind == 7:
		delete(after.leases, n[0])
		gone := after.without(n[0])
		header.Revision = gone.rev
		return gone, answered(&etcdserverpb.LeaseRevokeResponse{Header: header})
	case !ok || n[1] != was.Generation:
		return k, "\x00"
	}
	was.Remaining = n[2]
	is := after.renew(was)
	b := []byte{0}
	for _, v := range []int64{is.ID, is.TTL, is.Generation, is.Remaining} {
		b = binary.AppendUvarint(b, uint64(v))
	}
	return &after, string(b)
}

func (k *keyLeases) renew(l kv.Lease) kv.Lease {
	k.generation++
	l.Generation = k.generation
	k.leases[l.ID] = l
	return l
}

// without is what follows without the keys of a lease.
func (k *keySpace) without(lease int64) *keySpace {
	pairs := maps.Clone(k.pairs)
	maps.DeleteFunc(pairs, func(_ string, p keyPair) bool { return p.lease == lease })
	if len(pairs) == len(k.pairs) {
		return k
	}
	return k.changed(pairs)
}

const someLeases = 3

// someLease is the lease of a put: mostly none, and mostly one that is there.
func (s *sim) someLease(now *keySpace) int64 {
	id := int64(s.between(1, someLeases))
	if _, ok := now.leases[id]; ok && s.percent(50) || s.percent(3) {
		return id
	}
	return 0
}

// makeLease makes a command for a lease up. No two grants or checkpoints are the same.
func (s *sim) makeLease(now *keySpace, made int64) ([]byte, error) {
	const ttl = 10_000
	id := int64(s.between(1, someLeases))
	l, ok := now.leases[id]
	generation := l.Generation
	if s.percent(20) {
		generation = max(1, generation-1)
	}
	switch p := s.rng.IntN(100); {
	case !ok || p < 10:
		return kv.EncodeGrant(id, ttl+made)
	case p < 50:
		if s.percent(30) {
			generation = 0
		}
		return kv.EncodeRevoke(id, generation), nil
	}
	return kv.EncodeCheckpoint([]kv.Remaining{{ID: id, Generation: generation, Seconds: made}}), nil
}

// checkLeases checks that the keys of each lease are those that say so.
func (o *oracle) checkLeases(n *node, state nexusraft.Reader) {
	for id := range int64(someLeases + 1) {
		var got, want []string
		o.s.must(n, "read a lease's keys", kv.LeaseKeys(state, id, func(key []byte) error {
			got = append(got, string(key))
			return nil
		}))
		for key, p := range o.s.oracle.ledger.keys.pairs {
			if id > 0 && p.lease == id {
				want = append(want, key)
			}
		}
		if slices.Sort(want); !slices.Equal(got, want) {
			o.s.fatalf("%s has the keys %s on lease %d, want %s", n.name, strings.Join(got, " "), id, strings.Join(want, " "))
		}
	}
}
