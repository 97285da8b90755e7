package simtest

import (
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/kv"
)

// keySpace is what package kv keeps, told once more in other words: a map for each revision. It is not changed once
// it is made, so that porcupine may go back.
type keySpace struct {
	rev, compacted int64
	versioned      bool // it keeps old revisions
	pairs          map[string]keyPair
	before         *keySpace // as it was at the revision before; nil where history begins
	sum            uint64    // of pairs and of all before
	keyLeases
}

// keyPair is one version of a key.
type keyPair struct {
	create, mod, version int64
	lease                int64
	value                string
}

func newKeySpace() *keySpace { return &keySpace{rev: 1, compacted: -1} }

// The outcomes of kv's commands that are refused here.
const (
	refusedKind      = "\x01"
	refusedNoLease   = "\x06"
	refusedCompacted = "\x09"
	refusedFuture    = "\x0a"
	refusedExists    = "\x0e"
	refusedRenewed   = "\x0f"
)

// raise brings it to a version of kv: the history begins with what is there.
func (k *keySpace) raise(version uint32) *keySpace {
	next := *k
	if !k.versioned {
		next.versioned, next.before = true, nil
	}
	next.leased = k.leased || version >= kv.VersionLeases
	return &next
}

// changed is what follows with other pairs.
func (k *keySpace) changed(pairs map[string]keyPair) *keySpace {
	next := &keySpace{
		rev: k.rev + 1, compacted: k.compacted, versioned: k.versioned, pairs: pairs, before: k,
		keyLeases: k.keyLeases,
	}
	if !k.versioned {
		next.compacted = next.rev
	}
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %d %s", next.rev, k.sum, listed(pairs))
	next.sum = h.Sum64()
	return next
}

func listed(pairs map[string]keyPair) string {
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(pairs)) {
		p := pairs[key]
		fmt.Fprintf(&b, "%s=%.20s/%d@%d.%d.%d+%d ", key, p.value, len(p.value), p.create, p.mod, p.version, p.lease)
	}
	return b.String()
}

func (k *keySpace) same(other *keySpace) bool {
	return k.rev == other.rev && k.compacted == other.compacted && k.versioned == other.versioned && k.sum == other.sum &&
		k.keyLeases.same(other.keyLeases)
}

// read is what a read of all keys at a revision gives; 0 is the newest, with the leases.
func (k *keySpace) read(rev int64) string {
	switch {
	case rev > k.rev:
		return "future"
	case rev > 0 && rev < k.compacted:
		return "compacted"
	}
	at := k
	for rev > 0 && at.rev > rev {
		at = at.before
	}
	if rev == 0 {
		return fmt.Sprintf("%d: %s%s", k.rev, listed(at.pairs), k.list())
	}
	return fmt.Sprintf("%d: %s", k.rev, listed(at.pairs))
}

// readKeys is read from a member's state.
func readKeys(r nexusraft.Reader, rev int64) (string, error) {
	resp, err := kv.Range(r, &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: rev})
	switch {
	case errors.Is(err, kv.ErrFutureRevision):
		return "future", nil
	case errors.Is(err, kv.ErrCompacted):
		return "compacted", nil
	case err != nil:
		return "", err
	}
	pairs := make(map[string]keyPair)
	for _, p := range resp.Kvs {
		pairs[string(p.Key)] = keyPair{p.CreateRevision, p.ModRevision, p.Version, p.Lease, string(p.Value)}
	}
	if rev == 0 {
		leases, err := readLeases(r)
		return fmt.Sprintf("%d: %s%s", resp.Header.Revision, listed(pairs), leases), err
	}
	return fmt.Sprintf("%d: %s", resp.Header.Revision, listed(pairs)), nil
}

// step is what a command of kv does, and its result.
func (k *keySpace) step(command string) (next *keySpace, result string) {
	kind, body := command[0], []byte(command[1:])
	if kind > 2 && !k.versioned || kind > 5 && !k.leased {
		return k, refusedKind
	}
	switch kind {
	case 1:
		return k.write(&etcdserverpb.RequestOp_RequestPut{RequestPut: decoded(body, &etcdserverpb.PutRequest{})})
	case 2:
		return k.write(&etcdserverpb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: decoded(body, &etcdserverpb.DeleteRangeRequest{}),
		})
	case 3:
		t := keyTxn{of: k, pairs: maps.Clone(k.pairs)}
		resp := t.run(decoded(body, &etcdserverpb.TxnRequest{}))
		resp.Header.Revision = t.rev()
		return t.done(resp)
	case 4:
		return k.compact(decoded(body, &etcdserverpb.CompactionRequest{}).Revision)
	case 6, 7, 8:
		return k.lease(kind, body)
	}
	return k, answered(&etcdserverpb.CompactionResponse{Header: &etcdserverpb.ResponseHeader{Revision: k.rev}})
}

func decoded[M proto.Message](body []byte, into M) M {
	if err := proto.Unmarshal(body, into); err != nil {
		panic(err)
	}
	return into
}

func answered(resp proto.Message) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(resp)
	if err != nil {
		panic(err)
	}
	return "\x00" + string(b)
}

func (k *keySpace) compact(rev int64) (next *keySpace, result string) {
	switch {
	case rev <= k.compacted:
		return k, refusedCompacted
	case rev > k.rev:
		return k, refusedFuture
	}
	after := *k
	after.compacted = rev
	return &after, answered(&etcdserverpb.CompactionResponse{Header: &etcdserverpb.ResponseHeader{Revision: k.rev}})
}

// write is a command with one change.
func (k *keySpace) write(op any) (next *keySpace, result string) {
	t := keyTxn{of: k, pairs: maps.Clone(k.pairs)}
	var resp proto.Message
	switch op := op.(type) {
	case *etcdserverpb.RequestOp_RequestPut:
		resp = t.put(op.RequestPut)
	case *etcdserverpb.RequestOp_RequestDeleteRange:
		resp = t.delete(op.RequestDeleteRange)
	}
	return t.done(resp)
}

// keyTxn is a command that runs.
type keyTxn struct {
	of      *keySpace
	pairs   map[string]keyPair
	changes int
	refused bool // a put names a lease that is not there
}

func (t *keyTxn) rev() int64 {
	if t.changes > 0 {
		return t.of.rev + 1
	}
	return t.of.rev
}

func (t *keyTxn) done(resp proto.Message) (next *keySpace, result string) {
	switch {
	case t.refused:
		return t.of, refusedNoLease
	case t.changes == 0:
		return t.of, answered(resp)
	}
	return t.of.changed(t.pairs), answered(resp)
}

func (t *keyTxn) put(req *etcdserverpb.PutRequest) *etcdserverpb.PutResponse {
	rev := t.of.rev + 1
	p, ok := t.pairs[string(req.Key)]
	if !ok {
		p = keyPair{create: rev}
	}
	p.mod, p.version, p.value, p.lease = rev, p.version+1, string(req.Value), req.Lease
	if _, ok := t.of.leases[req.Lease]; req.Lease != 0 && !ok {
		t.refused = true
	}
	if t.pairs == nil {
		t.pairs = make(map[string]keyPair)
	}
	t.pairs[string(req.Key)] = p
	t.changes++
	return &etcdserverpb.PutResponse{Header: &etcdserverpb.ResponseHeader{Revision: rev}}
}

// delete removes one key, or all up to an end.
func (t *keyTxn) delete(req *etcdserverpb.DeleteRangeRequest) *etcdserverpb.DeleteRangeResponse {
	resp := &etcdserverpb.DeleteRangeResponse{Header: new(etcdserverpb.ResponseHeader)}
	key, end := string(req.Key), string(req.RangeEnd)
	for k := range t.pairs {
		if k == key || k > key && k < end {
			resp.Deleted++
		}
	}
	maps.DeleteFunc(t.pairs, func(k string, _ keyPair) bool { return k == key || k > key && k < end })
	t.changes += int(resp.Deleted)
	resp.Header.Revision = t.rev()
	return resp
}

// run is a transaction, whose compares, those of one inside too, look at the state before it.
func (t *keyTxn) run(req *etcdserverpb.TxnRequest) *etcdserverpb.TxnResponse {
	resp := &etcdserverpb.TxnResponse{Header: new(etcdserverpb.ResponseHeader), Succeeded: true}
	for _, c := range req.Compare {
		resp.Succeeded = resp.Succeeded && t.of.pairs[string(c.Key)].mod == c.GetModRevision()
	}
	ops := req.Success
	if !resp.Succeeded {
		ops = req.Failure
	}
	for _, op := range ops {
		r := new(etcdserverpb.ResponseOp)
		switch op := op.Request.(type) {
		case *etcdserverpb.RequestOp_RequestPut:
			r.Response = &etcdserverpb.ResponseOp_ResponsePut{ResponsePut: t.put(op.RequestPut)}
		case *etcdserverpb.RequestOp_RequestDeleteRange:
			r.Response = &etcdserverpb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: t.delete(op.RequestDeleteRange)}
		case *etcdserverpb.RequestOp_RequestTxn:
			r.Response = &etcdserverpb.ResponseOp_ResponseTxn{ResponseTxn: t.run(op.RequestTxn)}
		}
		resp.Responses = append(resp.Responses, r)
	}
	return resp
}

// keySpaceModel is a whole key space. A raise of the version is an operation, too; one without an answer may
// give anything.
var keySpaceModel = porcupine.Model{
	Init:  func() any { return newKeySpace() },
	Equal: func(a, b any) bool { return a.(*keySpace).same(b.(*keySpace)) },
	Step: func(state, input, output any) (bool, any) {
		k, op := state.(*keySpace), input.(*operation)
		switch {
		case op.own:
			raise := decoded([]byte(op.command), &pb.NodeCommand{}).GetRaiseMachineVersion()
			return true, k.raise(raise.GetVersion())
		case op.command == "":
			return k.read(op.rev) == output.(string), k
		}
		next, result := k.step(op.command)
		return op.ret == 0 && !op.known || result == output.(string), next
	},
	DescribeOperation: func(input, output any) string {
		op := input.(*operation)
		return fmt.Sprintf("%.40q at %d -> %.60q", op.command, op.rev, output)
	},
}
