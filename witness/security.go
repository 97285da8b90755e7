package witness

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport"
)

// A certificate is renewed when a third of its life is left.
const (
	renewFraction = 3
	renewEvery    = time.Hour // between two looks at it, at most
)

// openSecurity settles with what the connections are encrypted: Config.TLS, or what the
// cluster has signed, or nothing.
func (w *Witness) openSecurity(id identity) error {
	if w.config.TLS != nil {
		w.tls = w.config.TLS.Telling(w.logger)
		return w.tls.CheckOwn(id.Cluster, id.Node)
	}
	if !w.config.ClusterTLS {
		return nil
	}
	w.tls = transport.NewTLS(func() (transport.Certificates, error) { return *w.certificates.Load(), nil }).Telling(w.logger)
	switch {
	case id.Cluster == 0:
		t, err := w.token()
		if err != nil {
			return err
		}
		w.certificates.Store(&transport.Certificates{Pin: &t.CA})
		return nil
	case id.Key == nil:
		return fmt.Errorf("%w: witness %v has no certificate, because it joined without TLS: give it one with --tls-cert, --tls-key and --tls-ca, or clear %s and join with a token", nexusraft.ErrRefused, id.Node, w.config.Dir)
	}
	return w.useCertificate(id)
}

func (w *Witness) token() (pki.Token, error) {
	if w.config.JoinToken == "" {
		return pki.Token{}, fmt.Errorf("%w: the cluster speaks TLS and needs a join token: make one on a member with nexus-raft token create, and give it to the witness with --token-file or NEXUS_RAFT_TOKEN", nexusraft.ErrRefused)
	}
	t, err := pki.ParseToken(w.config.JoinToken)
	if err != nil {
		return pki.Token{}, fmt.Errorf("%w: %w", nexusraft.ErrRefused, err)
	}
	return t, nil
}

// useCertificate shows the identity's certificate from now on, and believes the authority at its end.
func (w *Witness) useCertificate(id identity) error {
	c, err := transport.Issued(pki.Pair{Cert: id.Cert, Key: id.Key}, pki.Subject{Cluster: id.Cluster, Node: id.Node})
	if err != nil {
		return err
	}
	w.certificates.Store(&c)
	return nil
}

// joinRequest is what the witness asks with, and the key that stays here; none without the cluster's TLS.
func (w *Witness) joinRequest() (r transport.JoinRequest, key []byte, err error) {
	r.Role = nexusraft.RoleWitness
	if !w.config.ClusterTLS || w.config.TLS != nil {
		return r, nil, nil
	}
	if r.Token, err = w.token(); err != nil {
		return r, nil, err
	}
	r.CertificateRequest, key, err = pki.NewRequest()
	return r, key, err
}

// keepCertificate renews the certificate in time, or warns in time if it comes from files, until ctx ends.
// Another try after a failure comes as late as any look at it: weeks are left.
func (w *Witness) keepCertificate(ctx context.Context) {
	if w.tls == nil {
		return
	}
	for {
		if err := w.renew(ctx, time.Now()); err != nil && ctx.Err() == nil {
			w.logger.Error("certificate not renewed", "until", w.tls.Until(), "err", err)
		} else if p := w.tls.Problem(time.Now()); p != "" {
			w.logger.Warn(p)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(renewEvery/2 + rand.N(renewEvery/2)):
		}
	}
}

// renew gets a new certificate from a member if a third of the old one's life is left at now.
func (w *Witness) renew(ctx context.Context, now time.Time) error {
	if w.certificates.Load() == nil {
		return nil
	}
	leaf := w.certificates.Load().Own.Leaf
	if leaf.NotAfter.Sub(now) > leaf.NotAfter.Sub(leaf.NotBefore)/renewFraction {
		return nil
	}
	request, key, err := pki.NewRequest()
	if err != nil {
		return err
	}
	cert, err := w.askRenewal(ctx, request)
	if err != nil {
		return err
	}
	id := w.keeper.identity()
	next, err := w.certificates.Load().Next(pki.Pair{Cert: cert, Key: key}, pki.Subject{Cluster: id.Cluster, Node: id.Node}, now)
	if err != nil {
		return err
	}
	if err := w.keeper.renewed(cert, key); err != nil {
		return err
	}
	w.certificates.Store(&next)
	w.logger.Info("certificate renewed", "until", next.Own.Leaf.NotAfter)
	return nil
}

// askRenewal asks the members in turn.
func (w *Witness) askRenewal(ctx context.Context, request []byte) ([]byte, error) {
	id := w.keeper.identity()
	w.mu.Lock()
	members := w.members
	w.mu.Unlock()
	failed := errors.New("no member is known")
	for _, m := range members.Members {
		if m.Role != nexusraft.RoleMember {
			continue
		}
		cert, err := w.askRenewalAt(ctx, id.addressOf(m.Node, m.Address), request)
		if err == nil {
			return cert, nil
		}
		failed = err
	}
	return nil, failed
}

func (w *Witness) askRenewalAt(ctx context.Context, addr string, request []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, joinCallTimeout)
	defer cancel()
	return w.peers.Renew(ctx, addr, request)
}
