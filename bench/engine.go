package main

import "errors"

// engine is one of those that are compared.
type engine struct {
	name string
	// open opens a store in dir, which exists. writers is how many will put at once, each
	// returning when its pair is on the disk; if it is 0, only flush waits for the disk.
	open func(dir string, writers int) (store, error)
}

// The names by which ratios are found.
const (
	ours = "nexus-raft"
	raw  = "pebble" // with the same options
)

// engines are what is compared, ours and the one that it is compared with first.
var engines = []engine{
	{ours, openOurs},
	{raw, openPebbleSame},
	{"pebble-defaults", openPebbleDefaults},
	{"bbolt", openBolt},
	{"badger", openBadger},
}

// store is an open store. Its methods may be called from any goroutine.
type store interface {
	put(key, value []byte) error

	// putAll writes pairs atomically.
	putAll(pairs []pair) error

	// get returns a copy of the value at key, in memory of its own. An absent key is errAbsent.
	get(key []byte) ([]byte, error)

	// getTo appends the value at key to dst. An absent key is errAbsent.
	getTo(dst, key []byte) ([]byte, error)

	// scan reads each key and value of those that begin with prefix, and returns how many
	// they are.
	scan(prefix []byte) (int, error)

	// flush returns when all that was put is on the disk.
	flush() error

	close() error
}

type pair struct{ key, value []byte }

var errAbsent = errors.New("a key is absent that was written")
