package kv

import (
	"errors"
	"iter"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// CheckDeleteCost returns ErrTooManyKeys if req would remove more than MaxDeleteKeys keys of the
// state that r reads, an error that is nexusraft.ErrTooLarge if what it would write is more than one command may, or an
// error of r. Ask it before the command is proposed (invariant I15); Apply refuses the same where old revisions are
// kept, but has done the work by then.
func CheckDeleteCost(r nexusraft.Reader, req *etcdserverpb.DeleteRangeRequest) error {
	if len(req.RangeEnd) == 0 {
		return nil
	}
	m, err := loadMeta(r)
	if err != nil || m.fewKeys() {
		return err
	}
	var d deleteCost
	return view{r: r, at: m.revision, current: m.revision}.scan(req.Key, req.RangeEnd, false, d.add)
}

// fewKeys reports whether all that there is may be deleted at once.
func (m meta) fewKeys() bool {
	if m.layout == layoutNewest {
		return m.revision-firstRevision <= MaxDeleteKeys // each key has taken a revision at least
	}
	return !m.moving && m.keys <= MaxDeleteKeys && 2*m.bytes <= maxWrittenBytes
}

// deleteCost is what deleting some pairs comes to.
type deleteCost struct {
	keys  int
	bytes int // about, as writer counts them
}

func (d *deleteCost) add(key []byte, rec record) error {
	const rows = 64 // what the rows of a deletion have besides the key and the version
	d.keys++
	d.bytes += 3*len(key) + rec.stored + rows
	switch {
	case d.keys > MaxDeleteKeys:
		return ErrTooManyKeys
	case d.bytes > maxWrittenBytes:
		return errWrittenTooLarge
	}
	return nil
}

// CheckTxnCost returns ErrTxnTooWide if the compares, ranges and deletes of req, in all branches, would look at more
// than MaxTxnKeys keys and versions of the state that r reads, what CheckDeleteCost returns if all deletes together
// remove too much, or an error of r. CheckTxn is to be asked before. Ask it before the command is proposed
// (invariant I15); Apply refuses what looks at so much, but has done the work by then.
func CheckTxnCost(r nexusraft.Reader, req *etcdserverpb.TxnRequest) error {
	size := sizeOf(req)
	const few = 16 // whatever values they read
	if !size.ranged && size.ops <= few {
		return nil
	}
	m, err := loadMeta(r)
	if err != nil {
		return err
	}
	left := MaxTxnKeys
	c := txnCost{r: metered{r, &left}, left: &left, meta: m, puts: size.puts}
	return c.txn(req)
}

// txnSize is how much a transaction has, with all that are inside it.
type txnSize struct {
	ops, puts int
	ranged    bool // something in it has a range end
}

func sizeOf(req *etcdserverpb.TxnRequest) (s txnSize) {
	s.ops = len(req.GetCompare())
	for _, c := range req.GetCompare() {
		s.ranged = s.ranged || len(c.RangeEnd) > 0
	}
	for _, branch := range [...][]*etcdserverpb.RequestOp{req.GetSuccess(), req.GetFailure()} {
		for _, op := range branch {
			s.ops++
			switch op := op.GetRequest().(type) {
			case *etcdserverpb.RequestOp_RequestPut:
				s.puts++
			case *etcdserverpb.RequestOp_RequestRange:
				s.ranged = s.ranged || len(op.RequestRange.RangeEnd) > 0
			case *etcdserverpb.RequestOp_RequestDeleteRange:
				s.ranged = s.ranged || len(op.RequestDeleteRange.RangeEnd) > 0
			case *etcdserverpb.RequestOp_RequestTxn:
				inside := sizeOf(op.RequestTxn)
				s.ops, s.puts, s.ranged = s.ops+inside.ops, s.puts+inside.puts, s.ranged || inside.ranged
			}
		}
	}
	return s
}

// valueBytesOfAKey is how many bytes of values cost as much as a key.
const valueBytesOfAKey = 256

// meteredTx is a Tx whose reads end with ErrTxnTooWide when they have yielded so much. What a command reads decides
// whether it is refused: reading more or less changes history.
type meteredTx struct {
	nexusraft.Tx

	left *int
}

// Get implements nexusraft.Reader.
func (t meteredTx) Get(key []byte) ([]byte, bool, error) { return t.reader().Get(key) }

// Scan implements nexusraft.Reader.
func (t meteredTx) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return t.reader().Scan(start, end)
}

// ScanReverse implements nexusraft.Reader.
func (t meteredTx) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return t.reader().ScanReverse(start, end)
}

func (t meteredTx) reader() metered { return metered{t.Tx, t.left} }

// metered is meteredTx for a Reader.
type metered struct {
	nexusraft.Reader

	left *int
}

// Get implements nexusraft.Reader.
func (r metered) Get(key []byte) ([]byte, bool, error) {
	value, ok, err := r.Reader.Get(key)
	if err == nil && !spend(r.left, 1+len(value)/valueBytesOfAKey) {
		return nil, false, ErrTxnTooWide
	}
	return value, ok, err
}

// Scan implements nexusraft.Reader.
func (r metered) Scan(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return r.meter(r.Reader.Scan(start, end))
}

// ScanReverse implements nexusraft.Reader.
func (r metered) ScanReverse(start, end []byte) iter.Seq2[nexusraft.Pair, error] {
	return r.meter(r.Reader.ScanReverse(start, end))
}

func (r metered) meter(pairs iter.Seq2[nexusraft.Pair, error]) iter.Seq2[nexusraft.Pair, error] {
	return func(yield func(nexusraft.Pair, error) bool) {
		for p, err := range pairs {
			if err == nil && !spend(r.left, 1+len(p.Value)/valueBytesOfAKey) {
				p, err = nexusraft.Pair{}, ErrTxnTooWide
			}
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

func spend(left *int, n int) bool {
	*left -= n
	return *left >= 0
}

// txnCost looks at what a transaction will look at.
type txnCost struct {
	r       metered
	left    *int
	meta    meta
	puts    int // of the whole transaction: each of its ranges may see them
	deletes deleteCost
}

func (t *txnCost) txn(req *etcdserverpb.TxnRequest) error {
	for _, c := range req.GetCompare() {
		if err := t.look(c.Key, c.RangeEnd, 0, c.Target == etcdserverpb.Compare_VALUE, nil); err != nil {
			return err
		}
	}
	for _, branch := range [...][]*etcdserverpb.RequestOp{req.GetSuccess(), req.GetFailure()} {
		for _, op := range branch {
			if err := t.op(op); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *txnCost) op(op *etcdserverpb.RequestOp) error {
	switch op := op.GetRequest().(type) {
	case *etcdserverpb.RequestOp_RequestRange:
		r := op.RequestRange
		return t.look(r.Key, r.RangeEnd, r.Revision, !r.CountOnly && !r.KeysOnly, nil)
	case *etcdserverpb.RequestOp_RequestPut:
		if op.RequestPut.Lease != 0 && !spend(t.left, 1) {
			return ErrTxnTooWide
		}
		return t.look(op.RequestPut.Key, nil, 0, op.RequestPut.PrevKv || op.RequestPut.IgnoreValue, nil)
	case *etcdserverpb.RequestOp_RequestDeleteRange:
		r := op.RequestDeleteRange
		return t.look(r.Key, r.RangeEnd, 0, r.PrevKv, t.deletes.add)
	case *etcdserverpb.RequestOp_RequestTxn:
		return t.txn(op.RequestTxn)
	}
	return nil
}

// look looks at a range, at a revision, and says what reading its values would cost, but reads no long one.
func (t *txnCost) look(key, end []byte, rev int64, values bool, and visit) error {
	v, err := t.meta.view(t.r, t.meta.revision, rev)
	if errors.Is(err, ErrCompacted) || errors.Is(err, ErrFutureRevision) {
		return nil // refused if it is reached, before it costs anything
	}
	if err != nil {
		return err
	}
	if len(end) > 0 && !spend(t.left, t.puts+t.deletes.keys) {
		return ErrTxnTooWide
	}
	return v.scan(key, end, false, func(key []byte, rec record) error {
		if values && rec.elsewhere && !spend(t.left, rec.length/valueBytesOfAKey) {
			return ErrTxnTooWide
		}
		if and != nil {
			return and(key, rec)
		}
		return nil
	})
}
