package mtls

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// Issued returns what a node works with that has a certificate of its cluster's own authority, and
// key: it believes the authorities in roots, PEM, or if there are none the one that is the last of
// the chain. The certificate must name want; whether it has expired plays no part.
func Issued(p pki.Pair, roots []byte, want pki.Subject) (Certificates, error) {
	own, err := p.Certificate()
	if err != nil {
		return Certificates{}, fmt.Errorf("the node's certificate: %w", err)
	}
	chain, err := pki.Certificates(p.Cert)
	if err != nil {
		return Certificates{}, fmt.Errorf("the node's certificate: %w", err)
	}
	s, err := pki.SubjectOf(chain[0])
	if err == nil && s != want {
		err = fmt.Errorf("%w: it names %v, not %v", nexusraft.ErrRefused, s, want)
	}
	if err != nil {
		return Certificates{}, fmt.Errorf("the node's certificate: %w", err)
	}
	c := Certificates{Own: own, Roots: x509.NewCertPool()}
	if len(roots) == 0 {
		c.Roots.AddCert(chain[len(chain)-1])
		return c, nil
	}
	if c.Roots, err = pki.Pool(roots); err != nil {
		return Certificates{}, fmt.Errorf("the cluster's authorities: %w", err)
	}
	return c, nil
}

// Next is Issued for a certificate that another node has just sent, before it is stored: ErrRefused
// unless it is good at the time now, and its authority is one that c believes, by its roots or its
// pin, and among those that were sent with it.
func (c Certificates) Next(p pki.Pair, roots []byte, want pki.Subject, now time.Time) (Certificates, error) {
	next, err := Issued(p, roots, want)
	if err != nil {
		return Certificates{}, err
	}
	chain, err := pki.Certificates(p.Cert)
	if err != nil {
		return Certificates{}, err
	}
	if !c.vouches(chain[len(chain)-1], now) {
		return Certificates{},
			fmt.Errorf("%w: the node's certificate comes with another authority than the one that is believed here",
				nexusraft.ErrRefused)
	}
	if _, err := pki.Verify(chain, next.Roots, x509.ExtKeyUsageClientAuth, now); err != nil {
		return Certificates{}, err
	}
	return next, nil
}

// vouches reports whether an authority is believed.
func (c Certificates) vouches(authority *x509.Certificate, now time.Time) bool {
	if c.Roots == nil {
		return c.Pin != nil && *c.Pin == sha256.Sum256(authority.Raw)
	}
	_, err := authority.Verify(x509.VerifyOptions{
		Roots: c.Roots, CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err == nil && authority.IsCA
}
