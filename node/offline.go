package node

import (
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authority"
	"github.com/nexi-lab/nexus-raft/internal/datadir"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/storage"
)

// This file has what is done to a data directory while its node does not run.

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
	if _, err := datadir.Exists(c.Dir, &c.Storage); err != nil {
		return Founded{}, fmt.Errorf("init: %w", err)
	}
	datadir.KeepPrivate(c.Dir, &c.Storage, c.Logger)
	dir, err := datadir.Open(c.Dir, &c.Storage)
	if err != nil {
		return Founded{}, fmt.Errorf("init: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if id, ok, err := dir.Identity(); err != nil {
		return Founded{}, fmt.Errorf("init %s: %w", c.Dir, err)
	} else if ok {
		return Founded{}, fmt.Errorf("init: %w", alreadyHolds(c.Dir, id))
	}
	f, err := found(dir, c)
	if err != nil {
		return Founded{}, fmt.Errorf("init %s: %w", c.Dir, err)
	}
	return f, nil
}

func found(dir *datadir.Dir, c Config) (Founded, error) {
	id := peering.Identity{
		Node: nexusraft.NodeID(nexusraft.MintID()), Name: c.Name,
		Cluster: nexusraft.ClusterID(nexusraft.MintID()),
	}
	begins, err := authority.Found(id.Cluster, id.Node, c.Clock())
	if err != nil {
		return Founded{}, err
	}
	f := Founded{Cluster: id.Cluster, Node: id.Node, Name: id.Name, Admin: begins.Admin}
	return f, dir.Found(id, c.Advertise, begins)
}

func alreadyHolds(dir string, id peering.Identity) error {
	if id.Cluster == 0 {
		return fmt.Errorf("%w: %s already holds node %v, which was started to join a cluster; start it with serve --join "+
			"ADDRESS, or clear the directory", nexusraft.ErrRefused, dir, id.Node)
	}
	return fmt.Errorf("%w: %s already holds node %v of cluster %v; start it with serve", nexusraft.ErrRefused, dir,
		id.Node, id.Cluster)
}

// RecoverAccess returns the credentials of a client that has a role, as Init returns those of the
// first one: for an operator whose admins have lost theirs. It reads Config.Dir, the data directory
// of a member that does not run, and changes nothing; an operator that can read that could do this
// without us, since the authority's key is there. The certificate is good for life, at most 366
// days.
//
// Errors: ErrRefused for a name without a role, with those that may give roles, for a directory
// that is in use, and where the cluster has no authority of its own; ErrNotFounded for one that is
// no member's.
func RecoverAccess(c Config, name string, life time.Duration) (credentials []byte, err error) {
	if err := authority.CheckClient(name, life); err != nil {
		return nil, fmt.Errorf("recover access: %w", err)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	c.Storage.ReadOnly, c.Storage.Logger = true, c.Logger
	dir, err := openExisting(c)
	if err != nil {
		return nil, fmt.Errorf("recover access: %w", err)
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	err = dir.ReadRoot(func(cluster nexusraft.ClusterID, state nexusraft.Reader) (err error) {
		credentials, err = authority.Recover(state, cluster, name, c.Clock(), life)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("recover access from %s: %w", c.Dir, err)
	}
	return credentials, nil
}

// openExisting opens the data directory of a node that does not run.
func openExisting(c Config) (*datadir.Dir, error) {
	exists, err := datadir.Exists(c.Dir, &c.Storage)
	if err != nil {
		return nil, err
	}
	if !exists {
		return nil, notFounded(c.Dir)
	}
	return datadir.Open(c.Dir, &c.Storage)
}

// ForgetLives makes the data directory of a node that does not run forget which openings of its
// peers it has seen, and keeps their addresses: it is for a peer that it refuses for good although
// no directory was copied or put back. If one was, a write or a vote that was acknowledged can be
// lost. It returns of how many peers it has forgotten something.
//
// Errors: ErrRefused for a directory that is in use or a witness's; ErrNotFounded for one that is
// no node's.
func ForgetLives(c Config) (forgotten int, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("forget lives: %w", err)
		}
	}()
	c.Storage.Logger = c.Logger
	dir, err := openExisting(c)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	_, ok, err := dir.Identity()
	if err == nil && !ok {
		err = notFounded(c.Dir)
	}
	if err != nil {
		return 0, err
	}
	return dir.ForgetLives()
}

// Holder returns the node whose data directory a store is, and whether it is a node's at all.
// Such a store may be read, but nobody else must write to it: its replicas would no longer
// equal those of other nodes (I4). It looks for a record of the node's identity, and changes
// nothing; if that can't be read, it returns nexusraft.ErrCorrupt.
func Holder(s *storage.Store) (nexusraft.NodeID, bool, error) { return datadir.Holder(s) }
