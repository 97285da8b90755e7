package kv

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/tidwall/btree"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// MaxTxnOps is etcd's default for how many compares a transaction may have, and operations in each of its
// branches; those of a transaction inside it count with those around it.
const MaxTxnOps = 128

// MaxTxnTotalOps is how many compares and operations a transaction may have with all that are inside it, whatever
// maxOps is: checking and applying it cost their number (invariant I15). etcd has no such limit.
const MaxTxnTotalOps = 16 << 10

// CheckTxn returns the refusal of req that can be told without looking at the state: ErrTooManyOps over maxOps,
// ErrDuplicateKey, ErrRequestTooLarge, or what its requests are refused for; nil if there is none. But for the size,
// which is first, the order of the checks is etcd's, so that a request with several mistakes gets the same error.
func CheckTxn(req *etcdserverpb.TxnRequest, maxOps int) error {
	if proto.Size(req) > MaxRequestBytes {
		return ErrRequestTooLarge
	}
	total := 0
	if err := checkOps(req, maxOps, &total); err != nil {
		return err
	}
	for _, ops := range [...][]*etcdserverpb.RequestOp{req.Success, req.Failure} {
		if _, err := touchedBy(ops); err != nil {
			return err
		}
	}
	return nil
}

func checkOps(req *etcdserverpb.TxnRequest, maxOps int, total *int) error {
	ops := max(len(req.GetCompare()), len(req.GetSuccess()), len(req.GetFailure()))
	*total += len(req.GetCompare()) + len(req.GetSuccess()) + len(req.GetFailure())
	if ops > maxOps || *total > MaxTxnTotalOps {
		return ErrTooManyOps
	}
	for _, c := range req.GetCompare() {
		if len(c.Key) == 0 {
			return ErrEmptyKey
		}
	}
	for _, branch := range [...][]*etcdserverpb.RequestOp{req.GetSuccess(), req.GetFailure()} {
		for _, op := range branch {
			if err := checkOp(op, maxOps-ops, total); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *etcdserverpb.RequestOp, maxOps int, total *int) error {
	switch op := op.GetRequest().(type) {
	case *etcdserverpb.RequestOp_RequestRange:
		return CheckRange(op.RequestRange)
	case *etcdserverpb.RequestOp_RequestPut:
		return checkPut(op.RequestPut)
	case *etcdserverpb.RequestOp_RequestDeleteRange:
		return checkDeleteRange(op.RequestDeleteRange)
	case *etcdserverpb.RequestOp_RequestTxn:
		return checkOps(op.RequestTxn, maxOps, total)
	}
	return ErrKeyNotFound // as etcd calls an operation without a request
}

// touched are the keys that operations may put, and those that they may delete.
type touched struct {
	puts map[string]bool
	dels keyRanges
}

// touchedBy returns what operations that run together may change, or ErrDuplicateKey if they might put a key
// twice, or put and delete it. The two branches of a transaction inside never run together, and deletes may overlap.
//
// As in etcd, a transaction inside may delete what one before it has put, and a range without an upper bound is
// taken for empty; a key then changes more than once in a revision.
func touchedBy(ops []*etcdserverpb.RequestOp) (t touched, err error) {
	t.puts = make(map[string]bool)
	for _, op := range ops {
		if del := op.GetRequestDeleteRange(); del != nil {
			t.dels.add(del)
		}
	}
	for _, op := range ops {
		if txn := op.GetRequestTxn(); txn != nil {
			if err := t.addTxn(txn); err != nil {
				return touched{}, err
			}
		}
	}
	for _, op := range ops {
		if put := op.GetRequestPut(); put != nil {
			if err := t.addPut(string(put.Key), nil); err != nil {
				return touched{}, err
			}
		}
	}
	return t, nil
}

func (t *touched) addTxn(txn *etcdserverpb.TxnRequest) error {
	success, err := touchedBy(txn.Success)
	if err != nil {
		return err
	}
	failure, err := touchedBy(txn.Failure)
	if err != nil {
		return err
	}
	if len(t.puts) == 0 && t.dels.ends.Len() == 0 && len(failure.puts) == 0 { // nothing can be twice
		*t = success
		t.dels.addAll(failure.dels)
		return nil
	}
	for key := range success.puts {
		if err := t.addPut(key, nil); err != nil {
			return err
		}
	}
	for key := range failure.puts {
		if err := t.addPut(key, success.puts); err != nil {
			return err
		}
	}
	t.dels.addAll(success.dels)
	t.dels.addAll(failure.dels)
	return nil
}

// addPut adds a key that is put, which may have been put before if that is among the exceptions.
func (t *touched) addPut(key string, except map[string]bool) error {
	if t.puts[key] && !except[key] || t.dels.has(key) {
		return ErrDuplicateKey
	}
	t.puts[key] = true
	return nil
}

// keyRanges are ranges of keys, start to end, none of which touches another one. The zero value has none.
type keyRanges struct{ ends btree.Map[string, string] }

// add adds the keys of a delete.
func (k *keyRanges) add(del *etcdserverpb.DeleteRangeRequest) {
	start, end := string(del.Key), string(del.RangeEnd)
	if end == "" {
		end = start + "\x00"
	}
	k.insert(start, end)
}

func (k *keyRanges) addAll(other keyRanges) {
	if other.ends.Len() > k.ends.Len() {
		*k, other = other, *k
	}
	other.ends.Scan(func(start, end string) bool {
		k.insert(start, end)
		return true
	})
}

func (k *keyRanges) insert(start, end string) {
	if start >= end {
		return
	}
	k.ends.Descend(start, func(s, e string) bool { // the one before, if it reaches start
		if e >= start {
			start, end = s, max(end, e)
		}
		return false
	})
	var inside []string
	k.ends.Ascend(start, func(s, e string) bool {
		if s > end {
			return false
		}
		inside, end = append(inside, s), max(end, e)
		return true
	})
	for _, s := range inside {
		k.ends.Delete(s)
	}
	k.ends.Set(start, end)
}

func (k *keyRanges) has(key string) (found bool) {
	k.ends.Descend(key, func(_, end string) bool {
		found = key < end
		return false
	})
	return found
}

// ReadsOnly reports whether a transaction has nothing but ranges: it takes no command, and Txn answers it.
func ReadsOnly(req *etcdserverpb.TxnRequest) bool { return onlyRanges(req, nil) }

// Serializable reports whether a transaction that reads only may be answered from any replica's state: all
// of its ranges may.
func Serializable(req *etcdserverpb.TxnRequest) bool {
	return onlyRanges(req, func(r *etcdserverpb.RangeRequest) bool { return r.Serializable })
}

func onlyRanges(req *etcdserverpb.TxnRequest, and func(*etcdserverpb.RangeRequest) bool) bool {
	other := func(op *etcdserverpb.RequestOp) bool {
		r := op.GetRequestRange()
		return r == nil || and != nil && !and(r)
	}
	return !slices.ContainsFunc(req.Success, other) && !slices.ContainsFunc(req.Failure, other)
}

// Txn answers a transaction that reads only from the state that r reads. CheckTxn is to be asked before. The pairs that
// it gathers are at most some bytes, otherwise it returns ErrResponseTooLarge; everything else is as for Range.
func Txn(r nexusraft.Reader, req *etcdserverpb.TxnRequest, bytes int) (*etcdserverpb.TxnResponse, error) {
	m, err := loadMeta(r)
	if err != nil {
		return nil, err
	}
	t := transaction{r: r, meta: m, left: min(bytes, MaxRangeBytes)}
	return t.run(req)
}

// transaction runs one transaction.
type transaction struct {
	gone keyRanges // what it deletes, of all that was checked so far

	r    nexusraft.Reader
	meta meta    // as it was before
	w    *writer // nil if it only reads
	left int     // bytes that its answer may still have
	path []bool  // of it and of each transaction inside that is reached, in order: whether the compares hold
}

// run runs it. Compares of all levels look at the state before any write, and everything that it may be refused for
// is checked before that, so that a refusal leaves nothing behind; only what has become too large ends it later.
func (t *transaction) run(req *etcdserverpb.TxnRequest) (*etcdserverpb.TxnResponse, error) {
	if err := t.choose(req); err != nil {
		return nil, err
	}
	if err := t.check(req, &path{t.path}); err != nil {
		return nil, err
	}
	resp, err := t.branch(req, &path{t.path})
	if err != nil {
		return nil, err
	}
	resp.Header.Revision = t.revision()
	return resp, nil
}

func (t *transaction) revision() int64 {
	if t.w == nil {
		return t.meta.revision
	}
	return t.w.revision()
}

// path is what is left of a transaction's path.
type path struct{ left []bool }

// take returns the operations of a transaction's branch, and which one that is.
func (p *path) take(req *etcdserverpb.TxnRequest) (ops []*etcdserverpb.RequestOp, succeeded bool) {
	succeeded, p.left = p.left[0], p.left[1:]
	if succeeded {
		return req.GetSuccess(), true
	}
	return req.GetFailure(), false
}

// choose finds out which branches are taken.
func (t *transaction) choose(req *etcdserverpb.TxnRequest) error {
	holds := true
	for _, c := range req.GetCompare() {
		var err error
		if holds, err = t.compare(c); err != nil {
			return err
		}
		if !holds {
			break
		}
	}
	t.path = append(t.path, holds)
	ops := req.GetSuccess()
	if !holds {
		ops = req.GetFailure()
	}
	for _, op := range ops {
		if txn := op.GetRequestTxn(); txn != nil {
			if err := t.choose(txn); err != nil {
				return err
			}
		}
	}
	return nil
}

// compare reports whether each pair of the range is as it says. If there is none, an absent pair has 0 in all numbers
// and no value that could be compared.
func (t *transaction) compare(c *etcdserverpb.Compare) (holds bool, err error) {
	holds, found := true, false
	v := view{r: t.r, at: t.meta.revision, current: t.meta.revision}
	err = v.scan(c.Key, c.RangeEnd, false, func(key []byte, rec record) error {
		found = true
		if holds, err = t.compareTo(c, key, rec); err != nil {
			return err
		}
		if !holds {
			return errCompared
		}
		return nil
	})
	switch {
	case errors.Is(err, errCompared):
		return false, nil
	case err != nil:
		return false, err
	case !found:
		return c.Target != etcdserverpb.Compare_VALUE && compares(c, record{}, nil), nil
	}
	return holds, nil
}

// compareTo reports whether a pair is as a compare says. It reads a long value only if its length does not tell.
func (t *transaction) compareTo(c *etcdserverpb.Compare, key []byte, rec record) (holds bool, err error) {
	if c.Target != etcdserverpb.Compare_VALUE {
		return compares(c, rec, nil), nil
	}
	value := rec.value
	if equals := c.Result == etcdserverpb.Compare_EQUAL; equals || c.Result == etcdserverpb.Compare_NOT_EQUAL {
		if rec.length != len(c.GetValue()) {
			return !equals, nil
		}
	}
	if rec.elsewhere {
		if value, err = rec.peek(t.r, key); err != nil {
			return false, err
		}
	}
	return compares(c, rec, value), nil
}

// errCompared ends a compare: one pair is not as it says.
var errCompared = errors.New("kv: the compare does not hold")

func compares(c *etcdserverpb.Compare, rec record, value []byte) bool {
	var order int
	switch c.Target {
	case etcdserverpb.Compare_VALUE:
		order = bytes.Compare(value, c.GetValue())
	case etcdserverpb.Compare_CREATE:
		order = cmp.Compare(rec.create, c.GetCreateRevision())
	case etcdserverpb.Compare_MOD:
		order = cmp.Compare(rec.mod, c.GetModRevision())
	case etcdserverpb.Compare_VERSION:
		order = cmp.Compare(rec.version, c.GetVersion())
	case etcdserverpb.Compare_LEASE:
		order = cmp.Compare(rec.lease, c.GetLease())
	}
	switch c.Result {
	case etcdserverpb.Compare_EQUAL:
		return order == 0
	case etcdserverpb.Compare_NOT_EQUAL:
		return order != 0
	case etcdserverpb.Compare_GREATER:
		return order > 0
	case etcdserverpb.Compare_LESS:
		return order < 0
	}
	return true // as etcd has it for what it does not know
}

// check returns why the operations that will run can't.
func (t *transaction) check(req *etcdserverpb.TxnRequest, p *path) error {
	ops, _ := p.take(req)
	for _, op := range ops {
		var err error
		switch op := op.GetRequest().(type) {
		case *etcdserverpb.RequestOp_RequestRange:
			if rev := op.RequestRange.Revision; rev != 0 && rev < t.meta.compacted {
				err = ErrCompacted
			} else if rev > t.meta.revision {
				err = ErrFutureRevision
			}
		case *etcdserverpb.RequestOp_RequestPut:
			if err = t.w.checkPutState(t.r, op.RequestPut); err == nil && t.takesFromGone(op.RequestPut) {
				err = ErrKeyNotFound
			}
		case *etcdserverpb.RequestOp_RequestDeleteRange:
			t.deletes(op.RequestDeleteRange)
		case *etcdserverpb.RequestOp_RequestTxn:
			err = t.check(op.RequestTxn, p)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// deletes notes what is not there any more for the operations after a delete.
func (t *transaction) deletes(req *etcdserverpb.DeleteRangeRequest) {
	end := string(req.RangeEnd)
	switch end {
	case "":
		end = string(req.Key) + "\x00"
	case "\x00":
		end = afterAllKeys
	}
	t.gone.insert(string(req.Key), end)
}

// afterAllKeys is above every key that can be there.
var afterAllKeys = strings.Repeat("\xff", MaxKeyBytes+1)

// takesFromGone reports whether a put takes something of a pair that the transaction has deleted before. etcd 3.7
// crashes there.
func (t *transaction) takesFromGone(req *etcdserverpb.PutRequest) bool {
	return (req.IgnoreValue || req.IgnoreLease) && t.gone.has(string(req.Key))
}

// checkPutState returns why a put is refused in that state.
func (w *writer) checkPutState(r nexusraft.Reader, req *etcdserverpb.PutRequest) error {
	if err := w.checkLease(r, req.Lease); err != nil {
		return err
	}
	if !req.IgnoreValue && !req.IgnoreLease {
		return nil
	}
	if _, ok, err := get(r, req.Key); err != nil || ok {
		return err
	}
	return ErrKeyNotFound
}

// branch runs the operations of a transaction.
func (t *transaction) branch(req *etcdserverpb.TxnRequest, p *path) (*etcdserverpb.TxnResponse, error) {
	ops, succeeded := p.take(req)
	resp := &etcdserverpb.TxnResponse{Header: new(etcdserverpb.ResponseHeader), Succeeded: succeeded}
	for _, op := range ops {
		r, err := t.op(op, p)
		if err != nil {
			return nil, err
		}
		resp.Responses = append(resp.Responses, r)
	}
	return resp, nil
}

func (t *transaction) op(op *etcdserverpb.RequestOp, p *path) (*etcdserverpb.ResponseOp, error) {
	switch op := op.GetRequest().(type) {
	case *etcdserverpb.RequestOp_RequestRange:
		resp, err := t.scan(op.RequestRange)
		return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseRange{ResponseRange: resp}},
			t.spend(resp, err)
	case *etcdserverpb.RequestOp_RequestPut:
		resp, err := t.w.put(op.RequestPut)
		return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponsePut{ResponsePut: resp}},
			t.spend(resp, err)
	case *etcdserverpb.RequestOp_RequestDeleteRange:
		if len(op.RequestDeleteRange.RangeEnd) > 0 && !t.passesDeleted() {
			return nil, ErrTxnTooWide
		}
		resp, err := t.w.deleteRange(op.RequestDeleteRange, t.left)
		return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: resp}},
			t.spend(resp, err)
	}
	resp, err := t.branch(op.GetRequestTxn(), p)
	return &etcdserverpb.ResponseOp{Response: &etcdserverpb.ResponseOp_ResponseTxn{ResponseTxn: resp}}, err
}

// passesDeleted pays for what a range passes by that the transaction has deleted before: no read yields it.
func (t *transaction) passesDeleted() bool { return t.w == nil || spend(t.w.left, t.w.deleted) }

// spend takes an answer from what the transaction's may have.
func (t *transaction) spend(resp proto.Message, err error) error {
	if err != nil {
		return err
	}
	if t.left -= proto.Size(resp); t.left < 0 {
		return ErrResponseTooLarge
	}
	return nil
}

func (t *transaction) scan(req *etcdserverpb.RangeRequest) (*etcdserverpb.RangeResponse, error) {
	if len(req.RangeEnd) > 0 && !t.passesDeleted() {
		return nil, ErrTxnTooWide
	}
	v, err := t.meta.view(t.r, t.revision(), req.Revision)
	if err != nil {
		return nil, err
	}
	return v.answer(req, false, t.left)
}
