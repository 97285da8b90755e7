package system

import (
	"cmp"
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	pb "github.com/nexi-lab/nexus-raft/api/nexusraft/v1"
	"github.com/nexi-lab/nexus-raft/internal/pki"
)

// The root zone keeps the principals, by name: the clients that have a role, and their roles.
var (
	principalPrefix = []byte{Prefix, 'a', 'p'}
	principalEnd    = []byte{Prefix, 'a', 'p' + 1}
)

// Bounds of principals. Changing one changes history.
const (
	maxPrincipals     = 4096
	maxPrincipalRoles = 64
)

// FoundingAdmin is the client that a cluster begins with.
const FoundingAdmin = "admin"

// EveryZone is the zone of a role that holds in all of them.
const EveryZone nexusraft.ZoneID = 0

func principalKey(name string) []byte { return append(slices.Clone(principalPrefix), name...) }

// founding is the principal that a cluster begins with: the client whose certificate Init returns. A
// cluster that was founded before there were roles has it until the first one is given.
func founding() *pb.Principal {
	return &pb.Principal{
		Name:  FoundingAdmin,
		Roles: []*pb.ZoneRole{{Zone: uint64(EveryZone), Role: pb.AccessRole_ACCESS_ROLE_ADMIN}},
	}
}

// applySetRole changes a principal's role in one zone. One that loses its last role is deleted, and
// its tokens with it.
func applySetRole(base nexusraft.ReadWriter, c *pb.SetRole) error {
	if err := checkRole(c); err != nil {
		return err
	}
	all, err := keptPrincipals(base)
	if err != nil {
		return err
	}
	old := FindPrincipal(all, c.GetName())
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

// checkChange refuses a change of a principal, old (nil if new) to next, that takes a role which it
// has not, goes beyond a limit, or takes the last admin of the root zone.
func checkChange(all []*pb.Principal, old, next *pb.Principal, taken bool) error {
	switch {
	case taken && len(next.GetRoles()) == len(old.GetRoles()):
		return fmt.Errorf("%w: %q has no such role; nexus-raft access list prints those that there are", nexusraft.ErrRefused,
			next.GetName())
	case len(next.GetRoles()) > maxPrincipalRoles:
		return fmt.Errorf("%w: %q would have %d roles, limit %d; give it one for all zones", nexusraft.ErrRefused,
			next.GetName(), len(next.GetRoles()), maxPrincipalRoles)
	case old == nil && len(all) >= maxPrincipals:
		return fmt.Errorf("%w: %d names have roles, which is the limit; revoke some", nexusraft.ErrRefused, len(all))
	}
	return checkAdmins(all, next)
}

// checkAdmins refuses to make the last admin of the root zone anything less.
func checkAdmins(all []*pb.Principal, next *pb.Principal) error {
	other := func(p *pb.Principal) bool { return p.GetName() != next.GetName() && GivesRoles(p) }
	if GivesRoles(next) || slices.ContainsFunc(all, other) {
		return nil
	}
	return fmt.Errorf("%w: %q is the last admin of the root zone, and nobody could give roles any more; make another "+
		"one first", nexusraft.ErrRefused, next.GetName())
}

// GivesRoles reports whether a principal may give roles: it is an admin of the root zone.
func GivesRoles(p *pb.Principal) bool {
	return RoleIn(p, nexusraft.RootZone) == pb.AccessRole_ACCESS_ROLE_ADMIN
}

// RoleIn returns the highest of a principal's roles that holds in a zone.
func RoleIn(p *pb.Principal, zone nexusraft.ZoneID) (role pb.AccessRole) {
	for _, r := range p.GetRoles() {
		if in := nexusraft.ZoneID(r.GetZone()); in == zone || in == EveryZone {
			role = max(role, r.GetRole())
		}
	}
	return role
}

// applyDeletePrincipal takes everything from a principal.
func applyDeletePrincipal(base nexusraft.ReadWriter, c *pb.DeletePrincipal) error {
	if err := pki.ValidateClient(c.GetName()); err != nil {
		return err
	}
	all, err := keptPrincipals(base)
	if err != nil {
		return err
	}
	if FindPrincipal(all, c.GetName()) == nil {
		return UnknownPrincipal(c.GetName())
	}
	if err := checkAdmins(all, &pb.Principal{Name: c.GetName()}); err != nil {
		return err
	}
	return deletePrincipal(base, c.GetName())
}

// UnknownPrincipal refuses a name without a role.
func UnknownPrincipal(name string) error {
	return fmt.Errorf("%w: %q has no role; give it one with: nexus-raft access grant", nexusraft.ErrRefused, name)
}

func deletePrincipal(base nexusraft.ReadWriter, name string) error {
	tokens, err := AccessTokens(base)
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

// FindPrincipal returns the principal of a name; nil if there is none.
func FindPrincipal(all []*pb.Principal, name string) *pb.Principal {
	for _, p := range all {
		if p.GetName() == name {
			return p
		}
	}
	return nil
}

// keptPrincipals is Principals; it also stores the founding one if none is stored.
func keptPrincipals(base nexusraft.ReadWriter) ([]*pb.Principal, error) {
	all, err := Principals(base)
	if err != nil || len(all) > 1 {
		return all, err
	}
	return all, setPrincipal(base, all[0])
}

// Principals returns all principals, by name; the founding one if none is stored. Of a replica that
// waits for its first snapshot, and so has no state yet, it returns ErrZoneNotFound.
func Principals(r nexusraft.Reader) ([]*pb.Principal, error) {
	all, err := decodeAll[pb.Principal](r, principalPrefix, principalEnd, principalRecord)
	if err != nil || len(all) > 0 {
		return all, err
	}
	// one of them is in the state from its founding, or first command, on
	for _, key := range [][]byte{authorityKey, timeKey} {
		if _, begun, err := r.Get(key); err != nil || begun {
			return []*pb.Principal{founding()}, err
		}
	}
	return nil, fmt.Errorf("%w: its state is still on the way to this node", nexusraft.ErrZoneNotFound)
}

const principalRecord = "the record of a principal"

func setPrincipal(base nexusraft.ReadWriter, p *pb.Principal) error {
	return set(base, principalKey(p.GetName()), p, principalRecord)
}
