package authority

import (
	"errors"
	"fmt"
	"strings"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/peering"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/internal/system"
)

// adminLife is how long the certificate of the founding admin is good. Nothing renews it, and without
// it no token could be made: it is good for as long as the authority.
const adminLife = 10 * 366 * 24 * time.Hour

// Founding is what a new cluster begins with.
type Founding struct {
	State       []nexusraft.Pair    // of the root zone: the authority, and the record of the founding admin
	Credentials peering.Credentials // of the founding node
	Admin       []byte              // the founding admin's, PEM: certificate, private key, authority
}

// Found makes the authority of a new cluster, and what it signs at once.
func Found(cluster nexusraft.ClusterID, node nexusraft.NodeID, now time.Time) (f Founding, err error) {
	ca, err := pki.NewCA(cluster, now)
	if err != nil {
		return Founding{}, err
	}
	if f.State, err = system.Founding(ca); err != nil {
		return Founding{}, err
	}
	own, err := nodePair(ca, pki.Subject{Cluster: cluster, Node: node}, now)
	if err != nil {
		return Founding{}, err
	}
	f.Credentials = peering.Credentials{Cert: own.Cert, Key: own.Key}
	client, err := signedPair(ca, pki.Subject{Cluster: cluster, Client: system.FoundingAdmin}, now, adminLife)
	f.Admin = pki.Bundle{Pair: client, Roots: ca.Cert}.PEM()
	return f, err
}

// Recover returns new credentials of a client that has a role, like Founding.Admin, by the root
// zone's state alone; see node.RecoverAccess. ErrRefused for a name without a role, with those that
// may give roles.
func Recover(
	state nexusraft.Reader, cluster nexusraft.ClusterID, name string, now time.Time, life time.Duration,
) (credentials []byte, err error) {
	all, err := system.Principals(state)
	if err != nil {
		return nil, err
	}
	if system.FindPrincipal(all, name) == nil {
		return nil, fmt.Errorf("%w: %q has no role; those who may give roles are: %s", nexusraft.ErrRefused, name,
			strings.Join(admins(all), ", "))
	}
	a, err := system.Authority(state)
	if err != nil {
		return nil, err
	}
	own, err := signedPair(system.SignerOfClients(a), pki.Subject{Cluster: cluster, Client: name}, now, life)
	if err != nil {
		return nil, err
	}
	return pki.Bundle{Pair: own, Roots: believedBy(a).Certificates}.PEM(), nil
}

func admins(all []*pb.Principal) (names []string) {
	for _, p := range all {
		if system.GivesRoles(p) {
			names = append(names, p.GetName())
		}
	}
	return names
}

// CheckClient returns ErrRefused for what can't be a client's name, and for a life of a certificate or
// token that is too long.
func CheckClient(name string, life time.Duration) error {
	return errors.Join(checkAccessLife(life), pki.ValidateClient(name))
}
