package main

import (
	"bytes"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// boltStore is bbolt: a B+ tree, one writer at a time.
type boltStore struct {
	db     *bbolt.DB
	shared bool // writers that wait at the same time share a transaction, and its sync
}

var bucket = []byte("bench")

func openBolt(dir string, writers int) (store, error) {
	db, err := bbolt.Open(filepath.Join(dir, "bolt.db"), 0o600, &bbolt.Options{
		NoSync:       writers == 0,
		FreelistType: bbolt.FreelistMapType, // the faster one
	})
	if err != nil {
		return nil, err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucket)
		return err
	})
	if err != nil {
		db.Close()
		return nil, err
	}
	return &boltStore{db, writers > 1}, nil
}

func (b *boltStore) put(key, value []byte) error {
	set := func(tx *bbolt.Tx) error { return tx.Bucket(bucket).Put(key, value) }
	if b.shared {
		return b.db.Batch(set)
	}
	return b.db.Update(set)
}

func (b *boltStore) putAll(pairs []pair) error {
	return b.db.Update(func(tx *bbolt.Tx) error {
		keys := tx.Bucket(bucket)
		for _, p := range pairs {
			if err := keys.Put(p.key, p.value); err != nil {
				return err
			}
		}
		return nil
	})
}

func (b *boltStore) get(key []byte) ([]byte, error) { return b.getTo([]byte{}, key) }

func (b *boltStore) getTo(dst, key []byte) ([]byte, error) {
	err := b.db.View(func(tx *bbolt.Tx) error {
		value := tx.Bucket(bucket).Get(key)
		if value == nil {
			return errAbsent
		}
		dst = append(dst, value...)
		return nil
	})
	return dst, err
}

func (b *boltStore) scan(prefix []byte) (n int, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucket).Cursor()
		for key, value := c.Seek(prefix); bytes.HasPrefix(key, prefix); key, value = c.Next() {
			n += whole(key, value)
		}
		return nil
	})
	return n, err
}

func (b *boltStore) flush() error { return b.db.Sync() }
func (b *boltStore) close() error { return b.db.Close() }
