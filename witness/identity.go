package witness

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// identity is what a data directory is, and its stored form, JSON. It is kept in a slots
// of its own.
type identity struct {
	Node        nexusraft.NodeID      `json:"node"`
	Name        string                `json:"name,omitempty"`
	Incarnation nexusraft.Incarnation `json:"incarnation"`
	Cluster     nexusraft.ClusterID   `json:"cluster"` // 0: belongs to none yet
	Zones       []nexusraft.ZoneID    `json:"zones,omitempty"`
	Peers       []peerRecord          `json:"peers,omitempty"`
	Boots       []nexusraft.Boot      `json:"boots,omitempty"` // of this opening and those before, see transport.Identity
	Cert        []byte                `json:"cert,omitempty"`  // PEM, the cluster's authority last; see Config.ClusterTLS
	Key         []byte                `json:"key,omitempty"`   // PEM, of Cert: it never leaves the directory
}

// peerRecord is the latest life that was seen of a peer, and where it was then.
type peerRecord struct {
	Node nexusraft.NodeID `json:"node"`
	transport.Life
	Address string `json:"address"`
}

const (
	identityName = "identity"
	lockName     = "witness.lock"

	// maxPeers bounds the peers of all time: a node that is replaced never comes back.
	maxPeers = 1024
)

func decodeIdentity(b []byte) (identity, error) {
	var id identity
	if err := json.Unmarshal(b, &id); err != nil {
		return identity{}, fmt.Errorf("%w: identity: %w", nexusraft.ErrCorrupt, err)
	}
	switch {
	case id.Node == 0 || id.Incarnation == 0:
		return identity{}, fmt.Errorf("%w: identity has node %v and incarnation %d", nexusraft.ErrCorrupt, id.Node, id.Incarnation)
	case (id.Cluster == 0) != (len(id.Zones) == 0):
		return identity{}, fmt.Errorf("%w: identity of cluster %v has %d zones", nexusraft.ErrCorrupt, id.Cluster, len(id.Zones))
	case len(id.Peers) > maxPeers:
		return identity{}, fmt.Errorf("%w: identity has %d peers, limit %d", nexusraft.ErrCorrupt, len(id.Peers), maxPeers)
	}
	return id, nil
}

// addressOf returns where a node was last seen, or fallback.
func (id identity) addressOf(node nexusraft.NodeID, fallback string) string {
	for _, p := range id.Peers {
		if p.Node == node && p.Address != "" {
			return p.Address
		}
	}
	return fallback
}

// keeper owns the identity of an open data directory. What it answers is on the disk.
// Its methods may be called from many goroutines.
type keeper struct {
	mu     sync.Mutex // guards what follows
	slots  *slots
	id     identity
	failed error
}

// openIdentity opens the identity in dir, with a new incarnation that is on the disk when
// it returns (invariant I5). A directory without one gets one if mint is true; otherwise
// the error is fs.ErrNotExist.
func openIdentity(f FS, dir, name string, mint bool) (*keeper, error) {
	s, content, err := openSlots(f, dir, identityName)
	switch {
	case isMissing(err) && mint:
		return mintIdentity(f, dir, name)
	case err != nil:
		return nil, fmt.Errorf("open identity: %w", err)
	}
	id, err := decodeIdentity(content)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", s.path(slotOf(s.sequence)), err)
	}
	k := &keeper{slots: s, id: id}
	id.Incarnation++
	id.Boots = transport.NewBoot(id.Boots)
	if name != "" {
		id.Name = name
	}
	return k, k.save(id)
}

func mintIdentity(f FS, dir, name string) (*keeper, error) {
	id := identity{Node: nexusraft.NodeID(nexusraft.MintID()), Name: name, Incarnation: 1, Boots: transport.NewBoot(nil)}
	content, err := json.Marshal(id)
	if err != nil {
		return nil, fmt.Errorf("encode identity: %w", err)
	}
	s, err := createSlots(f, dir, identityName, content)
	if err != nil {
		return nil, fmt.Errorf("create identity: %w", err)
	}
	return &keeper{slots: s, id: id}, nil
}

// save replaces the identity; k.mu is held, or k not shared yet.
func (k *keeper) save(id identity) error {
	if k.failed != nil {
		return k.failed
	}
	content, err := json.Marshal(id)
	if err == nil {
		err = k.slots.store(content)
	}
	if err != nil {
		k.failed = fmt.Errorf("write identity: %w", err)
		return k.failed
	}
	k.id = id
	return nil
}

// identity returns what is on the disk. Its slices must not be changed.
func (k *keeper) identity() identity {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.id
}

func (k *keeper) bytes() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.slots.size()
}

// admitted records the cluster that has taken this node in, its zone there, and the
// certificate if it has asked for one. The zone's log exists by then.
func (k *keeper) admitted(cluster nexusraft.ClusterID, zone nexusraft.ZoneID, cert, key []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := k.id
	id.Cert, id.Key = cert, key
	id.Cluster, id.Zones = cluster, append(slices.Clone(id.Zones), zone)
	return k.save(id)
}

// renewed records a new certificate.
func (k *keeper) renewed(cert, key []byte) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	id := k.id
	id.Cert, id.Key = cert, key
	return k.save(id)
}

// met records what a peer says of itself. It returns ErrFenced for one that can't be the
// node that was seen before, whoever the peer claims to be: its disk was cloned or rolled
// back, and what it once acknowledged may be gone. fatal tells an error of this node's disk
// from a refusal.
func (k *keeper) met(peer transport.Identity) (err error, fatal bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := peerRecord{peer.Node, transport.LifeOf(peer), peer.Address}
	i := slices.IndexFunc(k.id.Peers, func(p peerRecord) bool { return p.Node == peer.Node })
	switch {
	case i < 0 && len(k.id.Peers) >= maxPeers:
		return fmt.Errorf("%w: witness %v knows %d nodes already and takes no more", nexusraft.ErrRefused, k.id.Node, maxPeers), false
	case i >= 0 && k.id.Peers[i] == now:
		return nil, false
	case i >= 0:
		if err := k.id.Peers[i].Check(peer); err != nil {
			return err, false
		}
	}
	id := k.id
	id.Peers = slices.Clone(id.Peers)
	if i < 0 {
		id.Peers = append(id.Peers, now)
	} else {
		id.Peers[i] = now
	}
	if err := k.save(id); err != nil {
		return err, true
	}
	return nil, false
}

// lock makes this process the only one that uses dir.
func lock(f FS, dir string) (func() error, error) {
	name := filepath.Join(dir, lockName)
	l, err := f.Lock(name)
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("%w: %s is in use: %w; one witness at a time can use a data directory", nexusraft.ErrRefused, dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return l.Close, nil
}
