package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// youngStore is a store with one log and nothing else, and the log's name.
func youngStore(t *testing.T, closed bool) (image, string) {
	t.Helper()
	fs := NewMemFS()
	s := mustOpen(t, fs)
	check(t, s.Set([]byte("k"), []byte("v")))
	img := imageOf(t, fs)
	check(t, s.Close())
	if closed {
		img = imageOf(t, fs)
	}
	newest := ""
	for name := range img {
		if strings.HasSuffix(name, ".log") {
			newest = max(newest, name)
		}
	}
	return img, newest
}

// wantCorrupt opens a damaged store in both ways.
func wantCorrupt(t *testing.T, what string, img image, file string) {
	t.Helper()
	for _, readOnly := range []bool{true, false} {
		o := testOptions(img.disk(t))
		o.ReadOnly = readOnly
		s, err := Open("data", o)
		if err == nil {
			check(t, s.Close())
		}
		if !errors.Is(err, nexusraft.ErrCorrupt) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s, read-only %v: got %v, want ErrCorrupt that names %s", what, readOnly, err, file)
		}
	}
}

// TestLostLog removes the newest log of a store that was closed, and of one whose process was
// killed.
func TestLostLog(t *testing.T) {
	for _, closed := range []bool{false, true} {
		img, log := youngStore(t, closed)
		wantCorrupt(t, fmt.Sprint("young, closed ", closed), img.with(log, nil), log)
		v := newVictim(t, closed)
		wantCorrupt(t, fmt.Sprint("older, closed ", closed), v.with(v.lastLog, nil), v.lastLog)
	}
}

// TestLostLogInTheMiddle removes, and damages, each of the logs of a store whose process was killed
// before they had become tables.
func TestLostLogInTheMiddle(t *testing.T) {
	img, logs := severalLogs(t)
	for _, log := range logs {
		wantCorrupt(t, "without it", img.with(log, nil), log)
		for at := 0; at < len(img[log]); at += len(img[log]) / 7 {
			damaged := slices.Clone(img[log])
			damaged[at] ^= 1
			wantCorrupt(t, fmt.Sprint("byte ", at), img.with(log, damaged), log)
		}
	}
}

// severalLogs is a store that has its registry in a table and several logs, and the names of those
// of which something is noted.
func severalLogs(t *testing.T) (image, []string) {
	t.Helper()
	fs, hold := NewMemFS(), make(chan struct{})
	var held atomic.Bool
	s := mustOpen(t, errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if held.Load() && op.Kind == errorfs.OpCreate && strings.HasSuffix(op.Path, ".sst") {
			<-hold
		}
		return nil
	})))
	check(t, s.db.Flush())
	held.Store(true)
	for i := range 6 {
		check(t, s.Set(fmt.Append(nil, i), make([]byte, 20<<10)))
	}
	img := imageOf(t, fs)
	close(hold)
	check(t, s.Close())
	var logs []string
	said := readSynced(img.disk(t), "data")
	for name := range img {
		if _, ok := logNumber(name); ok && said.lengths[name] > 0 {
			logs = append(logs, name)
		}
	}
	if len(logs) < 2 {
		t.Fatalf("only the logs %q", logs)
	}
	return img, logs
}

// TestLogsGoOneByOne crashes a busy store, whose logs are recycled and removed, after each change
// of its disk: no log that goes in order is taken for a lost one, and what was acknowledged is
// there.
func TestLogsGoOneByOne(t *testing.T) {
	t.Parallel()
	var acked atomic.Int64
	type crash struct {
		disk  *MemFS
		acked int64
	}
	var left []crash
	disk := NewMemFS()
	var mu sync.Mutex // guards left and rng
	rng := rand.New(rand.NewPCG(5, 3))
	s := mustOpen(t, errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
		gone := op.Kind == errorfs.OpRemove || op.Kind == errorfs.OpReuseForWrite
		if gone && strings.HasSuffix(op.Path, ".log") || strings.HasSuffix(op.Path, syncedName) {
			mu.Lock()
			defer mu.Unlock()
			for _, percent := range []int{0, 50, 100} {
				left = append(left, crash{disk.CrashClone(rng, percent), acked.Load()})
			}
		}
		return nil
	})))
	for i := range int64(40) {
		check(t, s.Set(numberedKey(int(i)), make([]byte, 20<<10), Durability(i%2)))
		if Durability(i%2) == Sync {
			acked.Store(i + 1)
		}
	}
	check(t, s.Close())
	for i, c := range left {
		s, err := Open("data", testOptions(c.disk))
		check(t, err)
		for n := range c.acked {
			if ok, err := s.Contains(numberedKey(int(n))); !ok || err != nil {
				t.Fatalf("crash %d of %d: acknowledged write %d of %d: got %v, %v", i, len(left), n, c.acked, ok, err)
			}
		}
		check(t, s.Close())
	}
	t.Logf("%d crashes", len(left))
}

// TestLostNotes removes what is noted of a store. Then nobody can tell whether its log is whole, so
// the store is refused with what to do, which works, and changes nothing before.
func TestLostNotes(t *testing.T) {
	for _, closed := range []bool{false, true} {
		img, log := youngStore(t, closed)
		wantCorrupt(t, "young", img.with(syncedName, nil), syncedName)
		wantCorrupt(t, "young, without its log", img.with(syncedName, nil).with(log, nil), syncedName)
		v := newVictim(t, closed)
		wantCorrupt(t, "older", v.with(syncedName, nil), syncedName)

		disk := img.with(syncedName, nil).disk(t)
		for range 2 {
			if _, err := Open("data", testOptions(disk)); !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("closed %v: got %v, want ErrCorrupt each time", closed, err)
			}
		}
		check(t, writeWhole(disk, disk.PathJoin("data", syncedName), nil))
		s := mustOpen(t, disk)
		if value, ok, err := s.Get([]byte("k")); !ok || err != nil || string(value) != "v" {
			t.Errorf("closed %v, as it is: got %q, %v, %v", closed, value, ok, err)
		}
		check(t, s.Close())
	}
}

// TestInexactNotes: what an earlier release has noted of a log that it has removed then is no
// damage.
func TestInexactNotes(t *testing.T) {
	disk := NewMemFS()
	check(t, mustOpen(t, disk).Close())
	said := readSynced(disk, "data")
	text := make([]byte, 8)
	for name, length := range said.lengths {
		text = fmt.Appendf(text, "%s %d\n", name, length)
	}
	text = append(text, "000001.log 100\n"...)
	binary.BigEndian.PutUint32(text[4:], uint32(len(text)))
	binary.BigEndian.PutUint32(text, crc32.Checksum(text[4:], castagnoli))
	check(t, writeWhole(disk, disk.PathJoin("data", syncedName), text))
	for range 2 {
		check(t, mustOpen(t, disk).Close())
	}
	if said := readSynced(disk, "data"); !said.exact || said.lengths["000001.log"] != 0 {
		t.Errorf("got %+v, want exact notes without the log that is gone", said)
	}
}

// TestDamagedYoungStore flips every bit of the only log of a young store, with what is noted of it
// and, where the engine alone can find the damage, without.
func TestDamagedYoungStore(t *testing.T) {
	t.Parallel()
	for _, closed := range []bool{false, true} {
		img, log := youngStore(t, closed)
		for bit := range 8 * len(img[log]) {
			content := slices.Clone(img[log])
			content[bit/8] ^= 1 << (bit % 8)
			wantCorrupt(t, fmt.Sprintf("closed %v, bit %d of %d", closed, bit, 8*len(content)), img.with(log, content), log)
		}
	}
}

// TestEngineNamesTheLog has no notes of what was synced, so that the engine finds the damage.
func TestEngineNamesTheLog(t *testing.T) {
	fs := NewMemFS()
	o := testOptions(fs)
	o.MemTableBytes = 4 << 20
	check(t, mustOpen(t, fs).Close()) // the first log of a store has no marks of what was synced
	s, err := Open("data", o)
	check(t, err)
	for i := range 100 {
		check(t, s.Set(fmt.Append(nil, i), make([]byte, 2000)))
	}
	img := imageOf(t, fs).with(syncedName, []byte{})
	check(t, s.Close())
	for name, content := range img {
		if strings.HasSuffix(name, ".log") && len(content) > 5*blockBytes {
			damaged := slices.Clone(content)
			damaged[blockBytes+5000] ^= 1
			wantCorrupt(t, "in the middle", img.with(name, damaged), name)
			return
		}
	}
	t.Fatal("there is no long log")
}
