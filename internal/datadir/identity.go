package datadir

import (
	"encoding/json"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/storage"
)

// storedIdentity is what a data directory is, one record in the tree "node".
type storedIdentity struct {
	peering.Identity

	// how it was last served with TLS; never taken back
	TLS peering.TLSMode `json:"tls,omitempty"`
}

var identityKey = []byte("identity")

// Identity returns the identity of the directory's node, and whether it has one.
func (d *Dir) Identity() (peering.Identity, bool, error) {
	id, ok, err := loadIdentity(d.node)
	return id.Identity, ok, err
}

// loadIdentity returns the directory's identity and whether it has one.
func loadIdentity(t *storage.Tree) (id storedIdentity, ok bool, err error) {
	b, ok, err := t.Get(identityKey)
	if err != nil || !ok {
		return storedIdentity{}, false, err
	}
	id, err = decodeIdentity(b)
	return id, err == nil, err
}

func decodeIdentity(b []byte) (id storedIdentity, err error) {
	err = json.Unmarshal(b, &id)
	if err == nil && id.Node == 0 {
		err = errors.New("it names no node")
	}
	if err != nil {
		return storedIdentity{}, fmt.Errorf("%w: the node's identity record can't be read: %w", nexusraft.ErrCorrupt, err)
	}
	return id, nil
}

func stageIdentity(b *storage.Batch, t *storage.Tree, id storedIdentity) error {
	record, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	return b.Set(t, identityKey, record)
}
