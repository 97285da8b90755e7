package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Limits of what one call may write; a larger one gets nexusraft.ErrTooLarge.
const (
	MaxNameBytes  = 255
	MaxKeyBytes   = 64 << 10 // a key may be empty
	MaxValueBytes = 64 << 20
	MaxBatchBytes = 2 << 30 // of all keys and values of a batch, with a few bytes for each
)

const (
	defaultFlushInterval = 500 * time.Millisecond
	defaultDiskReserve   = 128 << 20
)

// Compression says how much time goes into making tables smaller.
type Compression int

const (
	// CompressionFast takes what costs next to nothing: MinLZ, or Snappy on arm64.
	CompressionFast Compression = iota

	// CompressionNone is for values that are compressed already.
	CompressionNone

	// CompressionSmall takes Zstandard for the two last levels, where most of a large store
	// is, as far as it makes them smaller than CompressionFast, which the other levels have.
	CompressionSmall
)

// FS is the file system that a store lives in.
type FS = vfs.FS

// Options are the choices of a store. The zero value of each field is its default.
type Options struct {
	// FS is the file system; by default the operating system's.
	FS FS

	// CacheBytes bounds the memory that the store holds for data: memory tables, which come
	// first, and blocks read from the disk. By default 256 MiB, or four times MemTableBytes
	// if that is more. It is taken as it is needed, so a small store takes little. Random
	// reads are several times faster where it holds all that is read often.
	//
	// In a program that is built without cgo this is part of Go's heap, where the collector
	// lets about as much garbage gather by default; set GOMEMLIMIT where memory is short.
	CacheBytes int64

	// MemTableBytes is how much is written before it moves from the write-ahead log
	// into tables; 64 MiB by default, at least 64 KiB and at most 1 GiB. Up to three
	// times as much is held in memory; writes wait when that is full. More of it means
	// that less is written to the disk: what is overwritten or removed before it moves never
	// does, and tables are merged less often. But a store whose process was killed takes
	// longer to open: it reads all of the log again.
	MemTableBytes int64

	// Durability is what a write waits for that doesn't say it itself: Sync by default.
	Durability Durability

	// FlushInterval is how long a write that was not synced stays so at most, as long as
	// the disk keeps up; 500 ms by default. A negative one leaves it at that: such a write
	// is then synced by the next one that is, by Flush, or by Close.
	FlushInterval time.Duration

	// Compression is how tables are compressed; CompressionFast by default. Those that are on
	// the disk keep theirs until they are compacted.
	Compression Compression

	// ReadOnly opens a store that exists, and changes nothing of it: what writes returns
	// nexusraft.ErrRefused. What is in the write-ahead log is read, too, and held in memory. Nobody
	// else may have the store open, as ever. Of a backup, all files are read and verified first. It
	// may be on a file system that is mounted read-only.
	ReadOnly bool

	// DiskReserve is how many bytes of the disk are kept free: below it, writes get
	// nexusraft.ErrDiskFull and the store lives on; reads, removals and batches that have
	// asked for the reserve (Batch.UseReserve) go on. By default four times MemTableBytes,
	// that is 256 MiB, and at least 128 MiB; below three quarters of that, what is written
	// already may need more than is left, and the store stops for good as on any failed
	// write, keeping what was synced. A negative one is none.
	DiskReserve int64

	// OpenTables is how many tables are kept open at a time, each of which takes a file descriptor;
	// 500 by default. Where a process may have few, leave room for 40 more of the store's own.
	OpenTables int

	// Merge is what Tree.Merge does: it returns the value that key shall have, which is old
	// (nil if there is none), and operand, put together. A nil result removes the key; an
	// error is returned to the caller of Merge as it is, and nothing is written. It must
	// be a function of its arguments alone, and may be called more often than Merge is,
	// from any goroutine. It owns old and borrows the others.
	Merge func(tree string, key, old, operand []byte) ([]byte, error)

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
	if c.MemTableBytes == 0 {
		c.MemTableBytes = defaultMemTableBytes
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = max(defaultCacheBytes, cacheMemTables*c.MemTableBytes)
	}
	if c.FlushInterval == 0 {
		c.FlushInterval = defaultFlushInterval
	}
	if c.DiskReserve == 0 {
		c.DiskReserve = max(defaultDiskReserve, 2*memTables*c.MemTableBytes)
	}
	if c.OpenTables == 0 {
		c.OpenTables = defaultOpenTables
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	var errs []error
	if c.OpenTables < 0 {
		errs = append(errs, errors.New("OpenTables is negative"))
	}
	if c.CacheBytes < 0 {
		errs = append(errs, errors.New("CacheBytes is negative"))
	}
	if c.MemTableBytes < 64<<10 || c.MemTableBytes > 1<<30 {
		errs = append(errs, errors.New("MemTableBytes is not between 64 KiB and 1 GiB"))
	}
	if c.Durability != Sync && c.Durability != NoSync {
		errs = append(errs, fmt.Errorf("Durability is %d, must be Sync or NoSync", c.Durability))
	}
	if _, ok := compressions[c.Compression]; !ok {
		errs = append(errs, fmt.Errorf("Compression is %d, must be CompressionFast, CompressionNone or CompressionSmall",
			c.Compression))
	}
	return c, errors.Join(errs...)
}
