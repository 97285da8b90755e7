package main

import (
	"errors"

	"github.com/dgraph-io/badger/v4"
)

// badgerStore is badger with its defaults, but that it says nothing.
type badgerStore struct{ db *badger.DB }

func openBadger(dir string, writers int) (store, error) {
	options := badger.DefaultOptions(dir).WithSyncWrites(writers > 0).WithLogger(nil).WithMetricsEnabled(false)
	db, err := badger.Open(options)
	if err != nil {
		return nil, err
	}
	return &badgerStore{db}, nil
}

func (b *badgerStore) put(key, value []byte) error {
	return b.db.Update(func(tx *badger.Txn) error { return tx.Set(key, value) })
}

func (b *badgerStore) putAll(pairs []pair) error {
	return b.db.Update(func(tx *badger.Txn) error {
		for _, p := range pairs {
			if err := tx.Set(p.key, p.value); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *badgerStore) get(key []byte) ([]byte, error) { return b.getTo([]byte{}, key) }

func (b *badgerStore) getTo(dst, key []byte) ([]byte, error) {
	err := b.db.View(func(tx *badger.Txn) error {
		item, err := tx.Get(key)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return errAbsent
		}
		if err != nil {
			return err
		}
		return item.Value(func(value []byte) error {
			dst = append(dst, value...)
			return nil
		})
	})
	return dst, err
}

func (b *badgerStore) scan(prefix []byte) (n int, err error) {
	err = b.db.View(func(tx *badger.Txn) error {
		o := badger.DefaultIteratorOptions
		o.Prefix = prefix
		it := tx.NewIterator(o)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			item := it.Item()
			err := item.Value(func(value []byte) error {
				n += whole(item.Key(), value)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

func (b *badgerStore) flush() error { return b.db.Sync() }
func (b *badgerStore) close() error { return b.db.Close() }
