package datadir

import (
	"errors"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Records of identities and peers are read or refused as corrupt.
func FuzzDecodeRecords(f *testing.F) {
	f.Add([]byte(`{"node":"01","cluster":"02","incarnation":3}`))
	f.Add([]byte(`{"incarnation":18446744073709551615,"address":"a:1"}`))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, err := decodeIdentity(b); err == nil && id.Node == 0 || err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
			t.Errorf("identity %q: got %+v, %v; want a node or ErrCorrupt", b, id, err)
		}
		key := append([]byte(peerPrefix), b...)
		for _, p := range []nexusraft.Pair{{Key: peerKey(7), Value: b}, {Key: key, Value: []byte("{}")}} {
			if _, _, err := decodePeer(p); err != nil && !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("peer %q: got %v, want ErrCorrupt", p, err)
			}
		}
	})
}
