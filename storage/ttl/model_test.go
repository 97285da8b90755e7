package ttl

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/nexi-lab/nexus-raft/storage"
)

var (
	genKey   = rapid.SampledFrom([]string{"a", "ab", "ac", "b"})
	genValue = rapid.SampledFrom([]string{"", "x", "y", "zzz"})
	genTTL   = rapid.Custom(func(t *rapid.T) time.Duration {
		return time.Duration(rapid.IntRange(1, 5).Draw(t, "ttl"))
	})
)

// TestModel runs random operations on a tree and on a map, and compares all reads.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{fs: storage.NewMemFS(), clock: newClock(), want: make(map[string]alive)}
		m.open(t)
		defer m.close(t)
		t.Repeat(map[string]func(*rapid.T){
			"set":    m.set,
			"delete": m.remove,
			"touch":  m.touch,
			"swap":   m.swap,
			"update": m.update,
			"time":   func(t *rapid.T) { m.clock.pass(time.Duration(rapid.IntRange(0, 3).Draw(t, "passes"))) },
			"sweep":  m.sweep,
			"reopen": func(t *rapid.T) { m.close(t); m.open(t) },
			"":       m.compare,
		})
	})
}

type alive struct {
	value string
	until int64
}

type machine struct {
	fs    *storage.MemFS
	clock *clock
	s     *storage.Store
	tree  *Tree
	want  map[string]alive
}

func (m *machine) open(t *rapid.T) {
	m.s = mustStore(t, m.fs)
	m.tree = mustOpen(t, m.s, m.clock.options())
}

func (m *machine) close(t *rapid.T) {
	m.tree.Close()
	check(t, m.s.Close())
}

// at returns what should live at a key, nil if nothing does.
func (m *machine) at(key string) []byte {
	if a, ok := m.want[key]; ok && a.until > m.clock.nanos.Load() {
		return []byte(a.value)
	}
	return nil
}

func (m *machine) put(key, value string, ttl time.Duration) {
	m.want[key] = alive{value, m.clock.nanos.Load() + int64(ttl)}
}

func (m *machine) set(t *rapid.T) {
	key, value, ttl := genKey.Draw(t, "key"), genValue.Draw(t, "value"), genTTL.Draw(t, "ttl")
	set(t, m.tree, key, value, ttl)
	m.put(key, value, ttl)
}

func (m *machine) remove(t *rapid.T) {
	key := genKey.Draw(t, "key")
	check(t, m.tree.Delete([]byte(key), storage.NoSync))
	delete(m.want, key)
}

func (m *machine) touch(t *rapid.T) {
	key, ttl := genKey.Draw(t, "key"), genTTL.Draw(t, "ttl")
	want := m.at(key)
	if got, err := m.tree.Touch([]byte(key), ttl, storage.NoSync); got != (want != nil) || err != nil {
		t.Fatalf("touch %q: got %v, %v, there was %q", key, got, err, want)
	}
	if want != nil {
		m.put(key, string(want), ttl)
	}
}

func (m *machine) swap(t *rapid.T) {
	key, value, ttl := genKey.Draw(t, "key"), genValue.Draw(t, "value"), genTTL.Draw(t, "ttl")
	want := m.at(key)
	expected := want
	if rapid.Bool().Draw(t, "other") {
		expected = []byte(genValue.Draw(t, "expected"))
	}
	same := (want == nil) == (expected == nil) && string(want) == string(expected)
	found, swapped, err := m.tree.CompareAndSwap([]byte(key), expected, []byte(value), ttl, storage.NoSync)
	if err != nil || swapped != same || string(found) != string(want) || (found == nil) != (want == nil) {
		t.Fatalf("swap %q: got %q, %v, %v, there was %q", key, found, swapped, err, want)
	}
	if same {
		m.put(key, value, ttl)
	}
}

func (m *machine) update(t *rapid.T) {
	key, ttl := genKey.Draw(t, "key"), genTTL.Draw(t, "ttl")
	want := m.at(key)
	before, after, err := m.tree.Update([]byte(key), ttl, func(old []byte) ([]byte, error) {
		if len(old) > 3 {
			return nil, nil
		}
		return append(old, '+'), nil
	}, storage.NoSync)
	if err != nil || string(before) != string(want) {
		t.Fatalf("update %q: got %q, %v, there was %q", key, before, err, want)
	}
	delete(m.want, key)
	if after != nil {
		m.put(key, string(after), ttl)
	}
}

// sweep compares what is left on the disk, too.
func (m *machine) sweep(t *rapid.T) {
	_, err := m.tree.Sweep(t.Context())
	check(t, err)
	living := 0
	for key := range m.want {
		if m.at(key) != nil {
			living++
		}
	}
	if pairs, _ := stored(t, m.tree); pairs != living {
		t.Fatalf("%d pairs on the disk after a sweep, want %d", pairs, living)
	}
	if n := dueEntries(t, m.tree); n != 0 {
		t.Fatalf("%d entries are left over after a sweep", n)
	}
}

func (m *machine) compare(t *rapid.T) {
	want := make(map[string]string)
	for key := range m.want {
		if v := m.at(key); v != nil {
			want[key] = string(v)
		}
	}
	compare(t, m.tree, want)
	checkEntries(t, m.tree)
}

// TestUpdatesAreNotLost has many count at once, while others touch and sweep.
func TestUpdatesAreNotLost(t *testing.T) {
	tree, _ := newTree(t)
	const callers, each = 4, 100
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(caller)))
			for range each {
				key := []byte{'a' + byte(rng.IntN(2))}
				_, _, err := tree.Update(key, time.Minute, func(old []byte) ([]byte, error) { return append(old, 'x'), nil },
					storage.NoSync)
				check(inBackground{t}, err)
				_, err = tree.Touch(key, time.Minute, storage.NoSync)
				check(inBackground{t}, err)
				_, err = tree.Sweep(t.Context())
				check(inBackground{t}, err)
			}
		})
	}
	wg.Wait()
	total := 0
	for _, v := range collect(t, tree.Scan(nil, nil)) {
		total += len(v)
	}
	if total != callers*each {
		t.Errorf("got %d updates, want %d", total, callers*each)
	}
	checkEntries(t, tree)
}

// TestCrash sets, touches and sweeps, and looks at what crashes would leave: what was synced,
// with its deadline, and no pair that would never be swept.
func TestCrash(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			crashRun(t, rand.New(rand.NewPCG(seed, 2)))
		})
	}
}

func crashRun(t *testing.T, rng *rand.Rand) {
	fs, c := storage.NewMemFS(), newClock()
	s := mustStore(t, fs)
	defer func() { check(t, s.Close()) }()
	tree := mustOpen(t, s, c.options())
	defer tree.Close()
	synced := make(map[string]alive) // what was set last was synced, too
	for range 300 {
		key := fmt.Sprint(rng.IntN(8))
		value := fmt.Sprintf("%0*d", rng.IntN(2000), 1)
		ttl := time.Duration(1 + rng.IntN(20))
		d := storage.Durability(rng.IntN(2))
		switch rng.IntN(6) {
		case 0:
			_, err := tree.Sweep(t.Context())
			check(t, err)
		case 1:
			_, err := tree.Touch([]byte(key), ttl, storage.NoSync)
			check(t, err)
			delete(synced, key)
		default:
			check(t, tree.Set([]byte(key), []byte(value), ttl, d))
			delete(synced, key)
			if d == storage.Sync {
				synced[key] = alive{value, c.nanos.Load() + int64(ttl)}
			}
		}
		if rng.IntN(4) == 0 {
			verifyCrash(t, fs.CrashClone(rng, rng.IntN(101)), c, synced)
		}
		c.pass(time.Duration(rng.IntN(3)))
	}
}

// verifyCrash opens what a crash has left.
func verifyCrash(t *testing.T, fs *storage.MemFS, now *clock, synced map[string]alive) {
	t.Helper()
	s := mustStore(t, fs)
	defer func() { check(t, s.Close()) }()
	c := newClock()
	c.nanos.Store(now.nanos.Load())
	tree := mustOpen(t, s, c.options())
	defer tree.Close()
	for key, a := range synced {
		if a.until <= c.nanos.Load() {
			continue
		}
		got, ok, err := tree.Deadline([]byte(key))
		if value(t, tree, key) != a.value || !ok || err != nil || got.UnixNano() != a.until {
			t.Fatalf("%q was synced as %.9q until %d: got %.9q until %d, %v, %v", key, a.value, a.until, value(t, tree, key),
				got.UnixNano(), ok, err)
		}
	}
	checkEntries(t, tree)
	c.pass(time.Hour)
	sweep(t, tree)
	if pairs, entries := stored(t, tree); pairs != 0 || entries != 0 {
		t.Fatalf("got %d pairs and %d entries on the disk when all is over, want none", pairs, entries)
	}
}
