package kv

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// rawPut is the command for req without the checks of EncodePut, as a foreign or an older
// proposer could send it.
func rawPut(t testing.TB, req *etcdserverpb.PutRequest) []byte {
	t.Helper()
	b, err := encodeCommand(kindPut, req)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func rawDelete(t testing.TB, req *etcdserverpb.DeleteRangeRequest) []byte {
	t.Helper()
	b, err := encodeCommand(kindDeleteRange, req)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustPut(t testing.TB, tx *memTx, req *etcdserverpb.PutRequest) *etcdserverpb.PutResponse {
	t.Helper()
	command, err := EncodePut(req)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := DecodePutResult(apply(t, tx, command))
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func mustDelete(t testing.TB, tx *memTx, req *etcdserverpb.DeleteRangeRequest) *etcdserverpb.DeleteRangeResponse {
	t.Helper()
	command, err := EncodeDeleteRange(req)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := DecodeDeleteRangeResult(apply(t, tx, command))
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func mustRange(t testing.TB, r nexusraft.Reader, req *etcdserverpb.RangeRequest) *etcdserverpb.RangeResponse {
	t.Helper()
	resp, err := Range(r, req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func key(s string) *etcdserverpb.RangeRequest { return &etcdserverpb.RangeRequest{Key: []byte(s)} }

func pair(k, v string, create, mod, version int64) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte(k), Value: []byte(v), CreateRevision: create, ModRevision: mod, Version: version}
}

func TestRevisionsOfOneKey(t *testing.T) {
	tx := newTx()
	check := func(wantRevision int64, want ...*mvccpb.KeyValue) {
		t.Helper()
		got := mustRange(t, tx, key("a"))
		if got.Header.Revision != wantRevision {
			t.Errorf("revision: got %d, want %d", got.Header.Revision, wantRevision)
		}
		if diff := cmp.Diff(want, got.Kvs, protocmp.Transform()); diff != "" {
			t.Errorf("pairs (-want +got):\n%s", diff)
		}
	}
	check(1)
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("1")})
	check(2, pair("a", "1", 2, 2, 1))
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("b")})
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("2")})
	check(4, pair("a", "2", 2, 4, 2))
	mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("absent")})
	check(4, pair("a", "2", 2, 4, 2))
	mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("a")})
	check(5)
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("3")})
	check(6, pair("a", "3", 6, 6, 1))
}

func TestPreviousPairs(t *testing.T) {
	tx := newTx()
	put := mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("1"), PrevKv: true})
	if put.PrevKv != nil {
		t.Errorf("first put: got previous pair %v, want none", put.PrevKv)
	}
	put = mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("2"), PrevKv: true})
	if diff := cmp.Diff(pair("a", "1", 2, 2, 1), put.PrevKv, protocmp.Transform()); diff != "" {
		t.Errorf("second put (-want +got):\n%s", diff)
	}
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("b"), Value: []byte("3")})
	del := mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("z"), PrevKv: true})
	want := &etcdserverpb.DeleteRangeResponse{
		Header:  &etcdserverpb.ResponseHeader{Revision: 5},
		Deleted: 2,
		PrevKvs: []*mvccpb.KeyValue{pair("a", "2", 2, 3, 2), pair("b", "3", 4, 4, 1)},
	}
	if diff := cmp.Diff(want, del, protocmp.Transform()); diff != "" {
		t.Errorf("delete (-want +got):\n%s", diff)
	}
}

func TestIgnoreValueKeepsTheValue(t *testing.T) {
	tx := newTx()
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("1")})
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), IgnoreValue: true, IgnoreLease: true})
	got := mustRange(t, tx, key("a")).Kvs
	want := []*mvccpb.KeyValue{pair("a", "1", 2, 3, 2)}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Each refusal is the same from the encoder, where that can tell, and from Apply on bytes
// that did not pass it; and it changes nothing.
func TestRefusals(t *testing.T) {
	long := bytes.Repeat([]byte("k"), MaxKeyBytes+1)
	huge := make([]byte, MaxRequestBytes)
	tests := []struct {
		name    string
		req     proto.Message
		want    error
		byState bool // only Apply can tell
	}{
		{"put without key", &etcdserverpb.PutRequest{Value: []byte("v")}, ErrEmptyKey, false},
		{"put of a long key", &etcdserverpb.PutRequest{Key: long}, ErrRequestTooLarge, false},
		{"put of a long key", &etcdserverpb.PutRequest{Key: long}, nexusraft.ErrTooLarge, false},
		{"put of a huge value", &etcdserverpb.PutRequest{Key: []byte("k"), Value: huge}, ErrRequestTooLarge, false},
		{
			"value and ignore_value", &etcdserverpb.PutRequest{Key: []byte("k"), Value: []byte("v"), IgnoreValue: true},
			ErrValueProvided, false,
		},
		{
			"lease and ignore_lease", &etcdserverpb.PutRequest{Key: []byte("k"), Lease: 7, IgnoreLease: true}, ErrLeaseProvided,
			false,
		},
		{"lease", &etcdserverpb.PutRequest{Key: []byte("k"), Lease: 7}, ErrLeaseNotFound, true},
		{
			"ignore_value of an absent key", &etcdserverpb.PutRequest{Key: []byte("k"), IgnoreValue: true}, ErrKeyNotFound,
			true,
		},
		{
			"ignore_lease of an absent key", &etcdserverpb.PutRequest{Key: []byte("k"), IgnoreLease: true}, ErrKeyNotFound,
			true,
		},
		{"delete without key", &etcdserverpb.DeleteRangeRequest{RangeEnd: []byte("v")}, ErrEmptyKey, false},
		{"huge delete", &etcdserverpb.DeleteRangeRequest{Key: huge}, ErrRequestTooLarge, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var raw []byte
			var encodeErr error
			var decode func([]byte) error
			switch req := test.req.(type) {
			case *etcdserverpb.PutRequest:
				raw = rawPut(t, req)
				_, encodeErr = EncodePut(req)
				decode = func(b []byte) error { _, err := DecodePutResult(b); return err }
			case *etcdserverpb.DeleteRangeRequest:
				raw = rawDelete(t, req)
				_, encodeErr = EncodeDeleteRange(req)
				decode = func(b []byte) error { _, err := DecodeDeleteRangeResult(b); return err }
			}
			if got := encodeErr != nil; got == test.byState {
				t.Errorf("encode: got error %v", encodeErr)
			}
			if encodeErr != nil && !errors.Is(encodeErr, test.want) {
				t.Errorf("encode: got %v, want %v", encodeErr, test.want)
			}
			for _, tx := range []*memTx{newTx(), newNewestTx()} {
				if got := decode(apply(t, tx, raw)); !errors.Is(got, test.want) {
					t.Errorf("apply in version %d: got %v, want %v", tx.version, got, test.want)
				}
				if len(tx.m) != 0 {
					t.Errorf("apply in version %d: left %q behind", tx.version, tx.m)
				}
			}
		})
	}
}

func TestLargestRequestsPass(t *testing.T) {
	tx := newTx()
	req := &etcdserverpb.PutRequest{Key: bytes.Repeat([]byte("k"), MaxKeyBytes), PrevKv: true}
	req.Value = make([]byte, MaxRequestBytes-proto.Size(req)-4) // 4: tag and length of the value
	if got, want := proto.Size(req), MaxRequestBytes; got != want {
		t.Fatalf("size of the request: got %d, want %d", got, want)
	}
	mustPut(t, tx, req)
	prev := mustPut(t, tx, req).PrevKv
	if len(prev.GetValue()) != len(req.Value) {
		t.Errorf("previous value: got %d bytes, want %d", len(prev.GetValue()), len(req.Value))
	}
	del := mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: req.Key, PrevKv: true})
	if len(del.PrevKvs) != 1 {
		t.Errorf("delete: got %d previous pairs, want 1", len(del.PrevKvs))
	}
}

func TestDeleteWithTooMuchToReturnChangesNothing(t *testing.T) {
	tx := newTx()
	for i := range 2 {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: fmt.Append(nil, i), Value: make([]byte, MaxPrevKVBytes/2)})
	}
	before := maps.Clone(tx.m)
	req := &etcdserverpb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, PrevKv: true}
	_, err := DecodeDeleteRangeResult(apply(t, tx, rawDelete(t, req)))
	if !errors.Is(err, ErrResponseTooLarge) {
		t.Errorf("got %v, want %v", err, ErrResponseTooLarge)
	}
	if !maps.Equal(before, tx.m) {
		t.Error("the refused delete changed the state")
	}
	req.PrevKv = false
	if got := mustDelete(t, tx, req).Deleted; got != 2 {
		t.Errorf("without prev_kv: got %d deleted, want 2", got)
	}
}

func TestBadCommandsAreRefused(t *testing.T) {
	for _, command := range []string{
		"", "\x00", "\x06", "\x01\xff", "\x02\x0a\x05a", "\x03\xff", "\x04\xff", "\x05",
		"\x05\x00", "\x05\x01\x01", "\x05\x81\x00", "\x05\x81\x20",
	} {
		tx := newTx()
		_, err := DecodePutResult(apply(t, tx, []byte(command)))
		if !errors.Is(err, ErrBadCommand) {
			t.Errorf("command %q: got %v, want %v", command, err, ErrBadCommand)
		}
		if len(tx.m) != 0 {
			t.Errorf("command %q: left %q behind", command, tx.m)
		}
	}
}

func TestBadResultsAreCorrupt(t *testing.T) {
	for _, result := range []string{"", "\x00\xff", "\xff", "\x01x"} {
		if _, err := DecodePutResult([]byte(result)); !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("put result %q: got %v, want %v", result, err, nexusraft.ErrCorrupt)
		}
		if _, err := DecodeDeleteRangeResult([]byte(result)); !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("delete result %q: got %v, want %v", result, err, nexusraft.ErrCorrupt)
		}
	}
}

// Whatever call on the transaction fails, its error comes back as it is.
func TestErrorsOfTheTransaction(t *testing.T) {
	broken := errors.New("disk on fire")
	commands := map[string][]byte{
		"put":    rawPut(t, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("v")}),
		"delete": rawDelete(t, &etcdserverpb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}),
	}
	history := map[string][]byte{
		"txn": rawTxn(t, &etcdserverpb.TxnRequest{
			Compare: []*etcdserverpb.Compare{{Key: []byte{0}, RangeEnd: []byte{0}, Target: etcdserverpb.Compare_VALUE}},
			Failure: []*etcdserverpb.RequestOp{opRange("a", "z", 9), opDelete("a", "b", true), opPut("b", "v")},
			Success: []*etcdserverpb.RequestOp{opRange("a", "z", 9), opDelete("a", "b", true), opPut("b", "v")},
		}),
		"compact": rawCompact(t, 9),
		"sweep":   EncodeSweep(10),
	}
	for name, command := range history {
		commands[name] = command
	}
	for name, command := range commands {
		for version := uint32(0); version <= VersionHistory; version++ {
			for n := 0; ; n++ {
				tx := newTx()
				tx.version = version
				mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: make([]byte, maxInline+1)})
				for range 8 {
					mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a")})
				}
				apply(t, tx, rawCompact(t, 8)) // unknown in version 0, and not swept yet
				tx.calls, tx.failAfter, tx.failure = 0, n, broken
				_, err := tryApply(tx, command)
				if err == nil {
					if _, refused := history[name]; n < 4 && !(version == 0 && refused) {
						t.Errorf("%s in version %d: passed with %d calls", name, version, n)
					}
					break
				}
				if err != broken {
					t.Errorf("%s in version %d, call %d: got %v, want %v", name, version, n+1, err, broken)
				}
			}
		}
	}
}

func TestCorruptStateNamesTheKey(t *testing.T) {
	for _, stored := range []string{
		"", "\x02", "\x02\x02\x01", "\x82\x00\x02\x01\x00v", "\x02\x01\x01\x00v",
		"\x01\x01\x01\x00", "\x02\x02\x02\x00", "\x02\x02\x00\x00",
	} {
		tx := newTx()
		tx.m["kneedle"] = stored
		_, rangeErr := Range(tx, key("needle"))
		_, scanErr := Range(tx, &etcdserverpb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, CountOnly: true})
		_, putErr := tryApply(tx, rawPut(t, &etcdserverpb.PutRequest{Key: []byte("needle")}))
		for _, err := range []error{rangeErr, scanErr, putErr} {
			if !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(fmt.Sprint(err), `"needle"`) {
				t.Errorf("stored %q: got %v, want %v naming the key", stored, err, nexusraft.ErrCorrupt)
			}
		}
	}
	for _, stored := range []string{"", "short", "\xff\xff\xff\xff\xff\xff\xff\xff", "\x00\x00\x00\x00\x00\x00\x00\x01"} {
		tx := newTx()
		tx.m[string(metaKey)] = stored
		if _, err := Range(tx, key("a")); !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("stored revision %q: got %v, want %v", stored, err, nexusraft.ErrCorrupt)
		}
	}
}

// The bytes of the state are a format: a change of them must change this test.
func TestStateFormat(t *testing.T) {
	change := func(tx *memTx) {
		for _, v := range []string{"x", "y"} {
			mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte(v)})
		}
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("b"), Value: []byte("z")})
		mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("b")})
	}
	tx := newNewestTx()
	change(tx)
	want := `"ka" 0203020079
"mrevision" 0000000000000005
`
	if diff := cmp.Diff(want, dump(tx)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	tx = newTx()
	change(tx)
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("c\x00"), Value: bytes.Repeat([]byte("v"), maxInline+1)})
	mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("c\x00")})
	want = `"dc\x00\xff\x00\x01\x00\x00\x00\x00\x00\x00\x00\x06" 76767676767676767676767676767676767676767676767676767676
"ka" 00020302000079
"mrevision" 0207000000000001bd09
"r\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00" 000061
"r\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00" 00021461
"r\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x00" 000062
"r\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00" 01041462
"r\x00\x00\x00\x00\x00\x00\x00\x06\x00\x00\x00\x00" 00006300
"r\x00\x00\x00\x00\x00\x00\x00\a\x00\x00\x00\x00" 0306a6086300
"va\x00\x01\x00\x00\x00\x00\x00\x00\x00\x02" 0002020100000378
"vb\x00\x01\x00\x00\x00\x00\x00\x00\x00\x04" 000404010000057a
"vc\x00\xff\x00\x01\x00\x00\x00\x00\x00\x00\x00\x06" 010606010000078108
`
	if diff := cmp.Diff(want, dump(tx)); diff != "" {
		t.Errorf("with versions (-want +got):\n%s", diff)
	}
	command, err := EncodePut(&etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("x")})
	if got, want := string(command), "\x01\x0a\x01a\x12\x01x"; err != nil || got != want {
		t.Errorf("command: got %q (%v), want %q", got, err, want)
	}
}

// dump is the state, row by row; long rows are cut.
func dump(tx *memTx) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(tx.m)) {
		fmt.Fprintf(&b, "%q %.28x\n", k, tx.m[k])
	}
	return b.String()
}
