package main

import (
	"log/slog"

	"github.com/nexi-lab/nexus-raft/storage"
)

// ourStore is the storage package with its default options.
type ourStore struct {
	s          *storage.Store
	durability storage.Durability
}

func openOurs(dir string, writers int) (store, error) {
	s, err := storage.Open(dir, &storage.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	durability := storage.NoSync
	if writers > 0 {
		durability = storage.Sync
	}
	return &ourStore{s, durability}, nil
}

func (o *ourStore) put(key, value []byte) error { return o.s.Set(key, value, o.durability) }

func (o *ourStore) putAll(pairs []pair) error {
	b := o.s.NewBatch()
	defer b.Close()
	for _, p := range pairs {
		if err := b.Set(o.s.Default(), p.key, p.value); err != nil {
			return err
		}
	}
	return b.Commit(o.durability == storage.Sync)
}

func (o *ourStore) get(key []byte) ([]byte, error) {
	value, ok, err := o.s.Get(key)
	if err == nil && !ok {
		err = errAbsent
	}
	return value, err
}

func (o *ourStore) getTo(dst, key []byte) ([]byte, error) {
	value, ok, err := o.s.GetTo(dst, key)
	if err == nil && !ok {
		err = errAbsent
	}
	return value, err
}

func (o *ourStore) scan(prefix []byte) (int, error) {
	n := 0
	for p, err := range o.s.Prefix(prefix) {
		if err != nil {
			return n, err
		}
		n += whole(p.Key, p.Value)
	}
	return n, nil
}

func (o *ourStore) flush() error { return o.s.Flush() }
func (o *ourStore) close() error { return o.s.Close() }
