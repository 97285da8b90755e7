package queue

import (
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/nexi-lab/nexus-raft/storage"
)

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func check(t fataler, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("got error %v", err)
	}
}

func want(t fataler, got, wanted error) {
	t.Helper()
	if !errors.Is(got, wanted) {
		t.Fatalf("got error %v, want %v", got, wanted)
	}
}

// inBackground makes the helpers fit for other goroutines than the test's.
type inBackground struct{ *testing.T }

func (t inBackground) Fatalf(format string, args ...any) {
	t.Helper()
	t.Errorf(format, args...)
}

func quiet(fs storage.FS) *storage.Options {
	return &storage.Options{
		FS: fs, CacheBytes: 1 << 20, MemTableBytes: 64 << 10, FlushInterval: -1,
		Logger: slog.New(slog.DiscardHandler),
	}
}

func mustStore(t fataler, fs storage.FS) *storage.Store {
	t.Helper()
	s, err := storage.Open("data", quiet(fs))
	check(t, err)
	return s
}

func mustOpen(t fataler, s *storage.Store) *Queue {
	t.Helper()
	q, err := Open(s, "q", nil)
	check(t, err)
	return q
}

// newQueue is a queue in memory that the test's end closes.
func newQueue(t *testing.T) *Queue {
	t.Helper()
	s := mustStore(t, storage.NewMemFS())
	q := mustOpen(t, s)
	t.Cleanup(func() {
		q.Close()
		check(t, s.Close())
	})
	return q
}

func push(t fataler, q *Queue, value string) uint64 {
	t.Helper()
	id, err := q.Push([]byte(value), storage.NoSync)
	check(t, err)
	return id
}

func tryPop(t fataler, q *Queue) (Message, bool) {
	t.Helper()
	m, ok, err := q.TryPop()
	check(t, err)
	return m, ok
}

// mustPop pops a message that must be there at once.
func mustPop(t fataler, q *Queue, value string, deliveries int) Message {
	t.Helper()
	m, ok := tryPop(t, q)
	if !ok || string(m.Value) != value || m.Deliveries != deliveries {
		t.Fatalf("popped %d %q, delivery %d, %v; want %q, delivery %d", m.ID, m.Value, m.Deliveries, ok, value, deliveries)
	}
	return m
}

func mustBeEmpty(t fataler, q *Queue) {
	t.Helper()
	if m, ok := tryPop(t, q); ok {
		t.Fatalf("popped %d %q, want nothing", m.ID, m.Value)
	}
}

func mustLen(t fataler, q *Queue, want int) {
	t.Helper()
	if n, err := q.Len(); n != want || err != nil {
		t.Fatalf("len: got %d, %v, want %d", n, err, want)
	}
}

// slowFS is a file system whose log files can be made to hang in a sync, and then to fail.
type slowFS struct {
	storage.FS
	hold atomic.Pointer[chan error] // a sync returns what it receives
}

// stop makes syncs hang until somebody sends on, or closes, the channel.
func (f *slowFS) stop() chan error {
	c := make(chan error)
	f.hold.Store(&c)
	return c
}

func (f *slowFS) wait() error {
	if c := f.hold.Load(); c != nil {
		return <-*c
	}
	return nil
}

func (f *slowFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, category)
	return &slowFile{file, f}, err
}

func (f *slowFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(oldname, newname, category)
	return &slowFile{file, f}, err
}

type slowFile struct {
	vfs.File
	fs *slowFS
}

func (f *slowFile) Sync() error     { return errors.Join(f.fs.wait(), f.File.Sync()) }
func (f *slowFile) SyncData() error { return errors.Join(f.fs.wait(), f.File.SyncData()) }
