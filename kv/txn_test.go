package kv

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func rawTxn(t testing.TB, req *etcdserverpb.TxnRequest) []byte {
	t.Helper()
	b, err := encodeCommand(kindTxn, req)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func rawCompact(t testing.TB, rev int64) []byte {
	t.Helper()
	b, err := EncodeCompact(&etcdserverpb.CompactionRequest{Revision: rev})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func opPut(key, value string) *etcdserverpb.RequestOp {
	return putOp(&etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)})
}

func opDelete(key, end string, prev bool) *etcdserverpb.RequestOp {
	return deleteOp(&etcdserverpb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end), PrevKv: prev})
}

func opRange(key, end string, rev int64) *etcdserverpb.RequestOp {
	return rangeOp(&etcdserverpb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end), Revision: rev})
}

func putOp(r *etcdserverpb.PutRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: r}}
}

func deleteOp(r *etcdserverpb.DeleteRangeRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

func rangeOp(r *etcdserverpb.RangeRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: r}}
}

func txnOp(r *etcdserverpb.TxnRequest) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: r}}
}

func mustTxn(t testing.TB, tx *memTx, req *etcdserverpb.TxnRequest) *etcdserverpb.TxnResponse {
	t.Helper()
	command, err := EncodeTxn(req, MaxTxnOps)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := DecodeTxnResult(apply(t, tx, command))
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func then(ops ...*etcdserverpb.RequestOp) *etcdserverpb.TxnRequest {
	return &etcdserverpb.TxnRequest{Success: ops}
}

// What may stand together in a transaction is what etcd lets stand.
func TestDuplicateKeys(t *testing.T) {
	either := func(a, b *etcdserverpb.RequestOp) *etcdserverpb.RequestOp {
		return txnOp(&etcdserverpb.TxnRequest{
			Success: []*etcdserverpb.RequestOp{a}, Failure: []*etcdserverpb.RequestOp{b},
		})
	}
	put := func(k string) *etcdserverpb.RequestOp { return opPut(k, "v") }
	for _, tc := range []struct {
		name string
		req  *etcdserverpb.TxnRequest
		want error
	}{
		{"two puts", then(put("a"), put("a")), ErrDuplicateKey},
		{"puts of two keys", then(put("a"), put("b")), nil},
		{"put and delete", then(put("a"), opDelete("a", "", false)), ErrDuplicateKey},
		{"delete and put", then(opDelete("a", "", false), put("a")), ErrDuplicateKey},
		{"put in a deleted range", then(opDelete("a", "c", false), put("b")), ErrDuplicateKey},
		{"put at the end of a deleted range", then(opDelete("a", "c", false), put("c")), nil},
		{
			"put in the second of two ranges that meet",
			then(opDelete("a", "c", false), opDelete("c", "e", false), put("d")), ErrDuplicateKey,
		},
		{
			"put in a range that another one is in",
			then(opDelete("b", "c", false), opDelete("a", "f", false), put("e")), ErrDuplicateKey,
		},
		{"put between two deleted ranges", then(opDelete("a", "c", false), opDelete("d", "e", false), put("c")), nil},
		{"two deletes", then(opDelete("a", "c", false), opDelete("b", "d", false)), nil},
		{"a range without an upper bound", then(opDelete("a", "\x00", false), put("b")), nil},
		{"a range whose end is before its start", then(opDelete("c", "a", false), put("b")), nil},
		{
			"in both branches",
			&etcdserverpb.TxnRequest{Success: then(put("a")).Success, Failure: then(put("a")).Success}, nil,
		},
		{"in both branches of one inside", then(either(put("a"), put("a"))), nil},
		{"in a branch inside and beside it", then(put("a"), either(put("a"), put("b"))), ErrDuplicateKey},
		{"in two inside", then(either(put("b"), put("a")), either(put("c"), put("a"))), ErrDuplicateKey},
		{
			"deleted in one inside, put in a later one",
			then(either(put("b"), opDelete("a", "", false)), either(put("a"), put("c"))), ErrDuplicateKey,
		},
		{
			"put in one inside, deleted in a later one",
			then(either(put("b"), put("a")), either(opDelete("a", "", false), put("c"))), nil,
		},
		{"deleted beside, put inside", then(either(put("b"), put("a")), opDelete("a", "", false)), ErrDuplicateKey},
		{"two levels down", then(put("a"), txnOp(then(txnOp(then(put("a")))))), ErrDuplicateKey},
	} {
		if got := CheckTxn(tc.req, MaxTxnOps); !errors.Is(got, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, got, tc.want)
		}
	}
}

// A key that changes twice in a revision was never what it was in between, but to who follows the changes.
func TestKeyThatChangesTwiceInARevision(t *testing.T) {
	tx := newTx()
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("old")}) // revision 2
	mustTxn(t, tx, then(txnOp(then(opPut("a", "new"), opPut("b", "new"))), txnOp(then(opDelete("a", "c", true)))))
	mustTxn(t, tx, then(opDelete("a", "\x00", false), opPut("a", "newest")))
	if err := Check(tx); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string][]Version{
		"a": {{Revision: 2, Create: 2, Version: 1, Bytes: 3}, {Revision: 3}, {Revision: 4, Create: 4, Version: 1, Bytes: 6}},
		"b": nil,
	} {
		var got []Version
		if err := History(tx, []byte(key), 0, func(v Version) error { got = append(got, v); return nil }); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("history of %s: got %v, want %v", key, got, want)
		}
	}
	for rev, want := range map[int64]string{2: "a=old", 3: "", 4: "a=newest"} {
		got := ""
		req := &etcdserverpb.RangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), Revision: rev}
		for _, kv := range mustRange(t, tx, req).Kvs {
			got += fmt.Sprintf("%s=%s", kv.Key, kv.Value)
		}
		if got != want {
			t.Errorf("at revision %d: got %q, want %q", rev, got, want)
		}
	}
	kinds := ""
	for _, e := range tx.events {
		kinds += expand(t, tx, e).kind + " "
	}
	if want := "put put put delete delete put "; kinds != want {
		t.Errorf("events: got %q, want %q", kinds, want)
	}
}

// What a transaction has too much of is refused before or while it runs, and nothing of it is kept.
func TestTransactionsThatAreTooLarge(t *testing.T) {
	many := func(n int, op *etcdserverpb.RequestOp) (ops []*etcdserverpb.RequestOp) {
		for range n {
			ops = append(ops, op)
		}
		return ops
	}
	nested := func(depth int) *etcdserverpb.TxnRequest {
		req := then(opRange("a", "", 0))
		for range depth {
			req = then(txnOp(req))
		}
		return req
	}
	wide := then(many(128, txnOp(then(many(128, opRange("a", "", 0))...)))...)
	value := string(make([]byte, 1<<20))
	tx := newTx()
	for i := range 5 {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: fmt.Append(nil, "k", i), Value: []byte(value)})
	}
	before := maps.Clone(tx.m)
	for _, tc := range []struct {
		name  string
		req   *etcdserverpb.TxnRequest
		check error // of CheckTxn
		apply error
	}{
		{"128 operations", then(many(128, opRange("a", "", 0))...), nil, nil},
		{"129 operations", then(many(129, opRange("a", "", 0))...), ErrTooManyOps, nil},
		{"10 levels", nested(10), nil, nil},
		{"127 levels", nested(127), nil, nil},
		{"1,000 levels", nested(1000), ErrTooManyOps, nil},
		{"128 times 128 operations", wide, ErrTooManyOps, ErrTooManyOps},
		{"a large request", then(opPut("a", value), opPut("b", value)), ErrRequestTooLarge, ErrRequestTooLarge},
		{"a large answer", then(opPut("a", "v"), opRange("k", "l", 0)), nil, nexusraft.ErrTooLarge},
		{"large previous pairs", then(opPut("a", "v"), opDelete("k", "l", true)), nil, nexusraft.ErrTooLarge},
		{"no operation", then(&etcdserverpb.RequestOp{}), ErrKeyNotFound, ErrKeyNotFound},
	} {
		if got := CheckTxn(tc.req, MaxTxnOps); !errors.Is(got, tc.check) {
			t.Errorf("%s: check got %v, want %v", tc.name, got, tc.check)
		}
		result, err := tryApply(tx, rawTxn(t, tc.req))
		if err == nil {
			_, err = DecodeTxnResult(result)
		}
		if !errors.Is(err, tc.apply) {
			t.Errorf("%s: apply got %v, want %v", tc.name, err, tc.apply)
		}
		if !maps.Equal(before, tx.m) {
			t.Errorf("%s: the state has changed", tc.name)
		}
	}
}

// A transaction whose ranges look at very much is refused before it is proposed, whatever branch they are in.
func TestTransactionsThatLookAtTooMuch(t *testing.T) {
	state := endless{n: MaxTxnKeys + 1, value: record{create: 2, mod: 2, version: 1}.encode()}
	small := endless{n: MaxTxnKeys, value: state.value}
	compare := &etcdserverpb.Compare{Key: []byte("a"), RangeEnd: []byte("z"), Target: etcdserverpb.Compare_VERSION}
	for name, req := range map[string]*etcdserverpb.TxnRequest{
		"a compare":                  {Compare: []*etcdserverpb.Compare{compare}},
		"in the other branch inside": then(txnOp(&etcdserverpb.TxnRequest{Failure: then(opRange("a", "z", 0)).Success})),
	} {
		if err := CheckTxnCost(state, req); !errors.Is(err, ErrTxnTooWide) || !errors.Is(err, nexusraft.ErrTooLarge) {
			t.Errorf("%s: got %v, want %v", name, err, ErrTxnTooWide)
		}
	}
	if err := CheckTxnCost(small, then(opRange("a", "z", 0))); err != nil {
		t.Errorf("as many keys as may be: %v", err)
	}
	for name, req := range map[string]*etcdserverpb.TxnRequest{
		"single keys":       then(opRange("a", "", 0), opDelete("b", "", false), opPut("c", "v")),
		"a future revision": then(opRange("a", "z", 1<<40)),
	} {
		if err := CheckTxnCost(state, req); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// All compares look at the state before any write; ranges see the writes before them, and old revisions as they were.
func TestTransactionReadsItsWrites(t *testing.T) {
	tx := newTx()
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("1")})
	absent := &etcdserverpb.Compare{Key: []byte("b"), Target: etcdserverpb.Compare_CREATE}
	resp := mustTxn(t, tx, then(
		opPut("b", "1"),
		txnOp(&etcdserverpb.TxnRequest{Compare: []*etcdserverpb.Compare{absent}, Success: then(opPut("c", "1")).Success}),
		opRange("a", "z", 0), opRange("a", "z", 2), opDelete("a", "", false), opRange("a", "z", 0)))
	if !resp.Responses[1].GetResponseTxn().Succeeded {
		t.Error("a compare inside saw the put before it")
	}
	for i, want := range map[int]string{2: "a b c", 3: "a", 5: "b c"} {
		r := resp.Responses[i].GetResponseRange()
		if got := keysOf(r); got != want || r.Header.Revision != 3 || r.Count != int64(len(r.Kvs)) {
			t.Errorf("range %d: got %q at revision %d, want %q at 3", i, got, r.Header.Revision, want)
		}
	}
	if resp.Header.Revision != 3 {
		t.Errorf("revision %d, want 3", resp.Header.Revision)
	}
}

// A put that takes something of a pair that its transaction has deleted is refused, before anything is written.
func TestTransactionTakesFromWhatItDeletes(t *testing.T) {
	ignore := putOp(&etcdserverpb.PutRequest{Key: []byte("b"), IgnoreValue: true})
	keep := putOp(&etcdserverpb.PutRequest{Key: []byte("b"), Value: []byte("v"), IgnoreLease: true})
	for name, tc := range map[string]struct {
		req  *etcdserverpb.TxnRequest
		want error
	}{
		"value":               {then(opDelete("a", "\x00", false), ignore), ErrKeyNotFound},
		"lease":               {then(opDelete("a", "\x00", false), keep), ErrKeyNotFound},
		"deleted inside":      {then(txnOp(then(opDelete("b", "\x00", false))), txnOp(then(ignore))), ErrKeyNotFound},
		"put first":           {then(ignore, opDelete("c", "\x00", false)), nil},
		"deletes another one": {then(opDelete("c", "\x00", false), ignore), nil},
		"deleted in no branch": {
			then(txnOp(&etcdserverpb.TxnRequest{Failure: then(opDelete("a", "\x00", false)).Success}), ignore), nil,
		},
	} {
		tx := newTx()
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("b"), Value: []byte("1")})
		before := dump(tx)
		_, err := DecodeTxnResult(apply(t, tx, rawTxn(t, tc.req)))
		if !errors.Is(err, tc.want) || err != nil && dump(tx) != before {
			t.Errorf("%s: got %v, want %v, and nothing written", name, err, tc.want)
		}
	}
}

// All answers of a transaction together have a bound, of one that reads, too.
func TestAnswersOfATransaction(t *testing.T) {
	tx := newTx()
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: make([]byte, 1<<20)})
	four := then(opRange("a", "", 0), opRange("a", "", 0), opRange("a", "", 0), opRange("a", "", 0))
	if _, err := Txn(tx, four, MaxRangeBytes); err != nil {
		t.Error(err)
	}
	if _, err := Txn(tx, four, 4<<20); !errors.Is(err, ErrResponseTooLarge) {
		t.Errorf("got %v, want %v", err, ErrResponseTooLarge)
	}
	four.Success = append(four.Success, opPut("b", ""))
	result, err := tryApply(tx, rawTxn(t, four))
	if err == nil {
		_, err = DecodeTxnResult(result)
	}
	if !errors.Is(err, ErrResponseTooLarge) {
		t.Errorf("of one that writes: got %v, want %v", err, ErrResponseTooLarge)
	}
}

// A transaction tells of MaxDeleteEvents keys that it has deleted, and then of ranges.
func TestEventsOfManyDeletes(t *testing.T) {
	tx := newTx()
	for i := range MaxDeleteEvents + 1 {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "k%04d", i)})
	}
	tx.events = nil
	mustTxn(t, tx, then(opDelete("k", "k0600", false), opDelete("k0600", "l", false)))
	if n := len(tx.events); n != 601 || tx.events[600].kind != EventDeleteRange {
		t.Errorf("%d events, the last one %q, want 601 and %q", n, tx.events[n-1].kind, EventDeleteRange)
	}
}
