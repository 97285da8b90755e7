package storage

import (
	"bytes"
	"errors"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// The store's own records are read or refused as corrupt.
func FuzzDecodeRegistry(f *testing.F) {
	f.Add([]byte{0, 0, 0, 9}, "node", []byte{0, 0, 0, 1}, []byte{0, 0, 0, 2}, []byte{0, 0, 0, 0, 0, 0, 0, 5})
	f.Add([]byte{}, "", []byte{0}, []byte{0, 0, 0, 1}, []byte{1})
	f.Fuzz(func(t *testing.T, next []byte, name string, id, own, ids []byte) {
		s := &Store{trees: treeMap{byName: make(map[string]*Tree)}}
		err := s.decodeRegistry(map[string][]byte{keyNextID: next, keyTree + name: id, keyDefault: own, keyIDs: ids})
		if err != nil {
			if !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("got %v, want ErrCorrupt", err)
			}
			return
		}
		tree := s.trees.get(name)
		if tree == nil || tree.id == registry || tree.id >= s.nextID || tree.id == s.defaultTree.id {
			t.Errorf("tree %q is %+v, the default tree %+v, the next ID %d", name, tree, s.defaultTree, s.nextID)
		}
	})
}

// What a codec has decoded it encodes to bytes that decode to the same.
func FuzzCodecs(f *testing.F) {
	type value struct {
		Name  string
		Count uint64
		Parts map[string][]byte
	}
	for _, c := range []Codec[value]{JSON[value]{}, CBOR[value]{}} {
		b, err := c.Append(nil, value{"n", 7, map[string][]byte{"k": {1}}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		for _, c := range []Codec[value]{JSON[value]{}, CBOR[value]{}} {
			var v, again value
			if c.Decode(src, &v) != nil {
				continue
			}
			once, err := c.Append(nil, v)
			if err != nil {
				t.Fatalf("%T: %x decodes to %+v, which does not encode: %v", c, src, v, err)
			}
			if err := c.Decode(once, &again); err != nil {
				t.Fatalf("%T: %x, encoded from %+v, does not decode: %v", c, once, v, err)
			}
			if twice, err := c.Append(nil, again); err != nil || !bytes.Equal(once, twice) {
				t.Errorf("%T: %x became %x, %v", c, once, twice, err)
			}
		}
	})
}
