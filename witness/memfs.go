package witness

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
)

// MemFS is a file system in memory, for tests. It can be cloned as a crash would leave it,
// and a test can look at every step that reaches the disk, or make it fail.
//
// Its methods may be called from many goroutines.
type MemFS struct {
	// Before, if not nil, is called before each step that changes the disk: "create",
	// "write", "sync", "remove" or "syncdir", with the file's name. Its error becomes the step's,
	// which then does nothing. Set it while nothing is under way; it may call CrashClone, and is
	// called from many goroutines if the methods are.
	Before func(step, name string) error

	mu     sync.Mutex
	files  map[string]*memFile // by name, as this process sees them
	synced map[string]*memFile // those whose creation survives a crash, and whose removal may not
	locked map[string]bool
}

// sectorBytes is what a disk writes whole or not at all.
const sectorBytes = 512

// memFile is a file's content as processes see it and as the disk has it.
type memFile struct {
	now, disk []byte
}

// NewMemFS returns an empty file system.
func NewMemFS() *MemFS {
	return &MemFS{
		files:  make(map[string]*memFile),
		synced: make(map[string]*memFile),
		locked: make(map[string]bool),
	}
}

// CrashClone returns a copy as it could be found after a crash at this moment: all that
// was synced, and of the rest any sectors and directory entries, each with a probability
// of unsyncedPercent, decided by rng, which may be nil if that is 0. The original goes on
// as if nothing had happened.
func (m *MemFS) CrashClone(rng *rand.Rand, unsyncedPercent int) *MemFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	survives := func() bool { return unsyncedPercent > 0 && rng.IntN(100) < unsyncedPercent }
	clone := NewMemFS()
	for _, name := range slices.Sorted(maps.Keys(m.files)) {
		f, durable := m.synced[name]
		if !durable {
			if !survives() {
				continue
			}
			f = m.files[name]
		}
		content := f.afterCrash(survives)
		left := &memFile{now: content, disk: bytes.Clone(content)}
		clone.files[name], clone.synced[name] = left, left
	}
	for _, name := range slices.Sorted(maps.Keys(m.synced)) {
		if m.files[name] != nil || survives() {
			continue
		}
		left := m.synced[name].afterCrash(survives)
		back := &memFile{now: left, disk: bytes.Clone(left)}
		clone.files[name], clone.synced[name] = back, back
	}
	return clone
}

// afterCrash returns what a crash leaves: sectors that weren't synced are there or not,
// and the file is as long as the last one that is.
func (f *memFile) afterCrash(survives func() bool) []byte {
	out := bytes.Clone(f.disk)
	for at := 0; at < len(f.now); at += sectorBytes {
		end := min(at+sectorBytes, len(f.now))
		if end <= len(f.disk) && bytes.Equal(f.now[at:end], f.disk[at:end]) || !survives() {
			continue
		}
		out = put(out, at, f.now[at:end])
	}
	return out
}

func put(content []byte, at int, b []byte) []byte {
	if grow := at + len(b) - len(content); grow > 0 {
		content = append(content, make([]byte, grow)...)
	}
	copy(content[at:], b)
	return content
}

func (m *MemFS) step(step, name string) error {
	if m.Before == nil {
		return nil
	}
	return m.Before(step, name)
}

// MkdirAll implements FS. Directories are part of their files' names and always there.
func (m *MemFS) MkdirAll(string) error { return nil }

// Names implements FS.
func (m *MemFS) Names(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name := range m.files {
		if filepath.Dir(name) == filepath.Clean(dir) {
			names = append(names, filepath.Base(name))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Open implements FS.
func (m *MemFS) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, ok := m.files[filepath.Clean(name)]
	if !ok {
		return nil, fmt.Errorf("open %s: %w", name, fs.ErrNotExist)
	}
	return &memHandle{fs: m, name: name, file: f}, nil
}

// Create implements FS.
func (m *MemFS) Create(name string) (File, error) {
	if err := m.step("create", name); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clean := filepath.Clean(name)
	if m.files[clean] == nil {
		m.files[clean] = &memFile{}
	}
	return &memHandle{fs: m, name: name, file: m.files[clean]}, nil
}

// Remove implements FS.
func (m *MemFS) Remove(name string) error {
	if err := m.step("remove", name); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	clean := filepath.Clean(name)
	if m.files[clean] == nil {
		return fmt.Errorf("remove %s: %w", name, fs.ErrNotExist)
	}
	delete(m.files, clean)
	return nil
}

// SyncDir implements FS.
func (m *MemFS) SyncDir(dir string) error {
	if err := m.step("syncdir", dir); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for name := range m.synced {
		if filepath.Dir(name) == filepath.Clean(dir) && m.files[name] == nil {
			delete(m.synced, name)
		}
	}
	for name, f := range m.files {
		if filepath.Dir(name) == filepath.Clean(dir) {
			m.synced[name] = f
		}
	}
	return nil
}

// Lock implements FS. A crash gives locks back.
func (m *MemFS) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked[name] {
		return nil, errLocked
	}
	m.locked[name] = true
	return memLock{m, name}, nil
}

type memLock struct {
	fs   *MemFS
	name string
}

func (l memLock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	delete(l.fs.locked, l.name)
	return nil
}

type memHandle struct {
	fs   *MemFS
	name string
	file *memFile
}

func (h *memHandle) ReadAt(b []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return bytes.NewReader(h.file.now).ReadAt(b, off)
}

func (h *memHandle) WriteAt(b []byte, off int64) (int, error) {
	if err := h.fs.step("write", h.name); err != nil {
		return 0, err
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	h.file.now = put(h.file.now, int(off), b)
	return len(b), nil
}

func (h *memHandle) Size() (int64, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return int64(len(h.file.now)), nil
}

func (h *memHandle) Sync() error {
	if err := h.fs.step("sync", h.name); err != nil {
		return err
	}
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	h.file.disk = bytes.Clone(h.file.now)
	return nil
}

func (h *memHandle) Close() error { return nil }
