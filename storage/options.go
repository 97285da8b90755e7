package storage

import (
	"errors"
	"log/slog"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Limits of what one call may write; a larger one gets nexusraft.ErrTooLarge.
const (
	MaxNameBytes  = 255
	MaxKeyBytes   = 64 << 10 // a key may be empty
	MaxValueBytes = 1 << 30
	MaxBatchBytes = 2 << 30 // of all keys and values of a batch, with a few bytes for each
)

const (
	defaultCacheBytes    = 64 << 20
	defaultMemTableBytes = 16 << 20
	memTables            = 4 // at most so many are held before writes wait for the disk
	maxOpenFiles         = 500
)

// FS is the file system that a store lives in.
type FS = vfs.FS

// Options are the choices of a store. The zero value of each field is its default.
type Options struct {
	// FS is the file system; by default the operating system's.
	FS FS

	// CacheBytes bounds the memory for blocks read from disk; 64 MiB by default.
	CacheBytes int64

	// MemTableBytes is how much is written before it moves from the write-ahead log
	// into tables; 16 MiB by default, at least 64 KiB and at most 1 GiB. Up to four
	// times as much is held in memory.
	MemTableBytes int64

	// Logger takes what the store has to say; slog.Default() by default.
	Logger *slog.Logger
}

// withDefaults returns a complete copy, or all that is wrong with o, which may be nil.
func (o *Options) withDefaults() (Options, error) {
	var c Options
	if o != nil {
		c = *o
	}
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = defaultCacheBytes
	}
	if c.MemTableBytes == 0 {
		c.MemTableBytes = defaultMemTableBytes
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	var errs []error
	if c.CacheBytes < 0 {
		errs = append(errs, errors.New("CacheBytes is negative"))
	}
	if c.MemTableBytes < 64<<10 || c.MemTableBytes > 1<<30 {
		errs = append(errs, errors.New("MemTableBytes is not between 64 KiB and 1 GiB"))
	}
	return c, errors.Join(errs...)
}

// engine returns Pebble's options for a database that lives in fs.
func (o Options) engine(fs *fence, lock *pebble.Lock) *pebble.Options {
	return &pebble.Options{
		FS:                          fs,
		Lock:                        lock,
		FormatMajorVersion:          pebble.FormatValueSeparation,
		CacheSize:                   o.CacheBytes,
		MemTableSize:                uint64(o.MemTableBytes),
		MemTableStopWritesThreshold: memTables,
		MaxOpenFiles:                maxOpenFiles,
		Logger:                      engineLog{fence: fs, log: o.Logger},
		EventListener:               engineEvents(fs, o.Logger),
	}
}
