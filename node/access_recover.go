package node

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/raftlog"
	"github.com/nexi-lab/nexus-raft/storage"
)

// RecoverAccess returns the credentials of a client that has a role, as Init returns those of the first one: for an
// operator whose admins have lost theirs. It reads Config.Dir, the data directory of a member that does not run,
// and changes nothing; who can read that can do this without us, since the authority's key is there. The
// certificate is good for life, at most 366 days.
//
// Errors: ErrRefused for a name without a role, with those that may give roles, for a directory that
// is in use, and where the cluster has no authority of its own; ErrNotFounded for one that is no member's.
func RecoverAccess(c Config, name string, life time.Duration) (credentials []byte, err error) {
	if err := errors.Join(checkAccessLife(life), pki.ValidateClient(name)); err != nil {
		return nil, fmt.Errorf("recover access: %w", err)
	}
	if c.Clock == nil {
		c.Clock = time.Now
	}
	c.Storage.ReadOnly, c.Storage.Logger = true, c.Logger
	exists, err := checkDir(c)
	if err == nil && !exists {
		err = notFounded(c.Dir)
	}
	if err != nil {
		return nil, fmt.Errorf("recover access: %w", err)
	}
	store, err := storage.Open(c.Dir, &c.Storage)
	if err != nil {
		return nil, fmt.Errorf("recover access: %w", err)
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if credentials, err = recoverAccess(store, c, name, life); err != nil {
		return nil, fmt.Errorf("recover access from %s: %w", c.Dir, err)
	}
	return credentials, nil
}

func recoverAccess(store *storage.Store, c Config, name string, life time.Duration) ([]byte, error) {
	id, state, err := openRootState(store)
	if err != nil {
		return nil, err
	}
	snap := store.NewSnapshot()
	defer snap.Close()
	reader := snap.Reader(state)
	all, err := readPrincipals(reader)
	if err != nil {
		return nil, err
	}
	if find(all, name) == nil {
		return nil, fmt.Errorf("%w: %q has no role; those who may give roles are: %s", nexusraft.ErrRefused, name, strings.Join(admins(all), ", "))
	}
	ca, err := readAuthority(reader)
	if err != nil {
		return nil, err
	}
	own, err := signedPair(ca, pki.Subject{Cluster: id.Cluster, Client: name}, c.Clock(), life)
	if err != nil {
		return nil, err
	}
	return pki.Bundle{Pair: pki.Pair(own), Roots: ca.Cert}.PEM(), nil
}

// openRootState returns whose store it is and the root zone's state in it.
func openRootState(store *storage.Store) (id identity, state *storage.Tree, err error) {
	trees, err := openTrees(store)
	if err != nil {
		return id, nil, err
	}
	id, ok, err := loadIdentity(trees.node)
	if err != nil {
		return id, nil, err
	}
	if !ok || id.Cluster == 0 {
		return id, nil, fmt.Errorf("%w: its node has not joined one yet", nexusraft.ErrNotFounded)
	}
	log, err := raftlog.Open(trees.raft, nexusraft.RootZone)
	if err != nil {
		return id, nil, fmt.Errorf("open the log of the root zone: %w", err)
	}
	state, ok, err = store.OpenTree(log.Meta().StateTree)
	if err == nil && !ok {
		err = fmt.Errorf("%w: the root zone has no state", nexusraft.ErrCorrupt)
	}
	return id, state, err
}

func admins(all []*pb.Principal) (names []string) {
	for _, p := range all {
		if givesRoles(p) {
			names = append(names, p.GetName())
		}
	}
	return names
}

// readAuthority returns the cluster's authority.
func readAuthority(r nexusraft.Reader) (pki.Pair, error) {
	b, ok, err := r.Get(authorityKey)
	if err != nil {
		return pki.Pair{}, err
	}
	if !ok {
		return pki.Pair{}, errNoAuthority
	}
	a := &pb.Authority{}
	if err := proto.Unmarshal(b, a); err != nil {
		return pki.Pair{}, fmt.Errorf("%w: the cluster's authority can't be read", nexusraft.ErrCorrupt)
	}
	return pki.Pair{Cert: a.GetCertificate(), Key: a.GetKey()}, nil
}
