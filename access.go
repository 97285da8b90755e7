package nexusraft

import (
	"encoding/hex"
	"fmt"
	"slices"
	"time"
)

// AccessRole is what a client may do in a zone; each one includes those before it.
type AccessRole string

// The roles.
const (
	AccessNone  AccessRole = ""
	AccessRead  AccessRole = "read"  // read keys, follow events, see the status
	AccessWrite AccessRole = "write" // also change keys and publish events
	AccessAdmin AccessRole = "admin" // also change membership, leader and retention; in the root zone, roles
)

var accessRoles = []AccessRole{AccessNone, AccessRead, AccessWrite, AccessAdmin}

// Includes reports whether a client with role r may do what asks for least. Nothing asks for
// AccessNone, and an unknown role includes none.
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

// EveryZone stands for all zones, where a role is given or taken.
const EveryZone ZoneID = 0

// ZoneRole is a role in a zone.
type ZoneRole struct {
	Zone ZoneID     `json:"zone,omitzero"` // or EveryZone
	Role AccessRole `json:"role"`
}

// Principal is a client with roles. It is known by its name, which its certificate or access token
// carries.
type Principal struct {
	Name   string        `json:"name"`
	Roles  []ZoneRole    `json:"roles"` // by zone; the highest that fits counts
	Tokens []AccessToken `json:"tokens,omitempty"`
}

// TokenID names a token. It is no secret.
type TokenID [8]byte

// String returns 16 hexadecimal digits.
func (id TokenID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText implements encoding.TextMarshaler.
func (id TokenID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// ParseTokenID is the inverse of TokenID.String; ErrRefused for anything else.
func ParseTokenID(text string) (id TokenID, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(id) {
		return id, fmt.Errorf("%w: the identifier of a token has %d hexadecimal digits", ErrRefused, 2*len(id))
	}
	return TokenID(b), nil
}

// AccessToken is what is known of a bearer token, but for its secret.
type AccessToken struct {
	ID      TokenID   `json:"id"`
	Expires time.Time `json:"expires"`
}

// JoinToken is what is known of a join token, but for its secret.
type JoinToken struct {
	ID       TokenID   `json:"id"`
	Role     Role      `json:"role,omitempty"` // in which nodes may join with it; "" for any
	Expires  time.Time `json:"expires"`
	UsesLeft int       `json:"uses_left"`
	Nodes    []NodeID  `json:"nodes,omitempty"` // that have joined with it
}

// Requester is the client for which a member passes a command on. The member has seen its
// certificate or its token; the zone's leader checks once more that it may do this.
type Requester struct {
	Name  string     // a client's, as its certificate or token carries it
	Token []byte     // a TokenID, if it has shown an access token; empty if it has shown a certificate
	Needs []ZoneRole // all of them, with zone 0 for any zone; at most MaxRequesterNeeds
}
