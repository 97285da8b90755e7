package nexusraft

import (
	"fmt"
	"slices"
)

// AccessRole is what a client may do in a zone; each one includes those before it.
type AccessRole string

// The roles.
const (
	AccessNone  AccessRole = ""
	AccessRead  AccessRole = "read"  // read keys, follow events, see the status
	AccessWrite AccessRole = "write" // also change keys and publish events
	AccessAdmin AccessRole = "admin" // also change membership, leader and retention; in the root zone, who may do what
)

var accessRoles = []AccessRole{AccessNone, AccessRead, AccessWrite, AccessAdmin}

// Includes reports whether a client with role r may do what asks for least. Nothing asks for AccessNone, and an
// unknown role includes none.
func (r AccessRole) Includes(least AccessRole) bool {
	have, need := slices.Index(accessRoles, r), slices.Index(accessRoles, least)
	return need > 0 && have >= need
}

// ParseAccessRole returns the role of that name; ErrRefused if there is none.
func ParseAccessRole(name string) (AccessRole, error) {
	if r := AccessRole(name); r != AccessNone && slices.Contains(accessRoles, r) {
		return r, nil
	}
	return AccessNone, fmt.Errorf("%w: there is no role %.40q; there are read, write and admin", ErrRefused, name)
}
