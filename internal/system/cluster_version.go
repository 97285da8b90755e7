package system

import (
	"encoding/binary"
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
)

// The root zone keeps the cluster's version: the minor version of the protocol that all of its nodes
// speak, members, learners and witnesses. A cluster is founded with the one that is known then, and it is raised
// when what a later one brought is wanted, and each node has said that it speaks that; it is never lowered,
// and a node that speaks a lower one is not let in. What a later version brought is refused until then, the
// same on every replica, so that no node of an earlier release meets it.
var clusterVersionKey = []byte{Prefix, 's', 'v'}

// ZonesVersion is the cluster's version from which on there are zones besides the root zone. Clusters
// whose version is not stored have the one before.
const ZonesVersion = 4

// BatchVersion is the one from which on an entry of a zone's log may carry several commands.
const BatchVersion = 6

// NamedPlaceVersion is the one from which on a change of a zone's placement may say which node takes the place of
// the one that leaves.
const NamedPlaceVersion = 6

// NewestVersion is the highest one that there is: what clusters are founded with, and what their version
// rises to once all of their nodes speak it.
const NewestVersion = BatchVersion

// ClusterVersion returns the cluster's version.
func ClusterVersion(r nexusraft.Reader) (uint32, error) {
	b, ok, err := r.Get(clusterVersionKey)
	switch {
	case err != nil:
		return 0, err
	case !ok:
		return ZonesVersion - 1, nil
	case len(b) != 4:
		return 0, fmt.Errorf("%w: the cluster's version has %d bytes", nexusraft.ErrCorrupt, len(b))
	}
	return binary.BigEndian.Uint32(b), nil
}

// applyRaiseClusterVersion does nothing if the version is as high already: two leaders may raise it. Each
// node knows digests from here on, so that the root zone begins its own.
func applyRaiseClusterVersion(base nexusraft.ReadWriter, c *pb.RaiseClusterVersion) error {
	now, err := ClusterVersion(base)
	if err != nil || c.GetMinor() <= now {
		return err
	}
	if now < ZonesVersion {
		begin := FoundingDigest()
		if err := base.Set(begin.Key, begin.Value); err != nil {
			return err
		}
	}
	return base.Set(clusterVersionKey, binary.BigEndian.AppendUint32(nil, c.GetMinor()))
}

// requireVersion refuses what a later version of the cluster brings.
func requireVersion(r nexusraft.Reader, least uint32, what string) error {
	now, err := ClusterVersion(r)
	if err != nil || now >= least {
		return err
	}
	return fmt.Errorf("%w: %s need a cluster of version %d, and this one has %d: run the newest release on all nodes",
		nexusraft.ErrRefused, what, least, now)
}
