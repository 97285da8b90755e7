package peering

import (
	"fmt"
	"net"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/transport"
)

// openIdentity loads or mints the identity. The opening has an incarnation and a boot of its own,
// which are stored by Count: an opening that has spoken to nobody uses up none of what the
// directory remembers, however often a supervisor starts it.
func (p *Peering) openIdentity() error {
	id := p.stored.Identity
	minted := id.Node == 0
	if id.Cluster == 0 && len(p.o.Join) == 0 {
		return nexusraft.ErrNotFounded
	}
	id.Name = p.named(id)
	id.Incarnation++
	id.Boots = newBoot(id.Boots)
	if minted { // what is made for the node from here on bears its ID
		id.Node = nexusraft.NodeID(nexusraft.MintID())
		return p.saveIdentity(id)
	}
	p.become(id)
	return nil
}

// maxBoots is how many boots a directory remembers, the latest included: a handshake names no more.
const maxBoots = 1 + transport.MaxEarlier

// newBoot returns the boots to be stored, the latest first: those of before, with a new one in front.
func newBoot(boots []nexusraft.Boot) []nexusraft.Boot {
	all := append([]nexusraft.Boot{nexusraft.Boot(nexusraft.MintID())}, boots...)
	return all[:min(len(all), maxBoots)]
}

// named returns the name of a node: the records of its cluster bear the one that it has joined
// with, so that another one counts only before.
func (p *Peering) named(id Identity) string {
	switch name := p.o.Name; {
	case name == "" || name == id.Name:
		return id.Name
	case id.Name == "" || id.Cluster == 0:
		return name
	default:
		p.o.Logger.Warn(fmt.Sprintf("this node is called %s since it joined; --name %s is ignored", id.Name, name))
		return id.Name
	}
}

// Count stores the incarnation that the node is about to speak in (I5), unless that is done. It
// comes before the first word with a peer, and before whatever else bears the incarnation outside
// of this process. If it can't be stored, Options.Fail is told, and nothing must leave.
func (p *Peering) Count() error {
	p.storing.Lock()
	defer p.storing.Unlock()
	if p.counted {
		return nil
	}
	if err := p.saveIdentity(p.identity()); err != nil {
		p.o.Fail(err)
		return err
	}
	return nil
}

// saveIdentity stores the identity of this opening, and makes it the one that the node speaks as.
// The caller holds storing, or p is not shared yet.
func (p *Peering) saveIdentity(id Identity) error {
	if err := p.o.Store.Save(RecordChange{Identity: &id}); err != nil {
		return err
	}
	p.become(id)
	p.counted = true
	return nil
}

// become makes an identity the one that the node speaks as.
func (p *Peering) become(id Identity) {
	address := p.o.Advertise
	if old := p.self.Load(); old != nil {
		address = old.Address
	}
	p.self.Store(&transport.Identity{
		Cluster: id.Cluster, Node: id.Node, Name: id.Name, Address: address, Witness: p.o.Role == nexusraft.RoleWitness,
		Incarnation: id.Incarnation, Boot: id.Boots[0], Earlier: id.Boots[1:], Minor: transport.MinorVersion,
	})
}

// identity is what Self says, in the form that is stored.
func (p *Peering) identity() Identity {
	s := p.Self()
	return Identity{
		Node: s.Node, Name: s.Name, Cluster: s.Cluster,
		Incarnation: s.Incarnation, Boots: append([]nexusraft.Boot{s.Boot}, s.Earlier...),
	}
}

// Self is what the node says of itself when it calls a peer, which comes after Count.
func (p *Peering) Self() transport.Identity { return *p.self.Load() }

// Introduce is what the node answers to peers. If its incarnation can't be stored it has no
// identity, which every peer refuses, and it ends.
func (p *Peering) Introduce() transport.Identity {
	if p.Count() != nil {
		return transport.Identity{}
	}
	return p.Self()
}

// ListenOn settles the address that peers are told, unless Options.Advertise has. It comes before
// the first call and the first answer.
func (p *Peering) ListenOn(addr net.Addr) {
	p.storing.Lock() // an opening may be counted meanwhile
	defer p.storing.Unlock()
	self := p.Self()
	if self.Address == "" {
		self.Address = addr.String()
	}
	p.self.Store(&self)
}
