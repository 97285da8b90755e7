package kv

import (
	"encoding/binary"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// VersionLeases is the zone's version of this state machine from which on there are leases. Below it their commands
// are refused (ErrNoLeases), and so is a put that names one (ErrLeaseNotFound).
const VersionLeases = 2

// MaxLeaseTTL is up to how many seconds a lease may be granted for, as in etcd. Changing it changes history.
const MaxLeaseTTL = 9_000_000_000

// MaxLeases is how many leases a zone may have. Changing it changes history.
const MaxLeases = 1_000_000

var maxLeases int64 = MaxLeases // tests have a lower one

// Lease is what a zone keeps of a lease. There is no clock in it: the leader counts the time, and grants, checkpoints
// and revokes are what it commits of that.
type Lease struct {
	ID  int64 // above 0
	TTL int64 // seconds, as granted

	// Generation grows, over all leases of the zone, with each grant and checkpoint of the lease, and with the beginning
	// of a revoke that takes several commands. A revoke that names another one does nothing.
	Generation int64

	Remaining int64 // seconds that were left at the last checkpoint; 0: all of TTL

	// Revoking says that a revoke has removed some of the lease's keys, and could not remove all at once. The lease has
	// ended: it takes no more keys and is not renewed, and whoever leads is to propose EncodeRevoke(ID, 0) until it is
	// gone.
	Revoking bool
}

// LeaseCounts are the sums over a zone's leases.
type LeaseCounts struct {
	Generation int64 // the newest one that was given; 0: none ever was
	Count      int64 // leases that are there, those that are being revoked included
}

// LeaseOf returns a lease, and whether it is there. One that is Revoking is there, and must not be taken for alive.
func LeaseOf(r nexusraft.Reader, id int64) (Lease, bool, error) {
	b, ok, err := r.Get(leaseKey(id))
	if err != nil || !ok {
		return Lease{}, false, err
	}
	l, err := decodeLease(id, b)
	return l, err == nil, err
}

// Leases calls fn for each lease in ascending order of the IDs, until it returns an error. While it runs, fn may get
// single keys of r, and nothing else.
func Leases(r nexusraft.Reader, fn func(Lease) error) error {
	for p, err := range r.Scan([]byte{prefixLease}, []byte{prefixLease + 1}) {
		if err != nil {
			return err
		}
		id, ok := splitNumberKey(p.Key)
		if !ok {
			return errCorrupt("lease % x", p.Key)
		}
		l, err := decodeLease(id, p.Value)
		if err != nil {
			return err
		}
		if err := fn(l); err != nil {
			return err
		}
	}
	return nil
}

// LeasesSince is Leases for those whose generation is above one, in ascending order of the generations: what was
// granted, checkpointed or has begun to be revoked since then. It costs their number, however many leases there are.
// Of a lease that is gone it says nothing.
func LeasesSince(r nexusraft.Reader, generation int64, fn func(Lease) error) error {
	for p, err := range r.Scan(generationKey(max(generation, 0)+1), []byte{prefixGeneration + 1}) {
		if err != nil {
			return err
		}
		g, id, err := decodeGeneration(p.Key, p.Value)
		if err != nil {
			return err
		}
		l, ok, err := LeaseOf(r, id)
		if err != nil {
			return err
		}
		if !ok || l.Generation != g {
			return errCorrupt("generation %d of lease %d, which has another one or is not there", g, id)
		}
		if err := fn(l); err != nil {
			return err
		}
	}
	return nil
}

// LeaseKeys calls fn for each key that hangs on a lease, in ascending order, until it returns an error. The key is
// borrowed until fn returns, which may get single keys of r meanwhile, and then has to copy the key before.
func LeaseKeys(r nexusraft.Reader, id int64, fn func(key []byte) error) error {
	return leaseKeys(r, attachedKey(id, nil), id, fn)
}

func leaseKeys(r nexusraft.Reader, from []byte, id int64, fn func(key []byte) error) error {
	for p, err := range r.Scan(from, afterAttached(id)) {
		if err != nil {
			return err
		}
		_, key, ok := splitAttachedKey(p.Key)
		if !ok || len(p.Value) > 0 {
			return errCorrupt("key of a lease % x", p.Key)
		}
		if err := fn(key); err != nil {
			return err
		}
	}
	return nil
}

// LeaseStanding returns the sums over a zone's leases, at the cost of one row.
func LeaseStanding(r nexusraft.Reader) (LeaseCounts, error) {
	b, ok, err := r.Get(leaseCountsKey)
	if err != nil || !ok {
		return LeaseCounts{}, err
	}
	return decodeLeaseCounts(b)
}

var leaseCountsKey = append([]byte{prefixMeta}, "lease"...)

func (c LeaseCounts) encode() []byte {
	return appendNumbers(nil, c.Generation, c.Count)
}

func decodeLeaseCounts(b []byte) (c LeaseCounts, err error) {
	rest, ok := decodeNumbers(b, &c.Generation, &c.Count)
	if !ok || len(rest) > 0 || c.Count > c.Generation || c.Generation == 0 {
		return LeaseCounts{}, errCorrupt("counts of leases % x", b)
	}
	return c, nil
}

// leaseKey returns where a lease is stored.
func leaseKey(id int64) []byte { return numberKey(prefixLease, id) }

// generationKey returns where the ID of the lease is stored that has a generation.
func generationKey(generation int64) []byte { return numberKey(prefixGeneration, generation) }

// attachedKey returns where it is stored that a key hangs on a lease.
func attachedKey(id int64, key []byte) []byte { return append(numberKey(prefixAttached, id), key...) }

// afterAttached is above all attachedKeys of a lease, and of those with higher IDs below all.
func afterAttached(id int64) []byte {
	b := numberKey(prefixAttached, id)
	for i := len(b) - 1; ; i-- { // the prefix is not 0xff
		if b[i]++; b[i] != 0 {
			return b
		}
	}
}

func numberKey(prefix byte, n int64) []byte {
	b := make([]byte, 1, 9)
	b[0] = prefix
	return binary.BigEndian.AppendUint64(b, uint64(n))
}

// splitAttachedKey reads what attachedKey wrote; the key is a part of it.
func splitAttachedKey(b []byte) (id int64, key []byte, ok bool) {
	if len(b) <= 9 {
		return 0, nil, false
	}
	id, ok = splitNumberKey(b[:9])
	return id, b[9:], ok
}

func splitNumberKey(b []byte) (n int64, ok bool) {
	if len(b) != 9 || b[1] >= 0x80 {
		return 0, false
	}
	n = int64(binary.BigEndian.Uint64(b[1:]))
	return n, n > 0
}

// leaseRevoking follows the numbers of a lease that is being revoked.
const leaseRevoking = 1

func (l Lease) encode() []byte {
	b := appendNumbers(make([]byte, 0, 24), l.TTL, l.Generation, l.Remaining)
	if l.Revoking {
		b = append(b, leaseRevoking)
	}
	return b
}

func decodeLease(id int64, b []byte) (Lease, error) {
	l := Lease{ID: id}
	rest, ok := decodeNumbers(b, &l.TTL, &l.Generation, &l.Remaining)
	if ok && len(rest) == 1 && rest[0] == leaseRevoking {
		l.Revoking, rest = true, nil
	}
	if !ok || len(rest) > 0 || !l.valid() {
		return Lease{}, errCorrupt("lease %d % x", id, b)
	}
	return l, nil
}

func (l Lease) valid() bool {
	return l.ID > 0 && l.TTL > 0 && l.TTL <= MaxLeaseTTL && l.Generation > 0 && l.Remaining < l.TTL
}

// decodeGeneration reads a row of g.
func decodeGeneration(k, b []byte) (generation, id int64, err error) {
	generation, ok := splitNumberKey(k)
	rest, whole := decodeNumbers(b, &id)
	if !ok || !whole || len(rest) > 0 || id == 0 {
		return 0, 0, errCorrupt("generation % x", k)
	}
	return generation, id, nil
}

// addLease stores a lease under a new generation, instead of what it was, if it was there.
func (w *writer) addLease(l Lease, was *Lease) (Lease, error) {
	counts, err := LeaseStanding(w.tx)
	if err != nil {
		return Lease{}, err
	}
	counts.Generation++
	l.Generation = counts.Generation
	if was == nil {
		counts.Count++
	} else if err := w.dropLease(*was); err != nil {
		return Lease{}, err
	}
	if err := w.set(leaseKey(l.ID), l.encode()); err != nil {
		return Lease{}, err
	}
	if err := w.set(generationKey(l.Generation), appendNumbers(nil, l.ID)); err != nil {
		return Lease{}, err
	}
	return l, w.write(leaseCountsKey, counts.encode())
}

// endLease removes a lease that has no keys any more.
func (w *writer) endLease(l Lease) error {
	counts, err := LeaseStanding(w.tx)
	if err != nil {
		return err
	}
	if counts.Count--; counts.Count < 0 {
		return errCorrupt("counts of leases, which have none, but there is %d", l.ID)
	}
	if err := w.dropLease(l); err != nil {
		return err
	}
	return w.write(leaseCountsKey, counts.encode())
}

// dropLease removes a lease's rows.
func (w *writer) dropLease(l Lease) error {
	if err := w.remove(leaseKey(l.ID), len(l.encode())); err != nil {
		return err
	}
	return w.remove(generationKey(l.Generation), len(appendNumbers(nil, l.ID)))
}

// attach notes that a key that was on one lease is on another one from now on; 0 is none. Both are there.
func (w *writer) attach(key []byte, was, now int64) error {
	if was == now {
		return nil
	}
	if was != 0 {
		if err := w.remove(attachedKey(was, key), 0); err != nil {
			return err
		}
	}
	if now == 0 {
		return nil
	}
	return w.set(attachedKey(now, key), nil)
}

// checkLease returns ErrLeaseNotFound unless a put may name that lease.
func (w *writer) checkLease(r nexusraft.Reader, id int64) error {
	if id == 0 {
		return nil
	}
	if w == nil || !w.leases { // without a look: what a transaction reads decides whether it is refused
		return ErrLeaseNotFound
	}
	l, ok, err := LeaseOf(r, id)
	if err == nil && (!ok || l.Revoking) {
		err = ErrLeaseNotFound
	}
	return err
}
