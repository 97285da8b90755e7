package peering

import (
	"fmt"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Secure settles with what the node's connections are encrypted: Options.TLS, or what the cluster
// itself has signed, or nothing. The error is ErrRefused where that is not how the directory can be
// served.
func (p *Peering) Secure() error {
	if err := p.keepTLS(); err != nil {
		return err
	}
	if err := p.encrypt(); err != nil {
		return err
	}
	return p.noteTLS()
}

// TLSMode says how the directory is served.
func (p *Peering) TLSMode() TLSMode {
	switch {
	case p.o.TLS != nil:
		return FromFiles
	case p.o.ClusterTLS:
		return ClustersOwn
	}
	return Plain
}

// keepTLS has a directory that has been served with TLS go on with it, unless Options.Insecure
// says otherwise: with a flag that was forgotten there would be no access control either.
func (p *Peering) keepTLS() error {
	if p.Self().Cluster == 0 || p.TLSMode() != Plain || p.o.Insecure {
		return nil
	}
	switch p.stored.TLSMode {
	case FromFiles:
		return fmt.Errorf("%w: %s has been served with certificates from files: give --tls-cert, --tls-key and --tls-ca "+
			"again, or --insecure to go on without TLS", nexusraft.ErrRefused, p.o.Dir)
	case ClustersOwn:
		p.o.ClusterTLS = true
		p.o.Logger.Warn("tls is on, because this directory has been served with it; --insecure turns it off", "path",
			p.o.Dir)
	}
	return nil
}

// noteTLS notes how the directory is served, once that is known to work: a wrong certificate
// says nothing.
func (p *Peering) noteTLS() error {
	now := p.TLSMode()
	if p.Self().Cluster == 0 || now == Plain || now == p.stored.TLSMode {
		return nil
	}
	return p.o.Store.Save(RecordChange{TLSMode: &now})
}

func (p *Peering) encrypt() error {
	self := p.Self()
	switch p.TLSMode() {
	case FromFiles:
		p.tls = p.o.TLS.Admitting(p.o.Admits).Telling(p.o.Logger).Clocked(p.o.Clock)
		return p.tls.CheckOwn(self.Cluster, self.Node)
	case Plain:
		return nil
	}
	p.tls = mtls.NewTLS(func() (mtls.Certificates, error) { return *p.certificates.Load(), nil }).
		Admitting(p.o.Admits).Telling(p.o.Logger).Clocked(p.o.Clock)
	if self.Cluster == 0 { // the first contact believes the cluster that has made the token
		t, err := p.token()
		if err != nil {
			return err
		}
		p.certificates.Store(&mtls.Certificates{Pin: &t.CA})
		return nil
	}
	if p.stored.Credentials.Cert == nil {
		return fmt.Errorf("%w: %s %v has no certificate, because it joined without TLS: give it one with --tls-cert, "+
			"--tls-key and --tls-ca, or clear %s and join with a token", nexusraft.ErrRefused, p.kind(), self.Node, p.o.Dir)
	}
	return p.use(p.stored.Credentials)
}

// token returns the join token.
func (p *Peering) token() (pki.Token, error) {
	if p.o.JoinToken == "" {
		return pki.Token{}, fmt.Errorf("%w: the cluster speaks TLS and needs a join token: make one on a member with "+
			"nexus-raft token create, and give it to the %s with --token-file or NEXUS_RAFT_TOKEN",
			nexusraft.ErrRefused, p.kind())
	}
	t, err := pki.ParseToken(p.o.JoinToken)
	if err != nil {
		return pki.Token{}, fmt.Errorf("%w: %w", nexusraft.ErrRefused, err)
	}
	return t, nil
}

// use shows a certificate from now on, and believes the authorities that it comes with.
func (p *Peering) use(c Credentials) error {
	issued, err := mtls.Issued(c.Pair(), c.Roots, p.subject())
	if err != nil {
		return err
	}
	p.certificates.Store(&issued)
	p.own.Store(&c)
	return nil
}

// subject is what the node's certificate must name.
func (p *Peering) subject() pki.Subject {
	self := p.Self()
	return pki.Subject{Cluster: self.Cluster, Node: self.Node}
}

// Credentials returns the node's certificate of the cluster's own authority, and which authorities
// it believes; nil if it is not served with one. They must not be changed.
func (p *Peering) Credentials() *Credentials { return p.own.Load() }

// Change stores what change makes of the node's credentials, unless that returns an error, and goes
// by it. Connections to peers that are no longer believed end. The node has credentials.
func (p *Peering) Change(change func(*Credentials) error) error {
	p.certifying.Lock()
	defer p.certifying.Unlock()
	c := *p.own.Load()
	if err := change(&c); err != nil {
		return err
	}
	if err := p.o.Store.Save(RecordChange{Credentials: &c}); err != nil {
		return fmt.Errorf("store the node's certificate: %w", err)
	}
	if err := p.use(c); err != nil {
		return err
	}
	p.tls.Recheck()
	return nil
}
