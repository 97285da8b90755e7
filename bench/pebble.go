package main

import (
	"errors"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
)

// pebbleStore is Pebble as a program would use it that doesn't have our storage.
type pebbleStore struct {
	db    *pebble.DB
	write *pebble.WriteOptions
}

// fullMemTable is how many keys fill one memory table of sameOptions, or the smaller ones that
// an empty store begins with: none of them is in a table on the disk yet.
const fullMemTable = 345_000

// sameOptions returns the options that the storage package opens Pebble with by default.
// TestSameOptions compares what the two write into their directories.
func sameOptions() *pebble.Options {
	o := &pebble.Options{
		FormatMajorVersion:          pebble.FormatValueSeparation,
		CacheSize:                   256 << 20,
		MemTableSize:                64 << 20,
		MemTableStopWritesThreshold: 2,
		MaxOpenFiles:                510,
		FlushDelayDeleteRange:       5 * time.Second,
	}
	for level := range o.Levels {
		o.Levels[level].FilterPolicy = bloom.FilterPolicy(10)
	}
	o.ApplyCompressionSettings(func() pebble.DBCompressionSettings { return pebble.DBCompressionFastest })
	return o
}

func openPebbleSame(dir string, writers int) (store, error) {
	return openPebble(dir, sameOptions(), writers)
}

func openPebbleDefaults(dir string, writers int) (store, error) {
	return openPebble(dir, &pebble.Options{}, writers)
}

func openPebble(dir string, o *pebble.Options, writers int) (store, error) {
	o.Logger = silent{}
	db, err := pebble.Open(dir, o)
	if err != nil {
		return nil, err
	}
	write := pebble.NoSync
	if writers > 0 {
		write = pebble.Sync
	}
	return &pebbleStore{db, write}, nil
}

func (p *pebbleStore) put(key, value []byte) error { return p.db.Set(key, value, p.write) }

func (p *pebbleStore) putAll(pairs []pair) error {
	b := p.db.NewBatch()
	for _, pair := range pairs {
		if err := b.Set(pair.key, pair.value, nil); err != nil {
			return errors.Join(err, b.Close())
		}
	}
	return errors.Join(b.Commit(p.write), b.Close())
}

func (p *pebbleStore) get(key []byte) ([]byte, error) { return p.getTo([]byte{}, key) }

func (p *pebbleStore) getTo(dst, key []byte) ([]byte, error) {
	value, closer, err := p.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return dst, errAbsent
	}
	if err != nil {
		return dst, err
	}
	dst = append(dst, value...)
	return dst, closer.Close()
}

func (p *pebbleStore) scan(prefix []byte) (int, error) {
	end := slices.Clone(prefix)
	end[len(end)-1]++ // a digit, so that it doesn't overflow
	it, err := p.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: end})
	if err != nil {
		return 0, err
	}
	n := 0
	for ok := it.First(); ok; ok = it.Next() {
		value, err := it.ValueAndErr()
		if err != nil {
			return n, errors.Join(err, it.Close())
		}
		n += whole(it.Key(), value)
	}
	return n, it.Close()
}

func (p *pebbleStore) flush() error { return p.db.LogData(nil, pebble.Sync) }
func (p *pebbleStore) close() error { return p.db.Close() }

// silent is a logger that says nothing, but that ends the process where Pebble wants it to.
type silent struct{}

func (silent) Infof(string, ...any)              {}
func (silent) Errorf(string, ...any)             {}
func (silent) Fatalf(format string, args ...any) { pebble.DefaultLogger.Fatalf(format, args...) }
