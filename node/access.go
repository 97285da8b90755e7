package node

import (
	"cmp"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
	"github.com/nexi-lab/nexus-raft/storage"
)

// The root zone keeps who may do what: the principals, by name, and their bearer tokens
// (access_tokens.go). The commands that change them are functions of their arguments alone (I4).
var (
	principalPrefix = []byte{partNode, 'a', 'p'}
	principalEnd    = []byte{partNode, 'a', 'p' + 1}
)

// Bounds of principals.
const (
	maxPrincipals     = 4096
	maxPrincipalRoles = 64
)

// everyZone is the zone of a role that holds in all of them.
const everyZone nexusraft.ZoneID = 0

func principalKey(name string) []byte { return append(slices.Clone(principalPrefix), name...) }

// founding is the principal that a cluster begins with: whoever has the certificate that Init
// returns. A cluster that was founded before there were roles has it until the first one is given.
func founding() *pb.Principal {
	return &pb.Principal{
		Name:  adminName,
		Roles: []*pb.ZoneRole{{Zone: uint64(everyZone), Role: pb.AccessRole_ACCESS_ROLE_ADMIN}},
	}
}

// applySetRole changes a principal's role in one zone. Who has no role is no principal, and has no tokens.
func applySetRole(base *storage.Overlay, c *pb.SetRole) error {
	if err := checkRole(c); err != nil {
		return err
	}
	all, err := keptPrincipals(base)
	if err != nil {
		return err
	}
	old := find(all, c.GetName())
	zone, role := c.GetRole().GetZone(), c.GetRole().GetRole()
	next := &pb.Principal{Name: c.GetName()}
	for _, r := range old.GetRoles() {
		if r.GetZone() != zone {
			next.Roles = append(next.Roles, r)
		}
	}
	taken := role == pb.AccessRole_ACCESS_ROLE_UNSPECIFIED
	if !taken {
		next.Roles = append(next.Roles, &pb.ZoneRole{Zone: zone, Role: role})
	}
	slices.SortFunc(next.Roles, func(a, b *pb.ZoneRole) int { return cmp.Compare(a.GetZone(), b.GetZone()) })
	if err := checkChange(all, old, next, taken); err != nil {
		return err
	}
	if len(next.GetRoles()) == 0 {
		return deletePrincipal(base, next.GetName())
	}
	return setPrincipal(base, next)
}

func checkRole(c *pb.SetRole) error {
	if role := c.GetRole().GetRole(); role < 0 || role > pb.AccessRole_ACCESS_ROLE_ADMIN {
		return fmt.Errorf("%w: there is no role %d; there are read, write and admin", nexusraft.ErrRefused, role)
	}
	return pki.ValidateClient(c.GetName())
}

// checkChange refuses a change of a principal, old (nil if new) to next, that takes what is not there, leaves too
// much, or leaves nobody who may give roles.
func checkChange(all []*pb.Principal, old, next *pb.Principal, taken bool) error {
	switch {
	case taken && len(next.GetRoles()) == len(old.GetRoles()):
		return fmt.Errorf("%w: %q has no such role; nexus-raft access list prints those that there are", nexusraft.ErrRefused, next.GetName())
	case len(next.GetRoles()) > maxPrincipalRoles:
		return fmt.Errorf("%w: %q would have %d roles, limit %d; give it one for all zones", nexusraft.ErrRefused, next.GetName(), len(next.GetRoles()), maxPrincipalRoles)
	case old == nil && len(all) >= maxPrincipals:
		return fmt.Errorf("%w: %d names have roles, which is the limit; revoke some", nexusraft.ErrRefused, len(all))
	}
	return checkAdmins(all, next)
}

// checkAdmins refuses to make the last one who may give roles anything less.
func checkAdmins(all []*pb.Principal, next *pb.Principal) error {
	other := func(p *pb.Principal) bool { return p.GetName() != next.GetName() && givesRoles(p) }
	if givesRoles(next) || slices.ContainsFunc(all, other) {
		return nil
	}
	return fmt.Errorf("%w: %q is the last admin of the root zone, and nobody could give roles any more; make another one first", nexusraft.ErrRefused, next.GetName())
}

func givesRoles(p *pb.Principal) bool {
	return roleIn(p, nexusraft.RootZone) == pb.AccessRole_ACCESS_ROLE_ADMIN
}

// roleIn returns the highest of a principal's roles that holds in a zone.
func roleIn(p *pb.Principal, zone nexusraft.ZoneID) (role pb.AccessRole) {
	for _, r := range p.GetRoles() {
		if in := nexusraft.ZoneID(r.GetZone()); in == zone || in == everyZone {
			role = max(role, r.GetRole())
		}
	}
	return role
}

// applyDeletePrincipal takes everything from a principal.
func applyDeletePrincipal(base *storage.Overlay, c *pb.DeletePrincipal) error {
	if err := pki.ValidateClient(c.GetName()); err != nil {
		return err
	}
	all, err := keptPrincipals(base)
	if err != nil {
		return err
	}
	if find(all, c.GetName()) == nil {
		return errUnknownPrincipal(c.GetName())
	}
	if err := checkAdmins(all, &pb.Principal{Name: c.GetName()}); err != nil {
		return err
	}
	return deletePrincipal(base, c.GetName())
}

func errUnknownPrincipal(name string) error {
	return fmt.Errorf("%w: %q has no role; give it one with: nexus-raft access grant", nexusraft.ErrRefused, name)
}

func deletePrincipal(base *storage.Overlay, name string) error {
	tokens, err := readAccessTokens(base)
	if err != nil {
		return err
	}
	for _, t := range tokens {
		if t.GetName() == name {
			if err := base.Delete(accessTokenKey(t.GetId())); err != nil {
				return err
			}
		}
	}
	return base.Delete(principalKey(name))
}

func find(all []*pb.Principal, name string) *pb.Principal {
	for _, p := range all {
		if p.GetName() == name {
			return p
		}
	}
	return nil
}

// keptPrincipals is readPrincipals; it also stores the founding one if nobody is stored.
func keptPrincipals(base *storage.Overlay) ([]*pb.Principal, error) {
	all, err := readPrincipals(base)
	if err != nil || len(all) > 1 {
		return all, err
	}
	return all, setPrincipal(base, all[0])
}

// readPrincipals returns everybody, by name; the founding principal if nobody is stored. A replica that waits for its
// first snapshot has nothing yet, and knows nobody: it returns ErrZoneNotFound.
func readPrincipals(r nexusraft.Reader) (all []*pb.Principal, err error) {
	for pair, err := range r.Scan(principalPrefix, principalEnd) {
		if err != nil {
			return nil, err
		}
		p, err := decodePrincipal(pair.Value)
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	if len(all) > 0 {
		return all, nil
	}
	for _, key := range [][]byte{authorityKey, timeKey} { // one of them is in the state from its founding, or first command, on
		if _, begun, err := r.Get(key); err != nil || begun {
			return []*pb.Principal{founding()}, err
		}
	}
	return nil, fmt.Errorf("%w: its state is still on the way to this node", nexusraft.ErrZoneNotFound)
}

func decodePrincipal(b []byte) (*pb.Principal, error) {
	p := &pb.Principal{}
	if err := proto.Unmarshal(b, p); err != nil {
		return nil, fmt.Errorf("%w: the record of a principal can't be read: %w", nexusraft.ErrCorrupt, err)
	}
	return p, nil
}

func setPrincipal(base *storage.Overlay, p *pb.Principal) error {
	b, err := encodeRecord(p)
	if err != nil {
		return err
	}
	return base.Set(principalKey(p.GetName()), b)
}

func encodeRecord(m proto.Message) ([]byte, error) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode a record of who may do what: %w", err)
	}
	return b, nil
}
