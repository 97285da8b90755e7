package system

import (
	"encoding/binary"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// Founding returns what the root zone of a new cluster begins with: its authority, the founding
// admin, the version that only nodes which speak it are let in, and the zone's digest.
func Founding(ca pki.Pair) ([]nexusraft.Pair, error) {
	authority, err := encode(&pb.Authority{Certificate: ca.Cert, Key: ca.Key}, authorityRecord)
	if err != nil {
		return nil, err
	}
	admin, err := encode(founding(), principalRecord)
	if err != nil {
		return nil, err
	}
	return []nexusraft.Pair{
		{Key: authorityKey, Value: authority},
		{Key: principalKey(FoundingAdmin), Value: admin},
		{Key: clusterVersionKey, Value: binary.BigEndian.AppendUint32(nil, NewestVersion)},
		FoundingDigest(),
	}, nil
}
