package pki

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Verify returns the subject of a chain, leaf first, that the other side of a connection shows, if
// it is valid under roots at the time now, for the usage given. Host names play no part: a
// certificate names the node, and the node's address may change any time.
//
// The errors match ErrRefused and say what is wrong and the way out.
func Verify(chain []*x509.Certificate, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) (Subject, error) {
	if len(chain) == 0 {
		return Subject{}, fmt.Errorf("%w: the other side shows no certificate", nexusraft.ErrRefused)
	}
	if roots == nil {
		return Subject{}, fmt.Errorf("%w: no CA is known that could vouch for a certificate", nexusraft.ErrRefused)
	}
	s, err := SubjectOf(chain[0])
	if err != nil {
		return Subject{}, err
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage},
	})
	if err != nil {
		return Subject{}, explain(s, err, now)
	}
	return s, nil
}

// explain says what is wrong with the certificate of s.
func explain(s Subject, err error, now time.Time) error {
	invalid, isInvalid := errors.AsType[x509.CertificateInvalidError](err)
	switch {
	case isInvalid && invalid.Reason == x509.Expired && now.After(invalid.Cert.NotAfter):
		return &DatesError{fmt.Sprintf("%s %v expired %v ago; renew it, or correct the clock of this machine if that is "+
			"wrong", whose(invalid.Cert), s, now.Sub(invalid.Cert.NotAfter).Round(time.Second))}
	case isInvalid && invalid.Reason == x509.Expired:
		return &DatesError{fmt.Sprintf("%s %v is not valid for another %v; correct the clock of the machine that is wrong",
			whose(invalid.Cert), s, invalid.Cert.NotBefore.Sub(now).Round(time.Second))}
	case isInvalid && invalid.Reason == x509.IncompatibleUsage:
		return fmt.Errorf("%w: the certificate of %v is not for this use: it needs the extended key usage clientAuth to "+
			"call, and serverAuth to be called",
			nexusraft.ErrRefused, s)
	}
	if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown {
		return fmt.Errorf("%w: the certificate of %v is signed by a CA that is not believed here; give it one of the "+
			"cluster's own CA, and both sides the same CA; "+
			"if the cluster's own was replaced while one of them was off, that one needs a new join token (nexus-raft token "+
			"create), a client new credentials",
			nexusraft.ErrRefused, s)
	}
	return fmt.Errorf("%w: the certificate of %v: %w", nexusraft.ErrRefused, s, err)
}

// DatesError is the nexusraft.ErrRefused of a certificate that is believed at other times: it has expired, or
// is not valid yet. The next one, or the same with a clock that was corrected, may do.
type DatesError struct{ text string }

// Error implements error.
func (e *DatesError) Error() string { return fmt.Sprintf("%v: %s", nexusraft.ErrRefused, e.text) }

// Unwrap returns nexusraft.ErrRefused.
func (e *DatesError) Unwrap() error { return nexusraft.ErrRefused }

func whose(cert *x509.Certificate) string {
	if cert.IsCA {
		return "the CA of"
	}
	return "the certificate of"
}

// Pinned returns the CA in a chain whose DER form has the SHA-256 pin, as what is believed. It
// is for a first contact, when a join token is all that is known of a cluster.
func Pinned(chain []*x509.Certificate, pin [sha256.Size]byte) (*x509.CertPool, error) {
	for _, cert := range chain {
		sum := sha256.Sum256(cert.Raw)
		if cert.IsCA && bytes.Equal(sum[:], pin[:]) {
			pool := x509.NewCertPool()
			pool.AddCert(cert)
			return pool, nil
		}
	}
	return nil, fmt.Errorf("%w: no CA with the expected fingerprint is in the chain: this is another cluster than the "+
		"one that made the join token, or a server in between, or the cluster's authority was replaced since: make a new "+
		"token with: nexus-raft token create", nexusraft.ErrRefused)
}

// VerifyNode is Verify for the chain of a server, which must be a node: node of cluster, where
// 0 stands for any.
func VerifyNode(
	chain []*x509.Certificate, roots *x509.CertPool, cluster nexusraft.ClusterID, node nexusraft.NodeID, now time.Time,
) error {
	s, err := Verify(chain, roots, x509.ExtKeyUsageServerAuth, now)
	switch {
	case err != nil:
		return err
	case s.Node == 0:
		return fmt.Errorf("%w: a node was asked, but %v answers", nexusraft.ErrRefused, s)
	case node != 0 && s.Node != node:
		return fmt.Errorf("%w: node mismatch: node %v was asked, but node %v answers", nexusraft.ErrRefused, node, s.Node)
	case cluster != 0 && s.Cluster != cluster:
		return fmt.Errorf("%w: cluster mismatch: a node of cluster %v was asked, but %v answers", nexusraft.ErrRefused,
			cluster, s)
	}
	return nil
}
