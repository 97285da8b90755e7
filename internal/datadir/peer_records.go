package datadir

import (
	"encoding/json"
	"errors"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/storage"
	"github.com/nexi-lab/nexus-raft/transport"
)

var certificateKey = []byte("certificate")

const peerPrefix = "peer/"

func peerKey(id nexusraft.NodeID) []byte { return []byte(peerPrefix + id.String()) }

var _ peering.RecordStore = (*Dir)(nil)

// Load implements peering.RecordStore.
func (d *Dir) Load() (all peering.Records, err error) {
	id, _, err := loadIdentity(d.node)
	if err != nil {
		return all, err
	}
	all.Identity = id.Identity
	if all.Peers, err = loadPeers(d.node); err != nil {
		return all, err
	}
	if all.Credentials, err = loadCredentials(d.node); err != nil {
		return all, err
	}
	all.TLSMode, err = servedBefore(id, all.Credentials)
	return all, err
}

// Save implements peering.RecordStore. A change is one synced batch.
func (d *Dir) Save(c peering.RecordChange) error {
	b := d.Store.NewBatch()
	defer b.Close()
	b.UseReserve() // a node opens, meets its peers and renews its certificate on a full disk, too
	if err := d.stage(b, c); err != nil {
		return err
	}
	if err := b.Commit(true); err != nil {
		return fmt.Errorf("store the node's records: %w", err)
	}
	return nil
}

func (d *Dir) stage(b *storage.Batch, c peering.RecordChange) error {
	if c.Identity != nil || c.TLSMode != nil {
		id, _, err := loadIdentity(d.node)
		if err != nil {
			return err
		}
		if c.Identity != nil {
			id.Identity = *c.Identity
		}
		if c.TLSMode != nil && *c.TLSMode != peering.Plain {
			id.TLS = *c.TLSMode
		}
		if err := stageIdentity(b, d.node, id); err != nil {
			return err
		}
	}
	if c.Peer != nil {
		if err := stagePeer(b, d.node, c.Node, *c.Peer); err != nil {
			return err
		}
	}
	if c.Credentials != nil {
		if err := stageCredentials(b, d.node, *c.Credentials); err != nil {
			return err
		}
	}
	if c.Admission != nil {
		return d.stageReplica(b, *c.Admission)
	}
	return nil
}

func (d *Dir) stageReplica(b *storage.Batch, j transport.JoinResult) error {
	state, err := d.Store.Tree(NewStateTreeName(j.Zone))
	if err != nil {
		return err
	}
	return raftlog.Create(b, d.Raft, j.Zone, raftlog.Meta{
		Replica: j.Replica, StateTree: state.Name(), Membership: j.Membership,
	}, nil, 0)
}

func loadPeers(t *storage.Tree) (map[nexusraft.NodeID]peering.Peer, error) {
	out := make(map[nexusraft.NodeID]peering.Peer)
	for p, err := range t.Scan([]byte(peerPrefix), []byte(peerPrefix+"g")) {
		if err != nil {
			return nil, err
		}
		id, r, err := decodePeer(p)
		if err != nil {
			return nil, err
		}
		out[id] = r
	}
	return out, nil
}

func decodePeer(p nexusraft.Pair) (id nexusraft.NodeID, r peering.Peer, err error) {
	if err := id.UnmarshalText(p.Key[len(peerPrefix):]); err != nil {
		return 0, peering.Peer{}, fmt.Errorf("%w: peer record %q: %w", nexusraft.ErrCorrupt, p.Key, err)
	}
	if err := json.Unmarshal(p.Value, &r); err != nil {
		return 0, peering.Peer{}, fmt.Errorf("%w: record of peer %v: %w", nexusraft.ErrCorrupt, id, err)
	}
	return id, r, nil
}

func stagePeer(b *storage.Batch, t *storage.Tree, id nexusraft.NodeID, p peering.Peer) error {
	record, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode record of peer %v: %w", id, err)
	}
	return b.Set(t, peerKey(id), record)
}

func loadCredentials(t *storage.Tree) (c peering.Credentials, err error) {
	record, ok, err := t.Get(certificateKey)
	if err != nil || !ok {
		return peering.Credentials{}, err
	}
	if json.Unmarshal(record, &c) != nil {
		return peering.Credentials{}, fmt.Errorf("%w: the record of the node's certificate can't be read",
			nexusraft.ErrCorrupt)
	}
	return c, nil
}

func stageCredentials(b *storage.Batch, t *storage.Tree, c peering.Credentials) error {
	record, err := json.Marshal(c)
	if err != nil {
		return errors.New("encode the node's certificate")
	}
	return b.Set(t, certificateKey, record)
}

// servedBefore returns how the directory has been served with TLS. Earlier releases did not note
// it: there it has been if it holds a certificate of the cluster, but for a founder's first one,
// which init makes in any case.
func servedBefore(id storedIdentity, c peering.Credentials) (peering.TLSMode, error) {
	if id.TLS != peering.Plain || c.Cert == nil {
		return id.TLS, nil
	}
	chain, err := pki.Certificates(c.Cert)
	if err != nil {
		return "", fmt.Errorf("%w: the node's certificate: %w", nexusraft.ErrCorrupt, err)
	}
	if chain[0].NotBefore.Equal(chain[len(chain)-1].NotBefore) { // made in one moment with the authority
		return peering.Plain, nil
	}
	return peering.ClustersOwn, nil
}
