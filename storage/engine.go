package storage

import "github.com/cockroachdb/pebble/v2"

const (
	memTables    = 4 // at most so many are held before writes wait for the disk
	maxOpenFiles = 500
)

// compressions are the engine's, for each level.
var compressions = map[Compression]pebble.DBCompressionSettings{
	CompressionFast:  pebble.DBCompressionFastest,
	CompressionNone:  pebble.DBCompressionNone,
	CompressionSmall: pebble.DBCompressionGood,
}

// engine returns Pebble's options for a database that lives in fs.
func (o Options) engine(fs *fence, lock *pebble.Lock) *pebble.Options {
	e := &pebble.Options{
		ReadOnly:                    o.ReadOnly,
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
	e.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return compressions[o.Compression] })
	return e
}
