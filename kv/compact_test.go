package kv

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"pgregory.net/rapid"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

func mustSweep(t testing.TB, tx *memTx, n int) {
	t.Helper()
	if _, err := DecodeCompactResult(apply(t, tx, EncodeSweep(n))); err != nil {
		t.Fatal(err)
	}
}

func unswept(tx *memTx) (bool, error) {
	s, err := StandingOf(tx)
	return s.Left(), err
}

func mustCompact(t testing.TB, tx *memTx, rev int64) {
	t.Helper()
	if _, err := DecodeCompactResult(apply(t, tx, rawCompact(t, rev))); err != nil {
		t.Fatal(err)
	}
}

func mustHash(t testing.TB, tx *memTx, rev int64) Hash {
	t.Helper()
	h, err := HashKV(tx, rev)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// rows counts the rows of a state by their first byte.
func rows(tx *memTx) map[byte]int {
	n := make(map[byte]int)
	for k := range tx.m {
		n[k[0]]++
	}
	return n
}

// A compaction leaves what reads from its revision on can see, and the changes at it: a deletion is seen by who follows
// from there (etcd 18089, 19179).
func TestCompactionKeepsWhatCanBeRead(t *testing.T) {
	tx := newTx()
	large := strings.Repeat("x", maxInline+1)
	for _, v := range []string{"1", large, "3"} {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte(v)}) // revisions 2 to 4
	}
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("b"), Value: []byte(large)}) // 5
	mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("b")})            // 6
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: []byte("7")})   // 7
	mustCompact(t, tx, 6)
	for range 3 {
		mustSweep(t, tx, MaxSweep)
	}
	if got, want := rows(tx), map[byte]int{'k': 1, 'v': 1, 'r': 2, 'm': 1}; !maps.Equal(got, want) {
		t.Errorf("rows: got %v, want %v", got, want)
	}
	for rev, want := range map[int64]string{6: "a=3", 7: "a=7"} {
		got := ""
		for _, kv := range mustRange(t, tx, &etcdserverpb.RangeRequest{
			Key: []byte("a"), RangeEnd: []byte("z"), Revision: rev,
		}).Kvs {
			got += fmt.Sprintf("%s=%s", kv.Key, kv.Value)
		}
		if got != want {
			t.Errorf("at revision %d: got %q, want %q", rev, got, want)
		}
	}
	if _, err := Range(tx, &etcdserverpb.RangeRequest{Key: []byte("a"), Revision: 5}); !errors.Is(err, ErrCompacted) {
		t.Errorf("at revision 5: got %v, want %v", err, ErrCompacted)
	}
	_, deletion, err := decodeChange(changeKey(position{6, 0}), []byte(tx.m[string(changeKey(position{6, 0}))]))
	if err != nil || !deletion.deleted || string(deletion.key) != "b" {
		t.Errorf("the deletion at the compaction revision: got %+v, %v", deletion, err)
	}
	mustCompact(t, tx, 7) // now the change at 6 goes, and what it has superseded is gone already
	mustSweep(t, tx, MaxSweep)
	if got, want := rows(tx), map[byte]int{'k': 1, 'r': 1, 'm': 1}; !maps.Equal(got, want) {
		t.Errorf("rows after the second compaction: got %v, want %v", got, want)
	}
	if err := Check(tx); err != nil {
		t.Error(err)
	}
}

// The newest revision is known when everything that says so was deleted and compacted (etcd 17780).
func TestRevisionAfterAllIsGone(t *testing.T) {
	tx := newTx()
	mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a")})
	rev := mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("a")}).Header.Revision
	mustCompact(t, tx, rev)
	mustSweep(t, tx, MaxSweep)
	if got := mustRange(t, tx, key("a")).Header.Revision; got != rev {
		t.Errorf("revision %d, was %d", got, rev)
	}
	if got := mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a")}).Header.Revision; got != rev+1 {
		t.Errorf("the next revision is %d, want %d", got, rev+1)
	}
}

// What one command sweeps is bounded, and a sweep ends while commands write.
func TestSweepsAreBounded(t *testing.T) {
	tx := newTx()
	for i := range 100 {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: fmt.Append(nil, i)})
	}
	mustCompact(t, tx, 101)
	for _, n := range []int{1, 7, 20} {
		before := rows(tx)['r']
		tx.calls = 0
		mustSweep(t, tx, n)
		if gone := before - rows(tx)['r']; gone > n+2 || gone < n || tx.calls > 5*(n+4) {
			t.Errorf("sweep of %d: %d changes are gone with %d calls", n, gone, tx.calls)
		}
	}
	left := func() bool {
		u, err := unswept(tx)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	puts := 0
	for ; left() && puts < 1000; puts++ {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("b")})
	}
	if puts > 40 {
		t.Errorf("72 changes took %d puts to sweep", puts)
	}
	if err := Check(tx); err != nil {
		t.Error(err)
	}
	before := dump(tx)
	mustSweep(t, tx, MaxSweep)
	if dump(tx) != before {
		t.Error("a sweep without anything to do has changed the state")
	}
}

// The checksum is the same however far replicas have swept, and another one after each difference.
func TestHashDoesNotDependOnSweeps(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		fast, slow := newTx(), newTx()
		rev := int64(1)
		for range rapid.IntRange(1, 30).Draw(rt, "commands") {
			command := rawPut(t, drawPut(rt))
			switch rapid.IntRange(0, 5).Draw(rt, "kind") {
			case 0:
				command = rawDelete(t, drawDelete(rt))
			case 1:
				command = rawCompact(t, rapid.Int64Range(1, rev).Draw(rt, "compaction"))
			}
			apply(t, fast, command)
			apply(t, slow, command)
			if rapid.Bool().Draw(rt, "sweep") {
				mustSweep(t, fast, MaxSweep)
			}
			now, err := StandingOf(fast)
			if err != nil {
				rt.Fatal(err)
			}
			rev = now.Newest
		}
		now, err := StandingOf(fast)
		if err != nil {
			rt.Fatal(err)
		}
		sums := make(map[uint32]int64)
		for at := max(now.Compacted, 1); at <= rev; at++ {
			a, b := mustHash(t, fast, at), mustHash(t, slow, at)
			if a != b {
				rt.Fatalf("at revision %d of %d: %+v, and on the slower one %+v", at, rev, a, b)
			}
			if other, same := sums[a.Sum]; same {
				rt.Fatalf("revisions %d and %d have the same checksum", other, at)
			}
			sums[a.Sum] = at
		}
	})
}

func TestHashOfRevisions(t *testing.T) {
	tx := newTx()
	for range 4 {
		mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a")})
	}
	mustCompact(t, tx, 3)
	if got := mustHash(t, tx, 0); got.Revision != 5 || got.Compacted != 3 || got.Newest != 5 {
		t.Errorf("got %+v, want revisions 5, 3 and 5", got)
	}
	mustHash(t, tx, 3)
	for rev, want := range map[int64]error{2: ErrCompacted, 6: ErrFutureRevision} {
		if _, err := HashKV(tx, rev); !errors.Is(err, want) {
			t.Errorf("revision %d: got %v, want %v", rev, err, want)
		}
	}
}

// Check finds each row that is missing, one too many or says something else.
func TestCheckFindsWhatIsWrong(t *testing.T) {
	revokesFew(t, 2)
	sound := func() *memTx {
		tx := newTx()
		for i := range 6 {
			value := make([]byte, i%2*(maxInline+1))
			mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("a"), Value: value})
			mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte("b"), Value: value})
			mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("b")})
		}
		mustCompact(t, tx, 11)
		mustSweep(t, tx, 2)
		for id := int64(1); id <= 5; id += 2 {
			mustGrant(t, tx, id, 60)
		}
		apply(t, tx, EncodeCheckpoint([]Remaining{{1, 1, 7}}))
		for _, key := range []string{"a", "c", "e", "g", "i"} {
			mustPut(t, tx, &etcdserverpb.PutRequest{Key: []byte(key), Lease: 3})
		}
		apply(t, tx, EncodeRevoke(3, 0)) // leaves some
		return tx
	}
	if err := Check(sound()); err != nil {
		t.Fatal(err)
	}
	for _, k := range slices.Sorted(maps.Keys(sound().m)) {
		tx := sound()
		delete(tx.m, k)
		if err := Check(tx); !errors.Is(err, nexusraft.ErrCorrupt) && k[0] != prefixMeta {
			t.Errorf("without %q: got %v", k, err)
		}
		tx = sound()
		tx.m[k] += "x"
		if err := Check(tx); !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("%q has one byte more: got %v", k, err)
		}
		tx = sound()
		tx.m[k[:len(k)-1]+string(k[len(k)-1]+1)] = tx.m[k]
		if err := Check(tx); !errors.Is(err, nexusraft.ErrCorrupt) && k[0] != prefixMeta {
			t.Errorf("%q is there twice: got %v", k, err)
		}
	}
}

// largeTx is a state of many rows.
type largeTx struct {
	*storage.Overlay
}

func (largeTx) Publish(string, string, []byte) error { return nil }
func (largeTx) Note(any)                             {}

// newLargeTx returns n keys whose history is compacted.
func newLargeTx(t *testing.T, n int, value []byte) largeTx {
	t.Helper()
	tx := largeTx{storage.NewOverlay(newTx())}
	m := meta{layout: layoutVersions, revision: int64(n) + 1, compacted: neverCompacted}
	for i := range n {
		k, row := fmt.Appendf(nil, "%06d", i), record{create: 2, mod: 2, version: 1, value: value}.encode()
		if err := tx.Set(stateKey(k), row); err != nil {
			t.Fatal(err)
		}
		m.keys, m.bytes = m.keys+1, m.bytes+int64(1+len(k)+len(row))
	}
	if err := m.store(tx); err != nil {
		t.Fatal(err)
	}
	return tx
}

// apply runs a command as a node does, which drops what a failing one has written.
func (t largeTx) apply(command []byte) ([]byte, error) {
	effects := largeTx{storage.NewOverlay(t.Overlay)}
	return StateMachine{}.Apply(effects, nexusraft.Command{Data: command, Version: VersionHistory})
}

// More keys than one command deletes are left, all of them, wherever the delete is.
func TestDeleteOfTooManyKeys(t *testing.T) {
	tx := newLargeTx(t, MaxDeleteKeys+1, nil)
	req := &etcdserverpb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	if err := CheckDeleteCost(tx, req); !errors.Is(err, ErrTooManyKeys) {
		t.Errorf("before it is proposed: got %v, want %v", err, ErrTooManyKeys)
	}
	if _, err := tx.apply(rawTxn(t, then(deleteOp(req)))); !errors.Is(err, ErrTooManyKeys) ||
		!errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("got %v, want %v", err, ErrTooManyKeys)
	}
	req.Key = []byte("000001")
	if err := CheckDeleteCost(tx, req); err != nil {
		t.Errorf("one key fewer, before it is proposed: %v", err)
	}
	result, err := tx.apply(rawDelete(t, req))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := DecodeDeleteRangeResult(result); err != nil || got.Deleted != MaxDeleteKeys {
		t.Errorf("one key fewer: %d are deleted, %v, want %d", got.GetDeleted(), err, MaxDeleteKeys)
	}
}

// A command that would write more than is held in memory is refused while it runs.
func TestCommandThatWritesTooMuch(t *testing.T) {
	tx := newLargeTx(t, maxWrittenBytes/maxInline+1, make([]byte, maxInline))
	req := &etcdserverpb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	if _, err := tx.apply(rawDelete(t, req)); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("got %v, want %v", err, nexusraft.ErrTooLarge)
	}
}

// What one request may cost is bounded by what a transaction writes and reads itself, too, before it is proposed and
// while it is applied: each of these requests has less than 300 KiB.
func TestTransactionsThatFeedThemselves(t *testing.T) {
	tree := func(ops []*etcdserverpb.RequestOp) (all []*etcdserverpb.RequestOp) { // within etcd's 128 for each level
		for len(ops) > 20 {
			all = nil
			for chunk := range slices.Chunk(ops, 20) {
				all = append(all, txnOp(then(chunk...)))
			}
			ops = all
		}
		return all
	}
	var puts, counts, old, compares []*etcdserverpb.RequestOp
	large := newLargeValue(t)
	for i := range 5000 {
		puts = append(puts, opPut(fmt.Sprintf("p%04d", i), ""))
		count := &etcdserverpb.RangeRequest{Key: []byte("p"), RangeEnd: []byte("q"), CountOnly: true}
		counts = append(counts, rangeOp(count))
		old = append(old, opRange("p", "q", 2))
		compares = append(compares, txnOp(&etcdserverpb.TxnRequest{Compare: []*etcdserverpb.Compare{{
			Key: []byte("large"), Target: etcdserverpb.Compare_VALUE, Result: etcdserverpb.Compare_GREATER,
		}}}))
	}
	all := deleteOp(&etcdserverpb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	many := newLargeTx(t, MaxDeleteKeys/2+1, nil)
	for name, tc := range map[string]struct {
		tx  largeTx
		req *etcdserverpb.TxnRequest
	}{
		"counts of its own puts":      {large, then(append(tree(puts), tree(counts)...)...)},
		"old ranges beside its puts":  {large, then(append(tree(puts), tree(old)...)...)},
		"compares of one large value": {large, then(append(tree(compares), opPut("a", ""))...)},
		"deletes of one range each": {
			many, then(
				deleteOp(&etcdserverpb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte("062501")}), all,
				txnOp(then(txnOp(then(opRange("0", "1", 0))), txnOp(then(opDelete("0", "1", false)))))),
		},
	} {
		if err := CheckTxn(tc.req, MaxTxnOps); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := CheckTxnCost(tc.tx, tc.req); !errors.Is(err, nexusraft.ErrTooLarge) {
			t.Errorf("%s: before it is proposed: got %v, want %v", name, err, nexusraft.ErrTooLarge)
		}
		if name == "deletes of one range each" {
			continue // the second one finds less
		}
		if _, err := tc.tx.apply(rawTxn(t, tc.req)); !errors.Is(err, ErrTxnTooWide) {
			t.Errorf("%s: got %v, want %v", name, err, ErrTxnTooWide)
		}
	}
}

// newLargeValue returns a state with one value of the largest size.
func newLargeValue(t *testing.T) largeTx {
	t.Helper()
	tx := largeTx{storage.NewOverlay(newTx())}
	command := rawPut(t, &etcdserverpb.PutRequest{Key: []byte("large"), Value: make([]byte, MaxRequestBytes-100)})
	if _, err := (StateMachine{}).Apply(tx, nexusraft.Command{Data: command, Version: VersionHistory}); err != nil {
		t.Fatal(err)
	}
	return tx
}

// Transactions make many keys in one revision: how many there are does not follow from it.
func TestCostOfDeletesGoesByKeys(t *testing.T) {
	tx := newLargeTx(t, MaxDeleteKeys+1, nil)
	m, err := loadMeta(tx)
	if err != nil {
		t.Fatal(err)
	}
	m.revision = 10
	if err := m.store(tx); err != nil {
		t.Fatal(err)
	}
	req := &etcdserverpb.DeleteRangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}
	if err := CheckDeleteCost(tx, req); !errors.Is(err, ErrTooManyKeys) {
		t.Errorf("got %v, want %v", err, ErrTooManyKeys)
	}
	wide := newLargeTx(t, maxWrittenBytes/maxInline, make([]byte, maxInline))
	if err := CheckDeleteCost(wide, req); !errors.Is(err, nexusraft.ErrTooLarge) {
		t.Errorf("keys that are few and large: got %v, want %v", err, nexusraft.ErrTooLarge)
	}
}

// What a command sweeps besides its own work is bounded by number and by bytes.
func TestWritesSweepLittle(t *testing.T) {
	tx := newTx()
	for range 3 { // each change supersedes
		for i := range 700 {
			mustPut(t, tx, &etcdserverpb.PutRequest{Key: fmt.Appendf(nil, "a%04d", i)})
		}
	}
	mustCompact(t, tx, 2101)
	before := rows(tx)['r']
	mustDelete(t, tx, &etcdserverpb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("b")})
	if swept := before + 700 - rows(tx)['r']; swept != sweepMost {
		t.Errorf("a delete of 700 keys has swept %d changes, want %d", swept, sweepMost)
	}
	long := newTx()
	for i := range 600 {
		k := append(bytes.Repeat([]byte("k"), MaxKeyBytes-4), fmt.Appendf(nil, "%04d", i)...)
		mustPut(t, long, &etcdserverpb.PutRequest{Key: k})
	}
	mustCompact(t, long, 601)
	before = rows(long)['r']
	mustSweep(t, long, MaxSweep)
	if swept := before - rows(long)['r']; swept > 2*(sweepBytes/MaxKeyBytes+2) || swept < sweepBytes/MaxKeyBytes {
		t.Errorf("a sweep of long keys has swept %d changes, want some %d", swept, sweepBytes/MaxKeyBytes)
	}
	for range 5 {
		mustSweep(t, long, MaxSweep)
	}
	if err := errors.Join(Check(tx), Check(long)); err != nil {
		t.Error(err)
	}
	if u, err := unswept(long); u || err != nil {
		t.Errorf("the sweep has not ended: %v, %v", u, err)
	}
}
