package nexusraft

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Role says what a replica is in its zone.
type Role string

// The roles. A member holds data and votes, a learner holds data and does not vote, a
// witness votes and holds no data.
const (
	RoleMember  Role = "member"
	RoleLearner Role = "learner"
	RoleWitness Role = "witness"
)

// Full reports whether a replica of this role holds the zone's data.
func (r Role) Full() bool { return r == RoleMember || r == RoleLearner }

// Voter reports whether a replica of this role votes.
func (r Role) Voter() bool { return r == RoleMember || r == RoleWitness }

// Member is the record of one replica of a zone. It travels inside the conf change that
// admits the replica, and inside snapshots.
type Member struct {
	Replica ReplicaID `json:"replica"`
	Node    NodeID    `json:"node"`
	Name    string    `json:"name,omitempty"`
	Address string    `json:"address"` // as the node gave it when it was admitted
	Role    Role      `json:"role"`
}

// String names the member for people: the name, if it has one, and the node.
func (x Member) String() string {
	if x.Name == "" {
		return "node " + x.Node.String()
	}
	return fmt.Sprintf("%s (%v)", Printable(x.Name), x.Node)
}

// Shape is a zone's declared size: how many members and witnesses it is meant to have.
// A learner becomes a member by itself only while the shape has room.
type Shape struct {
	Members   int `json:"members"`
	Witnesses int `json:"witnesses"`
}

// String is the form for people: 3, or 2+1.
func (s Shape) String() string {
	if s.Witnesses == 0 {
		return strconv.Itoa(s.Members)
	}
	return fmt.Sprintf("%d+%d", s.Members, s.Witnesses)
}

// DefaultShape is two members and a witness.
var DefaultShape = Shape{Members: 2, Witnesses: 1}

// Tombstone is what stays of a removed replica, so that it never comes back.
type Tombstone struct {
	Replica ReplicaID `json:"replica"`
	Node    NodeID    `json:"node"`
}

// Membership is everything a zone knows about its replicas, besides Raft's own conf
// state. It is a value: change it with With and Without, which return a copy.
type Membership struct {
	Shape   Shape       `json:"shape"`
	Members []Member    `json:"members"` // ascending by replica
	Removed []Tombstone `json:"removed,omitempty"`
}

// Replica returns the record of a replica.
func (m Membership) Replica(id ReplicaID) (Member, bool) {
	i := slices.IndexFunc(m.Members, func(x Member) bool { return x.Replica == id })
	if i < 0 {
		return Member{}, false
	}
	return m.Members[i], true
}

// Node returns the record of a node's replica.
func (m Membership) Node(id NodeID) (Member, bool) {
	i := slices.IndexFunc(m.Members, func(x Member) bool { return x.Node == id })
	if i < 0 {
		return Member{}, false
	}
	return m.Members[i], true
}

// Count returns how many replicas have the role.
func (m Membership) Count(role Role) int {
	n := 0
	for _, x := range m.Members {
		if x.Role == role {
			n++
		}
	}
	return n
}

// IsRemoved reports whether the replica was removed; it never comes back (invariant I12).
func (m Membership) IsRemoved(id ReplicaID) bool {
	return slices.ContainsFunc(m.Removed, func(t Tombstone) bool { return t.Replica == id })
}

// IsRemovedNode reports whether the node once had a replica here that was removed.
func (m Membership) IsRemovedNode(id NodeID) bool {
	return slices.ContainsFunc(m.Removed, func(t Tombstone) bool { return t.Node == id })
}

// With returns a copy in which x is added, or replaces the record of the same replica.
func (m Membership) With(x Member) Membership {
	out := m.clone()
	out.Members = slices.DeleteFunc(out.Members, func(y Member) bool { return y.Replica == x.Replica })
	at := slices.IndexFunc(out.Members, func(y Member) bool { return y.Replica > x.Replica })
	if at < 0 {
		at = len(out.Members)
	}
	out.Members = slices.Insert(out.Members, at, x)
	return out
}

// Without returns a copy in which the replica is gone and has a tombstone.
func (m Membership) Without(id ReplicaID) Membership {
	out := m.clone()
	x, ok := m.Replica(id)
	if !ok {
		return out
	}
	out.Members = slices.DeleteFunc(out.Members, func(y Member) bool { return y.Replica == id })
	out.Removed = append(out.Removed, Tombstone{Replica: x.Replica, Node: x.Node})
	return out
}

func (m Membership) clone() Membership {
	m.Members = slices.Clone(m.Members)
	m.Removed = slices.Clone(m.Removed)
	return m
}

// Encode returns the stored form, JSON.
func (m Membership) Encode() []byte {
	b, err := json.Marshal(m)
	if err != nil {
		panic("nexusraft: membership does not marshal: " + err.Error()) // plain strings and integers always do
	}
	return b
}

// DecodeMembership reads what Encode wrote. It returns ErrCorrupt for anything else.
func DecodeMembership(b []byte) (Membership, error) {
	var m Membership
	if len(b) > MaxMembershipBytes {
		return m, fmt.Errorf("%w: membership of %d bytes, limit %d", ErrCorrupt, len(b), MaxMembershipBytes)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return Membership{}, fmt.Errorf("%w: membership: %w", ErrCorrupt, err)
	}
	if err := m.Validate(); err != nil {
		return Membership{}, fmt.Errorf("%w: membership: %w", ErrCorrupt, err)
	}
	return m, nil
}

// Validate returns what is wrong with the membership, all at once.
func (m Membership) Validate() error {
	var errs []error
	if len(m.Members) > MaxMembers {
		errs = append(errs, fmt.Errorf("%d replicas, limit %d", len(m.Members), MaxMembers))
	}
	nodes := make(map[NodeID]bool, len(m.Members))
	var last ReplicaID
	for _, x := range m.Members {
		errs = append(errs, x.Validate())
		if x.Replica <= last {
			errs = append(errs, fmt.Errorf("replica %v is out of order", x.Replica))
		}
		if nodes[x.Node] {
			errs = append(errs, fmt.Errorf("node %v has two replicas", x.Node))
		}
		last, nodes[x.Node] = x.Replica, true
	}
	return errors.Join(errs...)
}

// ValidateName returns what is wrong with a node's name. It may be empty.
func ValidateName(name string) error {
	switch {
	case len(name) > MaxNameBytes:
		return fmt.Errorf("name of %d bytes, limit %d", len(name), MaxNameBytes)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("name %q has characters that can't be printed", name)
	case strings.TrimSpace(name) != name:
		return fmt.Errorf("name %q begins or ends with a space", name)
	}
	return nil
}

// Validate returns what is wrong with the record, all at once.
func (x Member) Validate() error {
	var errs []error
	if x.Replica == 0 || x.Replica >= ^ReplicaID(0)-1 {
		errs = append(errs, fmt.Errorf("replica ID %v is reserved", x.Replica))
	}
	if x.Node == 0 {
		errs = append(errs, fmt.Errorf("replica %v has no node", x.Replica))
	}
	if x.Role != RoleMember && x.Role != RoleLearner && x.Role != RoleWitness {
		errs = append(errs, fmt.Errorf("replica %v has unknown role %q", x.Replica, x.Role))
	}
	if len(x.Name) > MaxNameBytes || len(x.Address) > MaxAddressBytes {
		errs = append(errs, fmt.Errorf("replica %v has a name over %d or an address over %d bytes", x.Replica, MaxNameBytes,
			MaxAddressBytes))
	}
	return errors.Join(errs...)
}
