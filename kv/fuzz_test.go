package kv

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// FuzzDecode reads any bytes as a record and as a command's result. A record is canonical:
// it encodes to the same bytes. Everything else is ErrCorrupt, or what refused the command.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(record{create: 2, mod: 2, version: 1}.encode())
	f.Add(record{create: 2, mod: 2, version: 1}.encodeNewest())
	f.Add(record{create: 2, mod: 9, version: 3, sub: 4, end: 11, elsewhere: true, length: 5000}.encode())
	f.Add(record{create: 300, mod: 70000, version: 7, lease: 1 << 62, value: []byte("value")}.encode())
	f.Add([]byte("\x82\x00\x02\x01\x00v"))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x01\x01\x00"))
	f.Add([]byte{outcomeOK})
	f.Add([]byte{outcomeOK, 0xff})
	f.Add([]byte{outcomeMore})
	f.Add([]byte{outcomeOK, 1, 60, 2, 0})
	for _, r := range refusals {
		f.Add([]byte{r.outcome})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzRecord(t, b)
		_, errPut := DecodePutResult(b)
		_, errDelete := DecodeDeleteRangeResult(b)
		_, errGrant := DecodeGrantResult(b)
		_, errCheckpoint := DecodeCheckpointResult(b)
		_, errRevoke := DecodeRevokeResult(b)
		for _, err := range []error{errGrant, errCheckpoint, errRevoke} {
			if !errors.Is(err, ErrNoLeases) && !errors.Is(err, ErrLeaseRevoking) {
				fuzzRefusal(t, b, err)
			}
		}
		fuzzRefusal(t, b, errPut)
		fuzzRefusal(t, b, errDelete)
	})
}

func fuzzRecord(t *testing.T, b []byte) {
	r, err := decodeRecord([]byte("key"), b)
	if err != nil {
		if !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Fatalf("got %v, want %v", err, nexusraft.ErrCorrupt)
		}
		return
	}
	if !r.valid() {
		t.Fatalf("decoded an invalid record %+v", r)
	}
	got := r.encode()
	if r.newest {
		got = r.encodeNewest()
	}
	if !bytes.Equal(got, b) {
		t.Fatalf("encodes to %x, was %x", got, b)
	}
}

func fuzzRefusal(t *testing.T, b []byte, err error) {
	known := err == nil || errors.Is(err, nexusraft.ErrCorrupt)
	for _, r := range refusals {
		known = known || errors.Is(err, r.err)
	}
	if !known {
		t.Errorf("%x: got %v, want a result, ErrCorrupt or a refusal", b, err)
	}
}

// Any bytes are a command that runs, is refused, or is none; the state stays what it must be, and readable.
func FuzzApply(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(rawPut(f, &etcdserverpb.PutRequest{Key: []byte("b"), Value: []byte("v"), PrevKv: true}))
	f.Add(rawPut(f, &etcdserverpb.PutRequest{Key: []byte("a"), IgnoreValue: true}))
	f.Add(rawDelete(f, &etcdserverpb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("b"), PrevKv: true}))
	f.Add(rawDelete(f, &etcdserverpb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}))
	f.Add(rawTxn(f, then(opPut("a", "2"), opDelete("b", "", true), txnOp(then(opRange("a", "z", 2))))))
	f.Add(rawTxn(f, then(txnOp(then(opPut("a", "2"))), txnOp(then(opDelete("a", "", true))))))
	f.Add(rawCompact(f, 3))
	f.Add(EncodeSweep(1))
	f.Add(appendNumbers([]byte{kindGrant}, 2, 60))
	f.Add(appendNumbers([]byte{kindGrant}, 2, MaxLeaseTTL+1))
	f.Add(EncodeRevoke(1, 1))
	f.Add(EncodeCheckpoint([]Remaining{{1, 1, 30}, {1, 2, 0}}))
	f.Add(rawPut(f, &etcdserverpb.PutRequest{Key: []byte("b"), Lease: 1}))
	f.Fuzz(func(t *testing.T, command []byte) {
		for _, version := range []uint32{0, VersionHistory, VersionLeases} {
			fuzzApply(t, version, command)
		}
	})
}

func fuzzApply(t *testing.T, version uint32, command []byte) {
	tx := newTx()
	tx.version = version
	lease := int64(0)
	if version >= VersionLeases {
		lease = 1
		mustGrant(t, tx, lease, 60)
	}
	for _, v := range []string{"1", "2", "3"} {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte(v), Lease: lease})
	}
	apply(t, tx, rawCompact(t, 3)) // unknown in version 0
	const rev = 4
	before := dump(tx)
	result, err := tryApply(tx, command)
	if err != nil && !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Fatal(err)
	}
	if changed := dump(tx) != before; changed && (err != nil || result[0] != outcomeOK) {
		t.Fatalf("refused with %x, %v, and changed the state", result, err)
	}
	got := mustRange(t, tx, &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}).Header.Revision
	if got != rev && got != rev+1 {
		t.Fatalf("revision %d after one command on revision %d", got, rev)
	}
	if err := Check(tx); err != nil {
		t.Fatal(err)
	}
}

// FuzzRows reads any bytes as the rows of a key space: each is canonical, or corrupt, and nothing that reads
// a state with it panics.
func FuzzRows(f *testing.F) {
	tx := newTx()
	for _, v := range []string{"", string(make([]byte, maxInline+1)), "3"} {
		mustPut(f, tx, &etcdserverpb.PutRequest{Key: []byte("a\x00"), Value: []byte(v)})
	}
	mustGrant(f, tx, 1, 60)
	mustPut(f, tx, &etcdserverpb.PutRequest{Key: []byte("b"), Lease: 1})
	for k, v := range tx.m {
		f.Add([]byte(k), []byte(v))
	}
	f.Fuzz(func(t *testing.T, k, v []byte) {
		if key, mod, ok := splitVersionKey(k); ok && !bytes.Equal(versionKey(k[0], key, mod), k) {
			t.Fatalf("%x is %x %d", k, key, mod)
		}
		if p, c, err := decodeChange(k, v); err == nil && k[0] == prefixChange {
			if !bytes.Equal(changeKey(p), k) || !bytes.Equal(c.encode(), v) {
				t.Fatalf("%x %x is %v %v", k, v, p, c)
			}
		}
		if rec, err := decodeVersion(k, v, true); err == nil && !bytes.Equal(rec.encode(), v) {
			t.Fatalf("%x is %+v", v, rec)
		}
		if m, err := decodeMeta(append([]byte{layoutVersions}, v...)); err == nil {
			if got := m.encode(); !bytes.Equal(got[1:], v) {
				t.Fatalf("%x encodes to %x", v, got)
			}
		}
		fuzzLeaseRows(t, k, v)
		tx := newTx()
		mustGrant(t, tx, 1, 60)
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("1"), Lease: 1})
		if len(k) > 0 {
			tx.m[string(k)] = string(v)
		}
		fuzzKnown(t, Check(tx))
		_, err := HashKV(tx, 0)
		fuzzKnown(t, err)
		fuzzKnown(t, Leases(tx, func(Lease) error { return nil }))
		fuzzKnown(t, LeasesSince(tx, 0, func(Lease) error { return nil }))
		fuzzKnown(t, LeaseKeys(tx, 1, func([]byte) error { return nil }))
		all := &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Revision: 2}
		_, err = Range(tx, all)
		fuzzKnown(t, err)
		for _, command := range [][]byte{
			rawPut(t, &etcdserverpb.PutRequest{Key: []byte("a")}),
			rawDelete(t, &etcdserverpb.DeleteRangeRequest{Key: all.Key, RangeEnd: all.RangeEnd}),
			rawCompact(t, 2), EncodeSweep(10), EncodeCheckpoint([]Remaining{{1, 1, 30}}), EncodeRevoke(1, 0),
			appendNumbers([]byte{kindGrant}, 2, 60),
		} {
			_, err := tryApply(tx, command)
			fuzzKnown(t, err)
		}
	})
}

// fuzzKnown fails unless an error says what is wrong with the state, or with the request.
func fuzzKnown(t *testing.T, err error) {
	t.Helper()
	known := err == nil || errors.Is(err, nexusraft.ErrCorrupt) || errors.Is(err, nexusraft.ErrTooLarge)
	if !known && !slices.ContainsFunc(refusals, func(r refusal) bool { return errors.Is(err, r.err) }) {
		t.Fatal(err)
	}
}

// fuzzLeaseRows reads any bytes as the rows of leases.
func fuzzLeaseRows(t *testing.T, k, v []byte) {
	if id, key, ok := splitAttachedKey(k); ok && k[0] == prefixAttached && !bytes.Equal(attachedKey(id, key), k) {
		t.Fatalf("%x is %d %x", k, id, key)
	}
	if g, id, err := decodeGeneration(k, v); err == nil && k[0] == prefixGeneration {
		if !bytes.Equal(generationKey(g), k) || !bytes.Equal(appendNumbers(nil, id), v) {
			t.Fatalf("%x %x is %d %d", k, v, g, id)
		}
	}
	if l, err := decodeLease(1, v); err == nil && !bytes.Equal(l.encode(), v) {
		t.Fatalf("%x is %+v", v, l)
	}
	if c, err := decodeLeaseCounts(v); err == nil && !bytes.Equal(c.encode(), v) {
		t.Fatalf("%x is %+v", v, c)
	}
}
