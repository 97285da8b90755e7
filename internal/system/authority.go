package system

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// The root zone keeps the cluster's authority, and replaces it in three steps. From the first one
// on the new authority is believed beside the old one, and signs for clients. Once every node
// believes it, the second step has it sign for nodes, too, which renew their certificates, and
// deletes the old one's key. Once every node shows a certificate of the new one, the third step
// ends the old one. A step that came too early would cut off the nodes that are not ready: the node
// that proposes one asks all of them first. Each step is one command, so that a leader that crashes
// leaves nothing half done.

var authorityKey = []byte{Prefix, 's', 'a'}

// MaxAuthorityBytes bounds a new authority: its certificate and its key, PEM. Two certificates must
// fit into what nodes tell each other. Changing it changes history.
const MaxAuthorityBytes = 8 << 10

// Phase returns how far the replacement of an authority is.
func Phase(a *pb.Authority) nexusraft.AuthorityPhase {
	switch {
	case len(a.GetNextCertificate()) > 0:
		return nexusraft.AuthorityBelieved
	case len(a.GetFormerCertificate()) > 0:
		return nexusraft.AuthoritySigns
	}
	return nexusraft.AuthorityAlone
}

// Believed returns the authorities that the nodes are to believe by a record, PEM, that of the one
// that signs for nodes first.
func Believed(a *pb.Authority) []byte {
	return slices.Concat(a.GetCertificate(), a.GetNextCertificate(), a.GetFormerCertificate())
}

// SignerOfNodes returns what signs for nodes.
func SignerOfNodes(a *pb.Authority) pki.Pair {
	return pki.Pair{Cert: a.GetCertificate(), Key: a.GetKey()}
}

// SignerOfClients returns what signs for clients: they need certificates of the new authority
// before the old one ends.
func SignerOfClients(a *pb.Authority) pki.Pair {
	if Phase(a) == nexusraft.AuthorityBelieved {
		return pki.Pair{Cert: a.GetNextCertificate(), Key: a.GetNextKey()}
	}
	return SignerOfNodes(a)
}

// Authority returns the record of the cluster's authority; ErrNoAuthority if there is none.
func Authority(r nexusraft.Reader) (*pb.Authority, error) {
	b, ok, err := r.Get(authorityKey)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, ErrNoAuthority
	}
	a := &pb.Authority{}
	if err := proto.Unmarshal(b, a); err != nil {
		return nil, fmt.Errorf("%w: the cluster's authority can't be read", nexusraft.ErrCorrupt)
	}
	return a, nil
}

const authorityRecord = "the cluster's authority"

// ErrNoAuthority: the cluster has no authority of its own.
var ErrNoAuthority = fmt.Errorf("%w: the cluster has no certificate authority of its own, because it was founded by "+
	"an earlier release: give its nodes certificates with --tls-cert, --tls-key and --tls-ca", nexusraft.ErrRefused)

// applyRotateAuthority takes one step. The join tokens end with the last two: they name the old
// authority, and a thief of its key has, from the same disk, what is kept of their secrets.
func applyRotateAuthority(base nexusraft.ReadWriter, c *pb.RotateAuthority) error {
	a, err := Authority(base)
	if err != nil {
		return err
	}
	if err := checkRotation(a, c); err != nil {
		return err
	}
	phase := Phase(a)
	switch phase {
	case nexusraft.AuthorityAlone:
		a.NextCertificate, a.NextKey = c.GetCertificate(), c.GetKey()
	case nexusraft.AuthorityBelieved:
		a.FormerCertificate = a.GetCertificate()
		a.Certificate, a.Key, a.NextCertificate, a.NextKey = a.GetNextCertificate(), a.GetNextKey(), nil, nil
	case nexusraft.AuthoritySigns:
		a.FormerCertificate = nil
	}
	a.Step = c.GetStep()
	if err := set(base, authorityKey, a, authorityRecord); err != nil || phase == nexusraft.AuthorityAlone {
		return err
	}
	return deleteJoinTokens(base)
}

func checkRotation(a *pb.Authority, c *pb.RotateAuthority) error {
	given := len(c.GetCertificate()) > 0 && len(c.GetKey()) > 0
	switch {
	case c.GetStep() != a.GetStep()+1:
		return fmt.Errorf("%w: the authority's rotation is at step %d, and step %d does not follow: somebody else has "+
			"taken one",
			nexusraft.ErrRefused, a.GetStep(), c.GetStep())
	case given != (Phase(a) == nexusraft.AuthorityAlone):
		return fmt.Errorf("%w: a new authority is for the first step of a rotation", nexusraft.ErrRefused)
	case len(c.GetCertificate())+len(c.GetKey()) > MaxAuthorityBytes:
		return fmt.Errorf("%w: the new authority has %d bytes", nexusraft.ErrTooLarge,
			len(c.GetCertificate())+len(c.GetKey()))
	}
	return nil
}

func deleteJoinTokens(base nexusraft.ReadWriter) error {
	tokens, err := JoinTokens(base)
	for _, t := range tokens {
		err = errors.Join(err, base.Delete(joinTokenKey(t.GetId())))
	}
	return err
}

// describeRotation says for the log what a step has changed.
func describeRotation(c *pb.RotateAuthority) string {
	if len(c.GetCertificate()) > 0 {
		sum, _ := pki.Fingerprint(c.GetCertificate())
		return fmt.Sprintf("authority %x is believed, too, step %d of rotations", sum[:8], c.GetStep())
	}
	return fmt.Sprintf("step %d of the authority's rotations is taken, and all join tokens are taken back", c.GetStep())
}
