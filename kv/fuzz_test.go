package kv

import (
	"bytes"
	"errors"
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
	for _, r := range refusals {
		f.Add([]byte{r.outcome})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzRecord(t, b)
		_, errPut := DecodePutResult(b)
		_, errDelete := DecodeDeleteRangeResult(b)
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

// Any bytes are a command that runs, is refused, or is none; the state stays readable.
func FuzzApply(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(rawPut(f, &etcdserverpb.PutRequest{Key: []byte("b"), Value: []byte("v"), PrevKv: true}))
	f.Add(rawPut(f, &etcdserverpb.PutRequest{Key: []byte("a"), IgnoreValue: true}))
	f.Add(rawDelete(f, &etcdserverpb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("b"), PrevKv: true}))
	f.Add(rawDelete(f, &etcdserverpb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}))
	f.Fuzz(func(t *testing.T, command []byte) {
		tx := newTx()
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("1")})
		before := dump(tx)
		result := apply(t, tx, command)
		changed := dump(tx) != before
		if changed && result[0] != outcomeOK {
			t.Fatalf("refused with %x and changed the state", result)
		}
		got := mustRange(t, tx, &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
		if want := int64(2); changed && got.Header.Revision != want+1 || !changed && got.Header.Revision != want {
			t.Fatalf("revision %d after one command on revision %d, changed %t", got.Header.Revision, want, changed)
		}
	})
}
