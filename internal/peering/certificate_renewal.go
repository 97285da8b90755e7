package peering

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/transport"
	"github.com/nexi-lab/nexus-raft/transport/mtls"
)

// A certificate is renewed when a third of its life is left.
const (
	renewFraction = 3
	renewEvery    = time.Hour       // between two looks at it, at most
	renewRetry    = 5 * time.Second // between two looks at one that is not valid now
	resignRetry   = 20              // ticks between two at one of an authority that is on its way out
)

// RenewalPlan says how a node gets its next certificate.
type RenewalPlan struct {
	// Look does what is due at now.
	Look func(ctx context.Context, now time.Time) error

	// After does what comes after each look, and returns within what time the next one must come; 0
	// if nothing presses.
	After func(ctx context.Context) time.Duration

	// Changed returns a channel that has something in it, or is closed, when the next look must come
	// at once. It is asked before each look, so that nothing falls in between.
	Changed func() <-chan struct{}
}

// keepCertificate renews the certificate in time, or warns in time if it comes from files, until ctx
// ends. Another try after a failure comes as late as any look at it while weeks are left, and
// soon when none is.
func (p *Peering) keepCertificate(ctx context.Context, r RenewalPlan) {
	if p.tls == nil {
		return
	}
	for {
		changed := r.Changed()
		now := p.o.Clock()
		if err := r.Look(ctx, now); err != nil && ctx.Err() == nil {
			p.o.Logger.Error("certificate not renewed", "until", p.tls.Until(), "err", err)
		} else if problem := p.tls.Problem(now); problem != "" {
			p.o.Logger.Warn(problem)
		}
		pause := renewEvery/2 + rand.N(renewEvery/2)
		if p.certificates.Load() != nil && !p.tls.ValidAt(now) || p.LeftBehind() {
			pause = renewRetry
		}
		if soon := r.After(ctx); soon > 0 {
			pause = min(pause, soon)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-time.After(pause):
		}
	}
}

// Due reports whether the certificate of the cluster's own authority is to be renewed: a third of
// its life is left at now, or its time is yet to come, as the clock that it was made by was wrong;
// or another authority signs by now.
func (p *Peering) Due(now time.Time) bool {
	own := p.own.Load()
	if own == nil {
		return false
	}
	leaf := p.certificates.Load().Own.Leaf
	return !p.tls.ValidAt(now) || leaf.NotAfter.Sub(now) <= leaf.NotAfter.Sub(leaf.NotBefore)/renewFraction ||
		!pki.SignedByFirst(own.Cert, own.Roots)
}

// ByMembers is the RenewalPlan of a node that signs nothing itself: members do.
func (p *Peering) ByMembers() RenewalPlan {
	return RenewalPlan{
		Look: p.renewByMembers,
		After: func(context.Context) time.Duration {
			if own := p.own.Load(); own == nil || pki.SignedByFirst(own.Cert, own.Roots) {
				return 0
			}
			return resignRetry * p.o.TickInterval
		},
		Changed: func() <-chan struct{} { return p.resign },
	}
}

// errBehind is why a certificate that is good is asked for by the join token.
var errBehind = errors.New("the join token is of an authority that is not known here")

// renewByMembers gets a new certificate from a member if that is due, by the present one if that
// does and else by the join token.
func (p *Peering) renewByMembers(ctx context.Context, now time.Time) error {
	due, behind := p.Due(now), p.LeftBehind()
	if !due && !behind {
		return nil
	}
	err := errBehind
	if due {
		err = p.renewByCertificate(ctx, now)
	}
	pressing := behind || !p.tls.ValidAt(now)
	if err != nil && (behind || pressing && p.o.JoinToken != "") {
		err = p.RenewByToken(ctx, now)
	}
	if err != nil && pressing {
		return fmt.Errorf("%w; start a member that this %s reaches, or make a join token on one with nexus-raft token "+
			"create --role %s and start this %[2]s with it (--token-file)", err, p.kind(), p.o.Role)
	}
	return err
}

func (p *Peering) renewByCertificate(ctx context.Context, now time.Time) error {
	if err := p.prepareKey(); err != nil {
		return err
	}
	renewal, err := p.askRenewal(ctx, p.peers, transport.RenewRequest{CertificateRequest: p.request})
	if err != nil {
		return err
	}
	return p.renewed(renewal, *p.certificates.Load(), now)
}

// RenewByToken gets a certificate of the authority that the join token names, by the token, and
// believes that authority. It is for the goroutine that renews.
func (p *Peering) RenewByToken(ctx context.Context, now time.Time) error {
	t, err := p.token()
	if err != nil {
		return err
	}
	if err := p.prepareKey(); err != nil {
		return err
	}
	believed := mtls.Certificates{Pin: &t.CA}
	source := func() (mtls.Certificates, error) { return believed, nil }
	peers := transport.NewPeers(p.Self, transport.PeersOptions{
		Logger: p.o.Logger, TLS: mtls.NewTLS(source).Clocked(p.o.Clock),
	})
	defer peers.Close()
	renewal, err := p.askRenewal(ctx, peers, transport.RenewRequest{
		Node: p.Self().Node, CertificateRequest: p.request, Token: t,
	})
	if err != nil {
		return err
	}
	return p.renewed(renewal, believed, now)
}

func (p *Peering) prepareKey() (err error) {
	if p.key == nil {
		p.request, p.key, err = pki.NewRequest()
	}
	return err
}

// renewed goes by a certificate that has come from a member that proved to be believed.
func (p *Peering) renewed(r transport.Renewal, believed mtls.Certificates, now time.Time) error {
	err := p.Change(func(c *Credentials) error {
		list := r.Authorities
		if len(list.Certificates) == 0 || list.Step < c.Step {
			list = transport.CABundle{Step: c.Step, Certificates: c.Roots}
		}
		next := pki.Pair{Cert: r.Certificate, Key: p.key}
		if _, err := believed.Next(next, list.Certificates, p.subject(), now); err != nil {
			return err
		}
		c.believe(list)
		c.Cert, c.Key = next.Cert, next.Key
		return nil
	})
	if err != nil {
		return err
	}
	p.request, p.key = nil, nil
	p.o.Logger.Info("certificate renewed", "until", p.tls.Until())
	return nil
}

// askRenewal asks the members in turn, and what is at the addresses of Options.Join.
func (p *Peering) askRenewal(
	ctx context.Context, peers *transport.Peers, r transport.RenewRequest,
) (transport.Renewal, error) {
	failed := fmt.Errorf("%w: no other member is known", nexusraft.ErrRefused)
	for _, addr := range p.renewers() {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		renewal, err := peers.Renew(ctx, addr, r)
		cancel()
		if err == nil {
			return renewal, nil
		}
		failed = err
	}
	return transport.Renewal{}, failed
}

// renewers returns where other members may be.
func (p *Peering) renewers() (addrs []string) {
	self := p.Self().Node
	for _, m := range p.o.Members().Members {
		if m.Node != self && m.Role.Full() {
			addrs = append(addrs, p.AddressOf(m.Node, m.Address))
		}
	}
	for _, addr := range p.o.Join {
		if !slices.Contains(addrs, addr) {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}
