package witness

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/peering"
)

// identityRecord is what a data directory is and what it knows of peers, and its stored form, JSON.
// It is kept in a slots of its own. It is a value: what slices lead to is replaced, never changed.
type identityRecord struct {
	Node        nexusraft.NodeID      `json:"node"`
	Name        string                `json:"name,omitempty"`
	Incarnation nexusraft.Incarnation `json:"incarnation"`
	Cluster     nexusraft.ClusterID   `json:"cluster"` // 0: belongs to none yet
	Zones       []nexusraft.ZoneID    `json:"zones,omitempty"`
	Peers       []peerEntry           `json:"peers,omitempty"`
	Boots       []nexusraft.Boot      `json:"boots,omitempty"` // see peering.Identity
	Cert        []byte                `json:"cert,omitempty"`  // this and the next: see peering.Credentials
	Key         []byte                `json:"key,omitempty"`
	Files       bool                  `json:"files,omitempty"` // it has been served with certificates from files

	// See peering.Credentials.
	Roots  []byte   `json:"roots,omitempty"`
	Step   uint64   `json:"step,omitempty"`
	Former [][]byte `json:"former,omitempty"`

	// The zones besides the root zone, of which full nodes tell: those that were there as of a version
	// of the root zone's table of them. A zone that was made up to that version and is not hosted was
	// deleted, and is never made again (I12); 0: nothing is known.
	ZonesVersion uint64   `json:"zones_version,omitempty"`
	Hosted       zoneList `json:"hosted,omitempty"`
}

// peerEntry is the record of a peer.
type peerEntry struct {
	Node nexusraft.NodeID `json:"node"`
	peering.Peer
}

const (
	identityName = "identity"
	lockName     = "witness.lock"

	// maxPeers bounds the peers of all time: a node that is replaced never comes back.
	maxPeers = 1024
)

func parseIdentity(b []byte) (identityRecord, error) {
	var r identityRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return identityRecord{}, fmt.Errorf("%w: identity: %w", nexusraft.ErrCorrupt, err)
	}
	switch {
	case r.Node == 0 || r.Incarnation == 0:
		return identityRecord{}, fmt.Errorf("%w: identity has node %v and incarnation %d", nexusraft.ErrCorrupt, r.Node,
			r.Incarnation)
	case (r.Cluster == 0) != (len(r.Zones) == 0):
		return identityRecord{}, fmt.Errorf("%w: identity of cluster %v has %d zones", nexusraft.ErrCorrupt, r.Cluster,
			len(r.Zones))
	case r.ZonesVersion == 0 && len(r.Hosted) > 0:
		return identityRecord{}, fmt.Errorf("%w: identity has %d zones of no version", nexusraft.ErrCorrupt, len(r.Hosted))
	case len(r.Peers) > maxPeers:
		return identityRecord{}, fmt.Errorf("%w: identity has %d peers, limit %d", nexusraft.ErrCorrupt, len(r.Peers),
			maxPeers)
	}
	return r, nil
}

// tlsMode is how the directory was served last with TLS. With the cluster's own certificates the
// record has a key.
func (r *identityRecord) tlsMode() peering.TLSMode {
	switch {
	case r.Key != nil:
		return peering.ClustersOwn
	case r.Files:
		return peering.FromFiles
	}
	return peering.Plain
}

// apply makes a change.
func (r *identityRecord) apply(c peering.RecordChange) {
	if id := c.Identity; id != nil {
		r.Node, r.Name, r.Cluster, r.Incarnation, r.Boots = id.Node, id.Name, id.Cluster, id.Incarnation, id.Boots
	}
	if x := c.Credentials; x != nil {
		r.Cert, r.Key, r.Roots, r.Step, r.Former = x.Cert, x.Key, x.Roots, x.Step, x.Former
	}
	if c.Peer != nil {
		r.setPeer(peerEntry{c.Node, *c.Peer})
	}
	if c.TLSMode != nil {
		r.Files = r.Files || *c.TLSMode == peering.FromFiles
	}
	if c.Admission != nil {
		r.Zones = append(slices.Clone(r.Zones), c.Admission.Zone)
	}
}

// setPeer takes over the record of a peer.
func (r *identityRecord) setPeer(now peerEntry) {
	r.Peers = slices.Clone(r.Peers)
	i := slices.IndexFunc(r.Peers, func(p peerEntry) bool { return p.Node == now.Node })
	if i < 0 {
		r.Peers = append(r.Peers, now)
		return
	}
	r.Peers[i] = now
}

// keeper owns the identity record of an open data directory. Its methods may be called from many
// goroutines.
type keeper struct {
	fs  FS
	dir string

	mu      sync.Mutex // guards what follows
	slots   *slots     // nil: the directory has no identity yet
	record  identityRecord
	inSlots bool  // the zones besides the root zone are where an earlier release has left them
	failed  error // a failed sync is never retried (I9)
}

// openKeeper opens the identity record in dir. In a directory without one, exists is false, and the
// first update makes it.
func openKeeper(f FS, dir string) (k *keeper, exists bool, err error) {
	k = &keeper{fs: f, dir: dir}
	s, content, err := openSlots(f, dir, identityName)
	if isMissing(err) {
		return k, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("open identity: %w", err)
	}
	k.slots, k.inSlots = s, s.format == slotsFormat
	if k.record, err = parseIdentity(content); err != nil {
		return nil, false, fmt.Errorf("open %s: %w", s.path(slotOf(s.sequence)), err)
	}
	return k, true, nil
}

// update replaces the record by what change makes of it. It is on the disk when update returns.
func (k *keeper) update(change func(*identityRecord)) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failed != nil {
		return k.failed
	}
	r := k.record
	change(&r)
	content, err := json.Marshal(r)
	if err == nil {
		err = k.write(k.format(r), content)
	}
	if err != nil {
		k.failed = fmt.Errorf("write identity: %w", err)
		return k.failed
	}
	k.record = r
	return nil
}

// leaveSlots stores that the zones besides the root zone are in the journal.
func (k *keeper) leaveSlots() error {
	k.mu.Lock()
	k.inSlots = false
	k.mu.Unlock()
	return k.update(func(*identityRecord) {})
}

// format is the format version of a record's file.
func (k *keeper) format(r identityRecord) uint32 {
	switch {
	case r.ZonesVersion == 0:
		return firstFormat
	case k.inSlots:
		return slotsFormat
	}
	return journalFormat
}

func (k *keeper) write(format uint32, content []byte) (err error) {
	if k.slots != nil {
		k.slots.format = format
		return k.slots.store(content)
	}
	k.slots, err = createSlots(k.fs, k.dir, identityName, content)
	return err
}

// stored returns the record. Its slices must not be changed.
func (k *keeper) stored() identityRecord {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.record
}

func (k *keeper) bytes() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.slots.size()
}

// store is the witness's peering.RecordStore.
type store struct {
	*keeper
	witness *Witness
}

// Load implements peering.RecordStore.
func (s store) Load() (peering.Records, error) {
	r := s.stored()
	known := make(map[nexusraft.NodeID]peering.Peer)
	for _, p := range r.Peers {
		known[p.Node] = p.Peer
	}
	return peering.Records{
		Identity: peering.Identity{
			Node: r.Node, Name: r.Name, Cluster: r.Cluster, Incarnation: r.Incarnation, Boots: r.Boots,
		},
		Peers:       known,
		Credentials: peering.Credentials{Cert: r.Cert, Key: r.Key, Roots: r.Roots, Step: r.Step, Former: r.Former},
		TLSMode:     r.tlsMode(),
	}, nil
}

// Save implements peering.RecordStore. The witness ends if the record of a peer can't be stored.
func (s store) Save(c peering.RecordChange) error {
	if c == (peering.RecordChange{TLSMode: c.TLSMode}) && (*c.TLSMode != peering.FromFiles || s.stored().Files) {
		return nil // it says so already
	}
	var logs []*Log
	if c.Admission != nil { // the log is there before the record names its zone: one that is missing later is lost
		log, err := s.witness.createLog(c.Identity.Node, *c.Admission)
		if err != nil {
			return err
		}
		logs = []*Log{log}
	}
	err := s.update(func(r *identityRecord) { r.apply(c) })
	if err != nil && c.Peer != nil {
		s.witness.stop(err)
		return nexusraft.ErrClosed
	}
	if err == nil && logs != nil {
		s.witness.logs = logs
	}
	return err
}

// lock makes this process the only one that uses dir.
func lock(f FS, dir string) (func() error, error) {
	name := filepath.Join(dir, lockName)
	l, err := f.Lock(name)
	if errors.Is(err, errLocked) {
		return nil, fmt.Errorf("%w: %s is in use: %w; one witness at a time can use a data directory", nexusraft.ErrRefused,
			dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return l.Close, nil
}
