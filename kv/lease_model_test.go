package kv

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"pgregory.net/rapid"
)

// modelLeases are the leases of a model.
type modelLeases struct {
	known      bool // by the zone's version
	generation int64
	leases     map[int64]Lease
}

// lease returns the lease that a put may name.
func (m *model) lease(id int64) bool {
	l, ok := m.leases[id]
	return m.known && ok && !l.Revoking
}

// renew stores a lease under a new generation.
func (m *model) renew(l Lease) Lease {
	m.generation++
	l.Generation = m.generation
	m.leases[l.ID] = l
	return l
}

func (m *model) grant(id, ttl int64) error {
	if !m.known {
		return ErrNoLeases
	}
	if _, ok := m.leases[id]; ok {
		return ErrLeaseExists
	}
	m.renew(Lease{ID: id, TTL: ttl})
	return nil
}

func (m *model) on(id int64) (keys []string) {
	for _, kv := range m.kvs {
		if kv.Lease == id {
			keys = append(keys, string(kv.Key))
		}
	}
	return keys
}

func (m *model) revoke(id, generation int64, most int) error {
	if !m.known {
		return ErrNoLeases
	}
	l, ok := m.leases[id]
	if !ok {
		return ErrLeaseNotFound
	}
	if generation != 0 && generation != l.Generation && !l.Revoking {
		return ErrLeaseRenewed
	}
	keys := m.on(id)
	doomed := keys[:min(most, len(keys))]
	m.kvs = slices.DeleteFunc(m.kvs, func(kv *mvccpb.KeyValue) bool { return slices.Contains(doomed, string(kv.Key)) })
	m.changes += len(doomed)
	if len(doomed) == len(keys) {
		delete(m.leases, id)
		return nil
	}
	if !l.Revoking {
		l.Revoking = true
		m.renew(l)
	}
	return ErrLeaseRevoking
}

func (m *model) checkpoint(leases []Remaining) (done []Lease, err error) {
	if !m.known {
		return nil, ErrNoLeases
	}
	for _, left := range leases {
		l, ok := m.leases[left.ID]
		if !ok || l.Revoking || l.Generation != left.Generation {
			continue
		}
		l.Remaining = left.Seconds
		if l.Remaining >= l.TTL {
			l.Remaining = 0
		}
		done = append(done, m.renew(l))
	}
	return done, nil
}

var someLease = rapid.Int64Range(1, 4)

// few keys go with one command of a revoke, while a test runs.
func revokesFew(t *testing.T, keys int) {
	was := maxRevokedKeys
	maxRevokedKeys = keys
	t.Cleanup(func() { maxRevokedKeys = was })
}

func addLeaseActions(t *testing.T, tx *memTx, m *model, actions map[string]func(*rapid.T)) {
	actions["grant"] = func(rt *rapid.T) {
		id, ttl := someLease.Draw(rt, "lease"), rapid.Int64Range(1, 50).Draw(rt, "ttl")
		resp, err := grant(t, tx, id, ttl)
		same(rt, "grant", nil, nil, err, m.grant(id, ttl))
		if err == nil && (resp.ID != id || resp.TTL != ttl || resp.Header.Revision != m.rev) {
			rt.Fatalf("got %v at revision %d", resp, m.rev)
		}
	}
	actions["revoke"] = func(rt *rapid.T) {
		id := someLease.Draw(rt, "lease")
		now := m.leases[id].Generation
		generation := rapid.SampledFrom([]int64{0, now, now, max(0, now-1), now + 1}).Draw(rt, "generation")
		rev, err := revoke(t, tx, id, generation)
		wantErr := m.revoke(id, generation, maxRevokedKeys)
		m.done()
		same(rt, "revoke", nil, nil, err, wantErr)
		if (err == nil || rev != 0) && rev != m.rev {
			rt.Fatalf("got revision %d, want %d", rev, m.rev)
		}
	}
	actions["checkpoint"] = func(rt *rapid.T) {
		var leases []Remaining
		for range rapid.IntRange(0, 4).Draw(rt, "leases") {
			id := someLease.Draw(rt, "lease")
			leases = append(leases, Remaining{
				ID: id, Generation: max(0, m.leases[id].Generation-rapid.SampledFrom([]int64{0, 0, 0, 1}).Draw(rt, "behind")),
				Seconds: rapid.Int64Range(0, 60).Draw(rt, "seconds"),
			})
		}
		got, err := DecodeCheckpointResult(apply(t, tx, EncodeCheckpoint(leases)))
		want, wantErr := m.checkpoint(leases)
		same(rt, "checkpoint", nil, nil, err, wantErr)
		if d := gocmp.Diff(want, got); d != "" {
			rt.Fatalf("checkpoint of %v (-want +got):\n%s", leases, d)
		}
	}
	whole := actions[""]
	actions[""] = func(rt *rapid.T) {
		whole(rt)
		leasesAgainstModel(rt, tx, m)
	}
}

// leasesAgainstModel compares what is kept of leases, in each order in which it can be read.
func leasesAgainstModel(rt *rapid.T, tx *memTx, m *model) {
	counts, err := LeaseStanding(tx)
	if want := (LeaseCounts{m.generation, int64(len(m.leases))}); err != nil || counts != want {
		rt.Fatalf("got %v, %v, want %v", counts, err, want)
	}
	list := func(read func(func(Lease) error) error) (leases []Lease) {
		err := read(func(l Lease) error {
			leases = append(leases, l)
			return nil
		})
		if err != nil {
			rt.Fatal(err)
		}
		return leases
	}
	want := slices.SortedFunc(maps.Values(m.leases), func(a, b Lease) int { return cmp.Compare(a.ID, b.ID) })
	if d := gocmp.Diff(want, list(func(fn func(Lease) error) error { return Leases(tx, fn) })); d != "" {
		rt.Fatalf("leases (-want +got):\n%s", d)
	}
	slices.SortFunc(want, func(a, b Lease) int { return cmp.Compare(a.Generation, b.Generation) })
	for since := int64(-1); since <= m.generation; since++ {
		got := list(func(fn func(Lease) error) error { return LeasesSince(tx, since, fn) })
		later := slices.DeleteFunc(slices.Clone(want), func(l Lease) bool { return l.Generation <= since })
		if !slices.Equal(got, later) {
			rt.Fatalf("since %d: got %v, want %v", since, got, later)
		}
	}
	for id := range int64(6) {
		var keys []string
		err := LeaseKeys(tx, id, func(key []byte) error {
			keys = append(keys, string(key))
			return nil
		})
		if on := m.on(id); err != nil || id > 0 && !slices.Equal(keys, on) || id == 0 && len(keys) > 0 {
			rt.Fatalf("lease %d: got %q, %v, want %q", id, keys, err, on)
		}
		l, ok, err := LeaseOf(tx, id)
		if known, want := m.leases[id]; err != nil || ok != want || l != known {
			rt.Fatalf("lease %d: got %v, %t, %v, want %v", id, l, ok, err, known)
		}
	}
}
