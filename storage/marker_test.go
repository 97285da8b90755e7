package storage

import (
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// crashesOf returns what crashes at the changes of a disk would leave of it, while do runs: for
// each change one with nothing and one with some of what is not synced.
func crashesOf(disk *MemFS, do func(FS)) (left []*MemFS) {
	rng := rand.New(rand.NewPCG(11, 7))
	var mu sync.Mutex // guards rng and left
	do(errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() != errorfs.OpIsWrite {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		for _, percent := range []int{0, 50} {
			left = append(left, disk.CrashClone(rng, percent))
		}
		return nil
	})))
	return left
}

// A crash while a store is opened, or closed, loses nothing of it; one while it is created
// leaves what can be opened.
func TestCrashWhileOpening(t *testing.T) {
	disk := NewMemFS()
	for round, key := range []string{"", "a", "b"} {
		left := crashesOf(disk, func(f FS) {
			s := mustOpen(t, f)
			if key != "" {
				check(t, s.Set([]byte(key), nil))
			}
			check(t, s.Close())
		})
		if len(left) < 50 {
			t.Errorf("round %d: only %d crashes", round, len(left))
		}
		for i, f := range left {
			s, err := Open("data", testOptions(f))
			if err != nil {
				names, _ := f.List("data")
				t.Errorf("round %d, crash %d: got %v; the directory has %q", round, i, err, names)
				continue
			}
			if _, ok, err := s.Get([]byte("a")); err != nil || !ok && round == 2 {
				names, _ := f.List("data")
				t.Errorf("round %d, crash %d: a key that was synced: got %v, %v; the directory has %q", round, i, ok, err, names)
			}
			check(t, s.Close())
		}
	}
}

// A marker's directory is synced before the marker is created, for the file that it names,
// and before the marker that was valid until then is removed.
func TestMarkersAreSynced(t *testing.T) {
	disk := NewMemFS()
	check(t, mustOpen(t, disk).Close())
	var ops []string
	var mu sync.Mutex // guards ops
	s := mustOpen(t, errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		marker := strings.HasPrefix(disk.PathBase(op.Path), "marker.")
		switch {
		case marker && op.Kind == errorfs.OpCreate:
			ops = append(ops, "create")
		case marker && op.Kind == errorfs.OpRemove:
			ops = append(ops, "remove")
		case op.Path == "data" && op.Kind == errorfs.OpFileSync:
			ops = append(ops, "sync")
		}
		return nil
	})))
	check(t, s.Close())
	want := "sync create sync remove sync"
	if got := strings.Join(ops, " "); !strings.Contains(got, want) {
		t.Errorf("got %s, want %s in it", got, want)
	}
}
