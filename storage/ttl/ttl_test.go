package ttl

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/storage"
)

// TestGoneAtOnce looks at a pair until its last nanosecond, and after it, before any sweep.
func TestGoneAtOnce(t *testing.T) {
	tree, c := newTree(t)
	set(t, tree, "ab", "1", time.Second)
	set(t, tree, "ac", "2", time.Minute)
	set(t, tree, "b", "3", time.Minute)
	end := c.now().Add(time.Second)
	c.pass(time.Second - 1)
	if got, ok, err := tree.Deadline([]byte("ab")); err != nil || !ok || !got.Equal(end) {
		t.Errorf("deadline: got %v, %v, %v, want %v", got, ok, err, end)
	}
	compare(t, tree, map[string]string{"ab": "1", "ac": "2", "b": "3"})
	c.pass(1)
	compare(t, tree, map[string]string{"ac": "2", "b": "3"})
	if _, ok, err := tree.Deadline([]byte("ab")); ok || err != nil {
		t.Errorf("deadline of what is gone: got %v, %v", ok, err)
	}
	if diff := cmp.Diff(map[string]string{"ac": "2"}, collect(t, tree.Prefix([]byte("a")))); diff != "" {
		t.Errorf("prefix (-want +got):\n%s", diff)
	}
	if pairs, _ := stored(t, tree); pairs != 3 {
		t.Errorf("on the disk before a sweep: got %d pairs, want 3", pairs)
	}
}

// compare checks all reads of a tree.
func compare(t fataler, tree *Tree, want map[string]string) {
	t.Helper()
	if diff := cmp.Diff(want, collect(t, tree.Scan(nil, nil))); diff != "" {
		t.Fatalf("scan (-want +got):\n%s", diff)
	}
	for _, key := range []string{"a", "ab", "ac", "b"} {
		wanted, ok := want[key]
		if !ok {
			wanted = "-"
		}
		if got := value(t, tree, key); got != wanted {
			t.Fatalf("get %q: got %q, want %q", key, got, wanted)
		}
	}
	if n, err := tree.Len(); n != len(want) || err != nil {
		t.Fatalf("len: got %d, %v, want %d", n, err, len(want))
	}
}

// TestScanLooksAtTheClock lets a pair expire in the middle of a loop.
func TestScanLooksAtTheClock(t *testing.T) {
	tree, c := newTree(t)
	set(t, tree, "a", "1", time.Second)
	set(t, tree, "b", "2", time.Second)
	set(t, tree, "c", "3", time.Minute)
	var got []string
	for p, err := range tree.Scan([]byte("a"), []byte("d")) {
		check(t, err)
		got = append(got, string(p.Key))
		c.pass(time.Second)
	}
	if diff := cmp.Diff([]string{"a", "c"}, got); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func TestSetReplacesValueAndDeadline(t *testing.T) {
	tree, c := newTree(t)
	set(t, tree, "k", "old", time.Hour)
	set(t, tree, "k", "new", time.Second)
	if got := value(t, tree, "k"); got != "new" {
		t.Errorf("got %q", got)
	}
	c.pass(time.Second)
	if got := value(t, tree, "k"); got != "-" {
		t.Errorf("after the second time to live: got %q", got)
	}
	set(t, tree, "k", "again", time.Second)
	check(t, tree.Delete([]byte("k")))
	if got := value(t, tree, "k"); got != "-" {
		t.Errorf("after Delete: got %q", got)
	}
}

func TestTouch(t *testing.T) {
	tree, c := newTree(t)
	key := []byte("k")
	touch := func(want bool) {
		t.Helper()
		if got, err := tree.Touch(key, time.Minute); got != want || err != nil {
			t.Fatalf("touch: got %v, %v, want %v", got, err, want)
		}
	}
	touch(false)
	set(t, tree, "k", "", time.Minute) // an empty value is one
	for range 5 {
		c.pass(time.Minute - 1)
		touch(true)
	}
	if got := value(t, tree, "k"); got != "" {
		t.Errorf("got %q, want the empty value", got)
	}
	c.pass(time.Minute)
	touch(false)
	if got := value(t, tree, "k"); got != "-" {
		t.Errorf("after the end: got %q", got)
	}
}

func TestCompareAndSwap(t *testing.T) {
	tree, c := newTree(t)
	key := []byte("k")
	swap := func(expected, value []byte, wantFound []byte, want bool) {
		t.Helper()
		found, swapped, err := tree.CompareAndSwap(key, expected, value, time.Minute)
		if err != nil || swapped != want || (found == nil) != (wantFound == nil) || !bytes.Equal(found, wantFound) {
			t.Fatalf("swap %q for %q: got %q, %v, %v, want %q, %v", expected, value, found, swapped, err, wantFound, want)
		}
	}
	swap([]byte{}, []byte("1"), nil, false)
	swap(nil, []byte{}, nil, true)
	swap(nil, []byte("1"), []byte{}, false)
	swap([]byte{}, []byte("1"), []byte{}, true)
	c.pass(time.Minute)
	swap([]byte("1"), []byte("2"), nil, false) // its time is over: no value
	swap(nil, []byte("3"), nil, true)
	swap([]byte("3"), nil, []byte("3"), true)
	if got := value(t, tree, "k"); got != "-" {
		t.Errorf("swapped for none: got %q", got)
	}
}

func TestUpdate(t *testing.T) {
	tree, c := newTree(t)
	key := []byte("k")
	appendX := func(old []byte) ([]byte, error) { return append(old, 'x'), nil }
	for _, want := range []string{"x", "xx"} {
		before, after, err := tree.Update(key, time.Minute, appendX)
		check(t, err)
		if string(after) != want || len(before) != len(want)-1 || value(t, tree, "k") != want {
			t.Errorf("got %q, %q, stored %q, want %q", before, after, value(t, tree, "k"), want)
		}
	}
	own := errors.New("own")
	if _, _, err := tree.Update(key, time.Minute, func([]byte) ([]byte, error) { return nil, own }); err != own {
		t.Errorf("got error %v, want the caller's as it is", err)
	}
	if _, _, err := tree.Update(key, time.Minute, func([]byte) ([]byte, error) {
		return nil,
			storage.ErrConflict
	}); err != storage.ErrConflict {
		t.Errorf("got error %v, want the caller's as it is", err)
	}
	c.pass(time.Minute)
	if before, after, err := tree.Update(key, time.Minute, appendX); err != nil || before != nil || string(after) != "x" {
		t.Errorf("after its time: got %q, %q, %v, want none and x", before, after, err)
	}
	if _, after, err := tree.Update(key, time.Minute, func([]byte) ([]byte, error) { return nil, nil }); err != nil ||
		after != nil || value(t, tree, "k") != "-" {
		t.Errorf("updated to none: got %q, %v", after, err)
	}
}

// TestRestart closes everything: deadlines go on.
func TestRestart(t *testing.T) {
	fs, c := storage.NewMemFS(), newClock()
	s := mustStore(t, fs)
	tree := mustOpen(t, s, c.options())
	set(t, tree, "ab", "1", time.Second)
	set(t, tree, "ac", "2", time.Minute)
	tree.Close()
	check(t, s.Close())
	c.pass(time.Second)
	s = mustStore(t, fs)
	defer func() { check(t, s.Close()) }()
	tree = mustOpen(t, s, c.options())
	defer tree.Close()
	compare(t, tree, map[string]string{"ac": "2"})
	if n := sweep(t, tree); n != 1 {
		t.Errorf("swept after the restart: got %d pairs, want 1", n)
	}
}

func TestMisuse(t *testing.T) {
	tree, c := newTree(t)
	never := func([]byte) ([]byte, error) {
		t.Error("update was called")
		return nil, nil
	}
	for _, ttl := range []time.Duration{0, -1, math.MinInt64} {
		_, errTouch := tree.Touch([]byte("k"), ttl)
		_, _, errSwap := tree.CompareAndSwap([]byte("k"), nil, nil, ttl)
		_, _, errUpdate := tree.Update([]byte("k"), ttl, never)
		for _, err := range []error{tree.Set([]byte("k"), nil, ttl), errTouch, errSwap, errUpdate} {
			if err == nil || !strings.Contains(err.Error(), "must be positive") {
				t.Errorf("a time to live of %v: got error %v", ttl, err)
			}
		}
	}
	want(t, tree.Set(make([]byte, storage.MaxKeyBytes+1), nil, time.Second), nexusraft.ErrTooLarge)
	want(t, tree.Set([]byte("k"), make([]byte, MaxValueBytes+1), time.Second), nexusraft.ErrTooLarge)
	check(t, tree.Set(make([]byte, storage.MaxKeyBytes), nil, time.Second))
	check(t, tree.Set(nil, nil, math.MaxInt64)) // an empty key, for ever
	c.pass(200 * 365 * 24 * time.Hour)
	if got := value(t, tree, ""); got != "" {
		t.Errorf("the empty key's value: got %q", got)
	}
	if n := sweep(t, tree); n != 1 {
		t.Errorf("swept: got %d pairs, want 1", n)
	}
	c.nanos.Store(-1)
	want(t, tree.Set([]byte("k"), nil, time.Second), errClock)
	if n := sweep(t, tree); n != 0 {
		t.Errorf("swept before 1970: got %d pairs", n)
	}
}

func TestOpenRefuses(t *testing.T) {
	s := mustStore(t, storage.NewMemFS())
	defer func() { check(t, s.Close()) }()
	for _, name := range []string{"", strings.Repeat("n", MaxNameBytes+1), "\xff", "a\nb"} {
		if _, err := Open(s, name, nil); err == nil {
			t.Errorf("name %q: got no error", name)
		}
	}
	if _, err := Open(s, "n", &Options{SweepInterval: -1}); err == nil {
		t.Error("a negative interval: got no error")
	}
	if names, err := s.Trees(); len(names) != 0 || err != nil {
		t.Errorf("refused names have left trees: got %q, %v", names, err)
	}
	tree, err := Open(s, strings.Repeat("n", MaxNameBytes), nil)
	check(t, err)
	tree.Close()
}

func TestClosed(t *testing.T) {
	tree, _ := newTree(t)
	set(t, tree, "k", "v", time.Minute)
	tree.Close()
	tree.Close()
	key := []byte("k")
	_, _, errGet := tree.Get(key)
	_, _, errDeadline := tree.Deadline(key)
	_, errTouch := tree.Touch(key, time.Minute)
	_, _, errSwap := tree.CompareAndSwap(key, nil, nil, time.Minute)
	_, _, errUpdate := tree.Update(key, time.Minute, func(old []byte) ([]byte, error) { return old, nil })
	_, errLen := tree.Len()
	_, errSweep := tree.Sweep(t.Context())
	for i, err := range []error{
		errGet, errDeadline, errTouch, errSwap, errUpdate, errLen, errSweep, tree.Delete(key),
		tree.Set(key, nil, time.Minute),
	} {
		if !errors.Is(err, nexusraft.ErrClosed) {
			t.Errorf("call %d: got error %v, want ErrClosed", i, err)
		}
	}
	again := mustOpen(t, tree.s, nil)
	defer again.Close()
	if got := value(t, again, "k"); got != "-" { // the clock of this one is the real one
		t.Errorf("opened again: got %q", got)
	}
}

// TestDamage puts what is no record where records are.
func TestDamage(t *testing.T) {
	for _, damage := range [][]byte{{}, []byte("short of sixteen"[:15]), bytes.Repeat([]byte{0xff}, 16)} {
		tree, c := newTree(t)
		set(t, tree, "a", "1", time.Second)
		set(t, tree, "k", "v", time.Second)
		check(t, tree.pairs.Set([]byte("k"), damage))
		_, _, err := tree.Get([]byte("k"))
		want(t, err, nexusraft.ErrCorrupt)
		_, err = tree.Len()
		want(t, err, nexusraft.ErrCorrupt)
		_, err = tree.Touch([]byte("k"), time.Second)
		want(t, err, nexusraft.ErrCorrupt)
		c.pass(time.Second)
		if n := sweep(t, tree); n != 1 {
			t.Errorf("swept beside the damage: got %d pairs, want 1", n)
		}
		set(t, tree, "k", "mended", time.Second)
		if got := value(t, tree, "k"); got != "mended" {
			t.Errorf("set again: got %q", got)
		}
	}
}

// TestDiskFull shows that sets are refused, and that what expires goes all the same.
func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fs := storage.NewMemFS()
		o := quiet(fs)
		o.DiskReserve = 1 << 20
		s, err := storage.Open("data", o)
		check(t, err)
		defer func() { check(t, s.Close()) }()
		c := newClock()
		tree := mustOpen(t, s, c.options())
		defer tree.Close()
		set(t, tree, "k", "v", time.Second)
		fs.SetDiskFree(0)
		time.Sleep(time.Second) // until the store looks at the disk again
		want(t, tree.Set([]byte("l"), nil, time.Second), nexusraft.ErrDiskFull)
		_, err = tree.Touch([]byte("k"), time.Second)
		want(t, err, nexusraft.ErrDiskFull)
		c.pass(time.Second)
		if n := sweep(t, tree); n != 1 {
			t.Errorf("swept: got %d pairs, want 1", n)
		}
	})
}

// TestDefaultDurability looks at what writes wait for that don't say it themselves.
func TestDefaultDurability(t *testing.T) {
	for _, d := range []storage.Durability{storage.Sync, storage.NoSync} {
		fs, c := storage.NewMemFS(), newClock()
		o := quiet(fs)
		o.Durability = d
		s, err := storage.Open("data", o)
		check(t, err)
		tree := mustOpen(t, s, c.options())
		check(t, tree.Set([]byte("k"), []byte("v"), time.Minute))
		after := mustStore(t, fs.CrashClone(nil, 0))
		again := mustOpen(t, after, c.options())
		want := map[storage.Durability]string{storage.Sync: "v", storage.NoSync: "-"}[d]
		if got := value(t, again, "k"); got != want {
			t.Errorf("durability %v: after a crash: got %q, want %q", d, got, want)
		}
		again.Close()
		tree.Close()
		check(t, errors.Join(after.Close(), s.Close()))
	}
}

// TestStamps shows that no two writes have the same stamp, not even at the same time.
func TestStamps(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		seen[string(newStamp(1, 0))] = true
	}
	if len(seen) != 1000 {
		t.Errorf("got %d different stamps of 1000", len(seen))
	}
	if got := fmt.Sprintf("%x", newStamp(0x0102030405060708, 9)[:8]); got != "0102030405060708" {
		t.Errorf("the deadline in a stamp: got %s", got)
	}
}
