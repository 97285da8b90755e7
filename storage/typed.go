package storage

import (
	"fmt"
	"iter"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// TypedTree is a tree whose values are of type T. Its methods are those of the tree, and
// as safe for concurrent use; where a *T stands for a value, nil is no value. A value that
// can't be encoded or decoded is an error that names tree and key and wraps the codec's;
// nothing is written then.
type TypedTree[T any] struct {
	tree  *Tree
	codec Codec[T]
}

// TypedPair is a key and its value.
type TypedPair[T any] struct {
	Key   []byte // borrowed until the next step of the loop
	Value T
}

// Typed returns a view of t through a codec. All that write to t must use the same.
func Typed[T any](t *Tree, c Codec[T]) *TypedTree[T] { return &TypedTree[T]{tree: t, codec: c} }

// TypedTx is what a transaction sees of a TypedTree, and for how long Tx.Tree says.
type TypedTx[T any] struct {
	t  *TypedTree[T]
	in nexusraft.ReadWriter
}

// In returns the transaction's view of the tree.
func (t *TypedTree[T]) In(tx *Tx) *TypedTx[T] { return &TypedTx[T]{t: t, in: tx.Tree(t.tree)} }

// Get returns the value at key, and whether there is one.
func (x *TypedTx[T]) Get(key []byte) (value T, ok bool, err error) { return x.t.get(x.in, key) }

// Set stores value at key, replacing what is there.
func (x *TypedTx[T]) Set(key []byte, value T) error {
	stored, err := x.t.encode(key, &value)
	if err != nil {
		return err
	}
	return x.in.Set(key, stored)
}

// Delete removes key; a key that is absent is no error.
func (x *TypedTx[T]) Delete(key []byte) error { return x.in.Delete(key) }

// Get returns the value at key, and whether there is one.
func (t *TypedTree[T]) Get(key []byte) (value T, ok bool, err error) { return t.get(t.tree, key) }

func (t *TypedTree[T]) get(r nexusraft.Reader, key []byte) (value T, ok bool, err error) {
	stored, ok, err := r.Get(key)
	if err != nil || !ok {
		return value, false, err
	}
	value, err = t.decode(key, stored)
	return value, err == nil, err
}

// Set stores value at key, replacing what is there.
func (t *TypedTree[T]) Set(key []byte, value T, d ...Durability) error {
	stored, err := t.encode(key, &value)
	if err != nil {
		return err
	}
	return t.tree.Set(key, stored, d...)
}

// Delete removes key; a key that is absent is no error.
func (t *TypedTree[T]) Delete(key []byte, d ...Durability) error { return t.tree.Delete(key, d...) }

// CompareAndSwap sets key to value if what is there is encoded as expected is. It reports
// whether it did. If not, found is what was there instead, and nothing was written.
func (t *TypedTree[T]) CompareAndSwap(
	key []byte, expected, value *T, d ...Durability,
) (found *T, swapped bool, err error) {
	old, err := t.encode(key, expected)
	if err != nil {
		return nil, false, err
	}
	stored, err := t.encode(key, value)
	if err != nil {
		return nil, false, err
	}
	current, swapped, err := t.tree.CompareAndSwap(key, old, stored, d...)
	if err != nil || swapped {
		return expected, swapped, err
	}
	found, err = t.decodeAny(key, current)
	return found, false, err
}

// Update sets key to what update makes of the value there, as Tree.Update does.
func (t *TypedTree[T]) Update(
	key []byte, update func(old *T) (*T, error), d ...Durability,
) (before, after *T, err error) {
	_, _, err = t.tree.Update(key, func(stored []byte) ([]byte, error) {
		var err error
		if before, err = t.decodeAny(key, stored); err != nil {
			return nil, err
		}
		old, err := t.decodeAny(key, stored) // for update to keep or change
		if err != nil {
			return nil, err
		}
		if after, err = update(old); err != nil {
			return nil, err
		}
		return t.encode(key, after)
	}, d...)
	if err != nil {
		return nil, nil, err
	}
	return before, after, nil
}

// Scan is Tree.Scan; the loop ends with the first value that can't be decoded.
func (t *TypedTree[T]) Scan(start, end []byte) iter.Seq2[TypedPair[T], error] {
	return t.pairs(t.tree.Scan(start, end))
}

// ScanReverse is Scan in descending order.
func (t *TypedTree[T]) ScanReverse(start, end []byte) iter.Seq2[TypedPair[T], error] {
	return t.pairs(t.tree.ScanReverse(start, end))
}

// Prefix is Scan over the keys that begin with prefix.
func (t *TypedTree[T]) Prefix(prefix []byte) iter.Seq2[TypedPair[T], error] {
	return t.pairs(t.tree.Prefix(prefix))
}

// PrefixReverse is Prefix in descending order.
func (t *TypedTree[T]) PrefixReverse(prefix []byte) iter.Seq2[TypedPair[T], error] {
	return t.pairs(t.tree.PrefixReverse(prefix))
}

func (t *TypedTree[T]) pairs(stored iter.Seq2[nexusraft.Pair, error]) iter.Seq2[TypedPair[T], error] {
	return func(yield func(TypedPair[T], error) bool) {
		for p, err := range stored {
			pair := TypedPair[T]{Key: p.Key}
			if err == nil {
				pair.Value, err = t.decode(p.Key, p.Value)
			}
			if err != nil {
				yield(TypedPair[T]{}, err)
				return
			}
			if !yield(pair, nil) {
				return
			}
		}
	}
}

// encode returns nil for nil, and otherwise something that is not nil.
func (t *TypedTree[T]) encode(key []byte, value *T) ([]byte, error) {
	if value == nil {
		return nil, nil
	}
	stored, err := t.codec.Append([]byte{}, *value)
	if err != nil {
		return nil, fmt.Errorf("encode the value for key %.64q of tree %q: %w", key, t.tree.name, err)
	}
	if stored == nil {
		stored = []byte{}
	}
	return stored, nil
}

func (t *TypedTree[T]) decode(key, stored []byte) (value T, err error) {
	if err := t.codec.Decode(stored, &value); err != nil {
		var none T
		return none, fmt.Errorf("decode the value at key %.64q of tree %q: %w", key, t.tree.name, err)
	}
	return value, nil
}

// decodeAny is decode of what may be no value.
func (t *TypedTree[T]) decodeAny(key, stored []byte) (*T, error) {
	if stored == nil {
		return nil, nil
	}
	value, err := t.decode(key, stored)
	if err != nil {
		return nil, err
	}
	return &value, nil
}
