package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/storage"
)

// identity is what a data directory is, one record in the tree "node".
type identity struct {
	Node        nexusraft.NodeID      `json:"node"`
	Name        string                `json:"name,omitempty"`
	Cluster     nexusraft.ClusterID   `json:"cluster"` // 0: belongs to none yet
	Incarnation nexusraft.Incarnation `json:"incarnation"`
	Boots       []nexusraft.Boot      `json:"boots,omitempty"` // of this opening and those before, see transport.Identity
}

// The names of the store's trees. State trees are named by newStateTreeName.
const (
	nodeTree  = "node"
	raftTree  = "raft"
	statePart = "zone/"
)

var identityKey = []byte("identity")

// foundingIndex is the last index that a founder's log does not have. It is above 1, so
// that every joiner, the first included, starts by snapshot: one path, used in each run.
const (
	foundingIndex nexusraft.Index = 8
	foundingTerm  nexusraft.Term  = 1
)

func newStateTreeName(z nexusraft.ZoneID) string {
	return fmt.Sprintf("%s%v/%016x", statePart, z, nexusraft.MintID())
}

// loadIdentity returns the directory's identity and whether it has one.
func loadIdentity(t *storage.Tree) (id identity, ok bool, err error) {
	b, ok, err := t.Get(identityKey)
	if err != nil || !ok {
		return identity{}, false, err
	}
	id, err = decodeIdentity(b)
	return id, err == nil, err
}

func decodeIdentity(b []byte) (id identity, err error) {
	err = json.Unmarshal(b, &id)
	if err == nil && id.Node == 0 {
		err = errors.New("it names no node")
	}
	if err != nil {
		return identity{}, fmt.Errorf("%w: the node's identity record can't be read: %w", nexusraft.ErrCorrupt, err)
	}
	return id, nil
}

func stageIdentity(b *storage.Batch, t *storage.Tree, id identity) error {
	record, err := json.Marshal(id)
	if err != nil {
		return fmt.Errorf("encode identity: %w", err)
	}
	return b.Set(t, identityKey, record)
}

// Founded says what Init has made.
type Founded struct {
	Cluster nexusraft.ClusterID `json:"cluster"`
	Node    nexusraft.NodeID    `json:"node"`
	Name    string              `json:"name,omitempty"`

	// Admin is the credentials of the client "admin", PEM: certificate, private key, and the
	// cluster's authority. They are a secret, and are not to be had again.
	Admin []byte `json:"-"`
}

// Init founds a cluster: it makes the data directory, a node identity, and the root zone
// with this node as its only member. It is a one-off: it returns ErrRefused for a
// directory that has an identity already, and never changes one.
func Init(c Config) (_ Founded, err error) {
	if c, err = c.withDefaults(); err != nil {
		return Founded{}, fmt.Errorf("init: %w", err)
	}
	if _, err := checkDir(c); err != nil {
		return Founded{}, fmt.Errorf("init: %w", err)
	}
	keepPrivate(c)
	store, err := storage.Open(c.Dir, &c.Storage)
	if err != nil {
		return Founded{}, fmt.Errorf("init: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	trees, err := openTrees(store)
	if err != nil {
		return Founded{}, err
	}
	if id, ok, err := loadIdentity(trees.node); err != nil {
		return Founded{}, fmt.Errorf("init %s: %w", c.Dir, err)
	} else if ok {
		return Founded{}, fmt.Errorf("init: %w", alreadyHolds(c.Dir, id))
	}
	id := identity{
		Node: nexusraft.NodeID(nexusraft.MintID()), Name: c.Name,
		Cluster: nexusraft.ClusterID(nexusraft.MintID()),
	}
	admin, err := found(store, trees, id, c)
	if err != nil {
		return Founded{}, fmt.Errorf("init %s: %w", c.Dir, err)
	}
	return Founded{Cluster: id.Cluster, Node: id.Node, Name: id.Name, Admin: admin}, nil
}

func alreadyHolds(dir string, id identity) error {
	if id.Cluster == 0 {
		return fmt.Errorf("%w: %s already holds node %v, which was started to join a cluster; start it with serve --join ADDRESS, or clear the directory", nexusraft.ErrRefused, dir, id.Node)
	}
	return fmt.Errorf("%w: %s already holds node %v of cluster %v; start it with serve", nexusraft.ErrRefused, dir, id.Node, id.Cluster)
}

// witnessFile is in every data directory of a witness.
const witnessFile = "witness.lock"

// checkDir refuses a data directory that holds something else than a store, before anything
// in it is touched, and reports whether it holds a store.
func checkDir(c Config) (exists bool, err error) {
	exists, err = storage.Exists(c.Dir, &c.Storage)
	if foreign, ok := errors.AsType[*storage.ForeignError](err); ok && slices.Contains(foreign.Names, witnessFile) {
		return false, fmt.Errorf("%w: %s holds a witness: give it to nexus-witness, and this node a directory of its own", nexusraft.ErrRefused, c.Dir)
	}
	return exists, err
}

// found writes identity, root zone and authority in one synced batch, and returns Founded.Admin.
func found(store *storage.Store, trees trees, id identity, c Config) (admin []byte, err error) {
	replica := nexusraft.ReplicaID(nexusraft.MintID())
	state, err := store.Tree(newStateTreeName(nexusraft.RootZone))
	if err != nil {
		return nil, err
	}
	meta := raftlog.Meta{
		Replica: replica, StateTree: state.Name(),
		Compacted: foundingIndex, CompactedTerm: foundingTerm,
		ConfState: &raftpb.ConfState{Voters: []uint64{uint64(replica)}},
		Membership: nexusraft.Membership{Shape: nexusraft.DefaultShape}.With(nexusraft.Member{
			Replica: replica, Node: id.Node, Name: id.Name, Address: c.Advertise, Role: nexusraft.RoleMember,
		}),
	}
	hs := &raftpb.HardState{Term: new(uint64(foundingTerm)), Vote: new(uint64(0)), Commit: new(uint64(foundingIndex))}
	b := store.NewBatch()
	defer b.Close()
	if err := raftlog.Create(b, trees.raft, nexusraft.RootZone, meta, hs, foundingIndex); err != nil {
		return nil, err
	}
	if err := stageIdentity(b, trees.node, id); err != nil {
		return nil, err
	}
	if admin, err = foundSecurity(b, trees, state, id, c.Clock()); err != nil {
		return nil, err
	}
	return admin, b.Commit(true)
}

// trees are the store's fixed trees.
type trees struct {
	node, raft *storage.Tree
}

func openTrees(s *storage.Store) (t trees, err error) {
	if t.node, err = s.Tree(nodeTree); err != nil {
		return t, fmt.Errorf("open tree %s: %w", nodeTree, err)
	}
	if t.raft, err = s.Tree(raftTree); err != nil {
		return t, fmt.Errorf("open tree %s: %w", raftTree, err)
	}
	return t, nil
}
