package peering

import (
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// Which authorities a node believes is on its own disk, synced, before it says that it does: a node
// that has forgotten the new authority could not be told by a caller that shows a certificate of it.

// Trust says which authorities this node believes, and which one has signed its certificate.
// ErrRefused: it has none of the cluster's own.
func (p *Peering) Trust() (transport.Trust, error) {
	c := p.own.Load()
	if c == nil {
		return transport.Trust{}, fmt.Errorf("%w: %s %v is not served with a certificate of the cluster's own authority",
			nexusraft.ErrRefused, p.kind(), p.Self().Node)
	}
	by, err := pki.Fingerprint(c.Cert)
	return transport.Trust{Step: c.Step, Signer: by[:]}, err
}

// Believe takes over a list of authorities that a full node has told of, if it is news; then the
// certificate is renewed if another one signs by now. One that has none in common with those that
// are believed is refused: it comes with a certificate of one that it is about to end. Another
// list of as many steps is taken only if it leaves some out: a thief with the key of an
// authority that ends could have been first, with one of his own. The node has credentials.
func (p *Peering) Believe(a transport.CABundle) error {
	if !p.own.Load().news(a) {
		return nil
	}
	err := p.Change(func(c *Credentials) error {
		if !c.news(a) { // another node was first
			return nil
		}
		if err := p.checkNews(*c, a); err != nil {
			return err
		}
		c.believe(a)
		return nil
	})
	if err != nil {
		return err
	}
	p.o.Logger.Info("authorities changed", "step", a.Step)
	select {
	case p.resign <- struct{}{}:
	default:
	}
	return nil
}

func (p *Peering) checkNews(c Credentials, a transport.CABundle) error {
	is, err := pki.Fingerprints(a.Certificates)
	if err != nil {
		return fmt.Errorf("%w: the list of authorities: %w", nexusraft.ErrRefused, err)
	}
	was, err := pki.Fingerprints(c.Believed())
	known := func(sum [32]byte) bool { return slices.Contains(was, sum) }
	if err != nil || !slices.ContainsFunc(is, known) {
		return fmt.Errorf("%w: none of the authorities is believed here", nexusraft.ErrRefused)
	}
	if a.Step == c.Step && (len(is) >= len(was) || !every(is, known)) {
		return fmt.Errorf("%w: %s %v believes other authorities, which it was told of as step %d, too; "+
			"somebody may have the key of one: remove the %[2]s, and let it join anew with an empty directory",
			nexusraft.ErrRefused, p.kind(), p.Self().Node, a.Step)
	}
	_, err = mtls.Issued(c.Pair(), a.Certificates, p.subject())
	return err
}

func every(sums [][32]byte, ok func([32]byte) bool) bool {
	return !slices.ContainsFunc(sums, func(sum [32]byte) bool { return !ok(sum) })
}

// Follow goes by a list of authorities from now on, and asks nothing: the node's own state says so.
// The node has credentials.
func (p *Peering) Follow(a transport.CABundle) error {
	err := p.Change(func(c *Credentials) error {
		c.believe(a)
		return nil
	})
	if err == nil {
		p.o.Logger.Info("authorities changed", "step", a.Step)
	}
	return err
}

// LeftBehind reports whether the join token is of an authority that this node has never heard of:
// while it was off, the cluster's was replaced. One that ended here is not believed again, whatever
// a token says.
func (p *Peering) LeftBehind() bool {
	c := p.own.Load()
	return c != nil && pki.NeverHeardOf(p.o.JoinToken, c.Believed(), c.Former)
}

// believe takes over a list of authorities.
func (c *Credentials) believe(a transport.CABundle) {
	c.Former = pki.Former(c.Former, c.Believed(), a.Certificates)
	c.Roots, c.Step = a.Certificates, a.Step
}

// news reports whether a list of authorities is not the one that is believed, and no older.
func (c Credentials) news(a transport.CABundle) bool {
	return a.Step > c.Step || a.Step == c.Step && !c.Believes(a.Certificates)
}

// Believes reports whether a list, PEM, names the authorities that are believed, in the same order.
func (c Credentials) Believes(list []byte) bool {
	is, err1 := pki.Fingerprints(list)
	was, err2 := pki.Fingerprints(c.Believed())
	return err1 == nil && err2 == nil && slices.Equal(is, was)
}
