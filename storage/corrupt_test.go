package storage

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// image is what the directory of a store holds: the contents of its files by name.
type image map[string][]byte

// imageOf copies the files of the store in fs, as they are when its process is killed now.
func imageOf(t *testing.T, fs FS) image {
	t.Helper()
	names, err := fs.List("data")
	check(t, err)
	img := make(image)
	for _, name := range names {
		img[name] = []byte(read(t, fs, fs.PathJoin("data", name)))
	}
	return img
}

// disk is a new file system with the image on it.
func (img image) disk(t fataler) FS {
	fs := vfs.NewMem()
	check(t, fs.MkdirAll("data", 0o700))
	for name, content := range img {
		f, err := fs.Create(fs.PathJoin("data", name), vfs.WriteCategoryUnspecified)
		check(t, err)
		_, err = f.Write(slices.Clone(content)) // which it may change
		check(t, errors.Join(err, f.Close()))
	}
	return fs
}

// with is the image with another content of one file, or without that file if it is nil.
func (img image) with(name string, content []byte) image {
	changed := maps.Clone(img)
	changed[name] = content
	if content == nil {
		delete(changed, name)
	}
	return changed
}

// victim is a store to be damaged, and what is in it.
type victim struct {
	image
	want    map[string]model // by the trees' names, "" for the default one
	lastLog string
}

// newVictim is a store that has tables on two levels, and in its log batches that are
// in no table. Its process was killed, or it was closed.
func newVictim(t *testing.T, closed bool) *victim {
	fs := NewMemFS()
	s := mustOpen(t, fs)
	v := &victim{want: map[string]model{"": {}, "inline": {}, "large": {}}}
	mustTree(t, s, "dropped")
	_, err := s.GenerateID()
	check(t, err)
	v.write(t, s, 0)
	check(t, s.db.Compact(t.Context(), []byte{0}, []byte{0xff}, false))
	check(t, s.DropTree("dropped"))
	check(t, s.Delete([]byte("key 0 1")))
	delete(v.want[""], "key 0 1")
	v.write(t, s, 1)
	check(t, s.db.Flush())
	v.write(t, s, 2)
	v.image = imageOf(t, fs)
	check(t, s.Close())
	if closed {
		v.image = imageOf(t, fs)
	}
	for name := range v.image {
		if strings.HasSuffix(name, ".log") {
			v.lastLog = max(v.lastLog, name)
		}
	}
	return v
}

// write sets three keys of each tree, the last one synced.
func (v *victim) write(t *testing.T, s *Store, round int) {
	rng := rand.New(rand.NewPCG(1, uint64(round)))
	for n := range 3 {
		b := s.NewBatch()
		for name, size := range map[string]int{"": 10, "inline": 20, "large": 300} {
			tree := s.Default()
			if name != "" {
				tree = mustTree(t, s, name)
			}
			key, value := fmt.Sprintf("key %d %d", round, n), make([]byte, size)
			for i := range value {
				value[i] = byte(rng.Uint32())
			}
			check(t, b.Set(tree, []byte(key), value))
			v.want[name][key] = string(value)
		}
		check(t, b.Commit(n != 1))
		b.Close()
	}
}

// inspect opens a damaged copy of the store and reads everything by every way. It returns
// whether the damage showed, and an error unless each answer was true, or
// nexusraft.ErrCorrupt with the file's name.
func (v *victim) inspect(t fataler, img image, file string) (noticed bool, err error) {
	var wrong []error
	ok := func(err error) bool {
		if err == nil {
			return true
		}
		noticed = true
		if !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), file) ||
			strings.Contains(err.Error(), "\n") {
			wrong = append(wrong, fmt.Errorf("got %q, want one line that is ErrCorrupt and names the file", err))
		}
		return false
	}
	s, err := Open("data", testOptions(img.disk(t)))
	if !ok(err) {
		return noticed, errors.Join(wrong...)
	}
	defer func() { _ = s.Close() }() // what it found is its own matter
	names, err := s.Trees()
	check(t, err)
	if want := []string{"inline", "large"}; !slices.Equal(names, want) {
		wrong = append(wrong, fmt.Errorf("trees: got %q, want %q", names, want))
		return noticed, errors.Join(wrong...)
	}
	for name, want := range v.want {
		tree := s.Default()
		if name != "" {
			tree = mustTree(t, s, name)
		}
		for _, reverse := range []bool{false, true} {
			var got []kv
			complete := true
			for p, err := range tree.scan(nil, nil, reverse) {
				if !ok(err) {
					complete = false
					break
				}
				got = append(got, kv{string(p.Key), string(p.Value)})
			}
			all := want.scan(nil, nil, reverse)
			if len(got) > len(all) || !slices.Equal(got, all[:len(got)]) || complete && len(got) < len(all) {
				wrong = append(wrong, fmt.Errorf("tree %q, reverse %v: got %q, want %q", name, reverse, got, all))
			}
		}
		for round := range 3 {
			key := fmt.Sprintf("key %d 1", round)
			value, found, err := tree.Get([]byte(key))
			if wantValue, wantFound := want[key]; ok(err) && (found != wantFound || string(value) != wantValue) {
				wrong = append(wrong, fmt.Errorf("tree %q, get %q: got %q, %v", name, key, value, found))
			}
		}
	}
	return noticed, errors.Join(wrong...)
}

// damage is one change of one file.
type damage struct {
	file    string
	what    string
	content []byte // nil if the file is gone
}

// inspectAll inspects the store with each damage, several at a time, and returns how often
// it was noticed, by file.
func (v *victim) inspectAll(t *testing.T, damages func(yield func(damage))) map[string]int {
	var mu sync.Mutex
	noticed, failed := make(map[string]int), 0
	jobs := make(chan damage)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for d := range jobs {
				seen, err := v.inspect(t, v.with(d.file, d.content), d.file)
				mu.Lock()
				if seen {
					noticed[d.file]++
				}
				if err != nil {
					if failed++; failed <= 20 {
						t.Errorf("%s, %s: %v", d.file, d.what, err)
					}
				}
				mu.Unlock()
			}
		})
	}
	damages(func(d damage) { jobs <- d })
	close(jobs)
	wg.Wait()
	if failed > 20 {
		t.Errorf("and %d more", failed-20)
	}
	return noticed
}

// TestFlippedBytes flips a bit or all bits of every byte of every file in turn (invariant I10): in
// the one store the even ones, in the other, whose files are the same but for the end, the odd
// ones. With damageStride above 1, which the race detector asks for, it leaves some out, and,
// unless it is to be thorough, three of four, and fifteen of sixteen in tables, whose blocks have one
// checksum each.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		closed bool
		first  int
	}{{"killed", false, 0}, {"closed", true, 1}} {
		t.Run(c.name, func(t *testing.T) {
			v := newVictim(t, c.closed)
			if noticed, err := v.inspect(t, v.image, ""); noticed || err != nil {
				t.Fatalf("undamaged: got %v, %v", noticed, err)
			}
			flips := make(map[string]int)
			noticed := v.inspectAll(t, func(yield func(damage)) {
				for file, content := range v.image {
					stride := 2 * damageStride
					switch {
					case strings.HasPrefix(file, "OPTIONS-"):
						stride *= 3 // a text, of which two lines count
					case strings.HasSuffix(file, ".sst") && !thorough():
						stride *= 4
					}
					if !thorough() && damageStride == 1 {
						stride *= 4
					}
					for i := c.first; i < len(content); i += stride {
						flip := byte(0xff)
						if i/stride%2 == 0 {
							flip = 1 << (i / 4 % 8)
						}
						flips[file]++
						changed := slices.Clone(content)
						changed[i] ^= flip
						yield(damage{file, fmt.Sprintf("byte %d xor %#x", i, flip), changed})
					}
				}
			})
			for file, all := range flips {
				switch got := noticed[file]; {
				case strings.HasSuffix(file, ".sst") && got < all*9/10:
					t.Errorf("%s: %d of %d flips were noticed, want most", file, got, all)
				case file == v.lastLog && got < all*3/4: // its end is of the log whose file it was before
					t.Errorf("%s: %d of %d flips were noticed, want most", file, got, all)
				case strings.HasPrefix(file, "MANIFEST-") && got < all:
					t.Errorf("%s: %d of %d flips were noticed, want all", file, got, all)
				}
			}
		})
	}
}

// TestCutFiles cuts each file to many lengths.
func TestCutFiles(t *testing.T) {
	t.Parallel()
	v := newVictim(t, false)
	v.inspectAll(t, func(yield func(damage)) {
		for file, content := range v.image {
			for n := 0; n < len(content); n += 11 * damageStride {
				yield(damage{file, fmt.Sprintf("cut to %d bytes", n), content[:n:n]})
			}
		}
	})
}

// TestLostFiles removes each file in turn; LOCK has nothing in it.
func TestLostFiles(t *testing.T) {
	v := newVictim(t, false)
	for file := range v.image {
		number, _, _ := strings.Cut(file, ".sst") // Pebble says no more of a table that it does not find
		if strings.HasPrefix(file, "marker.") {
			number = "marker."
		}
		if _, err := v.inspect(t, v.with(file, nil), number); err != nil {
			t.Errorf("without %s: %v", file, err)
		}
	}
}

// TestDamagedLongLog flips bytes all over a log of several of the engine's blocks, which
// holds small batches and one that is larger than a block.
func TestDamagedLongLog(t *testing.T) {
	fs := NewMemFS()
	o := testOptions(fs)
	o.MemTableBytes = 4 << 20
	s, err := Open("data", o)
	check(t, err)
	v := &victim{want: map[string]model{"": {}, "inline": {}, "large": {}}}
	v.write(t, s, 0)
	v.write(t, s, 1)
	for i := range 60 {
		key, value := fmt.Sprintf("long %d", i), strings.Repeat(string(rune('a'+i)), 2000+i%20/19*50_000)
		check(t, s.Set([]byte(key), []byte(value)))
		v.want[""][key] = value
	}
	v.write(t, s, 2)
	v.image = imageOf(t, fs)
	check(t, s.Close())
	for name, content := range v.image {
		if strings.HasSuffix(name, ".log") && len(content) > 5*blockBytes {
			v.lastLog = name
		}
	}
	content := v.image[v.lastLog]
	flips := 0
	noticed := v.inspectAll(t, func(yield func(damage)) {
		for i := 0; i < len(content); i += 1009 * damageStride {
			flips++
			changed := slices.Clone(content)
			changed[i] ^= 1 << (i % 8)
			yield(damage{v.lastLog, fmt.Sprintf("byte %d", i), changed})
		}
	})
	if noticed[v.lastLog] != flips || flips < 20/damageStride {
		t.Errorf("%d of %d flips were noticed, want all", noticed[v.lastLog], flips)
	}
}
