package storage

import (
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

// The defaults, and what is the same for every store. What each is worth, and what was tried
// and left, is in bench/README.md.
//
// The memory: Pebble lets writes wait when memTables tables of full size are waiting for the
// disk. Before that, while it goes from small ones to full ones, it may hold one more, and later
// it keeps one to use again. It takes the memory of them all from the cache's.
const (
	defaultCacheBytes    = 256 << 20
	defaultMemTableBytes = 64 << 20
	cacheMemTables       = 4 // the default cache has room for so many, and so for blocks, too
	memTables            = 2
	filterBits           = 10 // for each key: one in a hundred tables is looked into in vain
	defaultOpenTables    = 500
	deletedRangeFlush    = 5 * time.Second // after it the engine gives back the room of a deleted range
	// what the engine takes off its maximum of open files, for those that are no tables
	otherFiles = 10
)

// compressions are the engine's, for each level.
var compressions = map[Compression]pebble.DBCompressionSettings{
	CompressionFast:  pebble.DBCompressionFastest,
	CompressionNone:  pebble.DBCompressionNone,
	CompressionSmall: pebble.DBCompressionGood,
}

// engine returns Pebble's options for a database that lives in fs.
func (o Options) engine(fs *failstop, lock *pebble.Lock) *pebble.Options {
	e := &pebble.Options{
		ReadOnly:                    o.ReadOnly,
		FS:                          fs,
		Lock:                        lock,
		FormatMajorVersion:          pebble.FormatValueSeparation,
		CacheSize:                   o.CacheBytes,
		MemTableSize:                uint64(o.MemTableBytes),
		MemTableStopWritesThreshold: memTables,
		MaxOpenFiles:                o.OpenTables + otherFiles,
		FlushDelayDeleteRange:       deletedRangeFlush,
		Logger:                      engineLog{failstop: fs, log: o.Logger},
		EventListener:               engineEvents(fs, o.Logger),
	}
	for level := range e.Levels {
		e.Levels[level].FilterPolicy = bloom.FilterPolicy(filterBits)
	}
	e.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return compressions[o.Compression] })
	return e
}
