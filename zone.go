package nexusraft

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// ZoneInfo is what the cluster keeps of a zone.
type ZoneInfo struct {
	ID      ZoneID    `json:"id"`
	Name    string    `json:"name"`
	Machine string    `json:"machine,omitempty"` // which state machine it runs, by the name that nodes have for it
	Created time.Time `json:"created,omitzero"`  // by the root zone's time

	ZonePlan
	Placement []Member `json:"placement,omitempty"` // where the root zone has placed it, by node; none without a shape
	Leaving   []NodeID `json:"leaving,omitempty"`   // nodes that it is leaving
	Moving    bool     `json:"moving,omitempty"`    // it is under way to the placement
	Off       []NodeID `json:"off,omitempty"`       // nodes that it stays off until its plan is asked for again
}

// ZonePlan says what a zone is meant to be. The zero value is a replica on each node of the cluster, those
// that join later too, led by any.
type ZonePlan struct {
	Shape     Shape  `json:"shape,omitzero"`     // how many of the nodes; see Validate
	Spare     bool   `json:"spare,omitempty"`    // whether another node takes the place of one that is lost
	Preferred NodeID `json:"preferred,omitzero"` // which node is to lead while it can; 0: any
}

// zoneShapes are those that a zone may have: with each of them a majority of the voters holds the data, and
// a witness stands where it makes an even number odd.
var zoneShapes = []Shape{{1, 0}, {2, 1}, {3, 0}, {4, 1}, {5, 0}}

// Validate returns ErrRefused unless the shape is one that a zone may have: 1, 2+1, 3, 4+1 or 5, or the zero value.
func (p ZonePlan) Validate() error {
	switch s := p.Shape; {
	case s == Shape{} && p.Spare:
		return fmt.Errorf("%w: a zone with a replica on each node has no spare", ErrRefused)
	case s == Shape{} || slices.Contains(zoneShapes, s):
		return nil
	case s.Witnesses > 0 && s.Witnesses >= s.Members:
		return fmt.Errorf("%w: shape %v: half of the voters or more would be witnesses, which hold no data; a zone has 1, "+
			"2+1, 3, 4+1 or 5 replicas", ErrRefused, s)
	default:
		return fmt.Errorf("%w: shape %v: a zone has 1, 2+1, 3, 4+1 or 5 replicas, members and witnesses", ErrRefused, s)
	}
}

// ZoneReshape asks for another placement of a zone.
type ZoneReshape struct {
	ZonePlan        // what it is to be; not used with Off
	Off      NodeID // keep the plan and leave this node, whose place stays empty if no other node is there to take it
	With     NodeID // with Off: this node takes the place, and no other; 0: any
	Instead  bool   // give up the change that is under way for this one; it is refused otherwise
}

// Validate returns ErrRefused for a plan that no zone can have, and for a node that is to take no place, or its own.
func (r ZoneReshape) Validate() error {
	switch {
	case r.Off != 0 && r.Off == r.With:
		return fmt.Errorf("%w: node %v can't take its own place", ErrRefused, r.With)
	case r.Off != 0:
		return nil
	case r.With != 0:
		return fmt.Errorf("%w: node %v is to take a place, and it is not said whose", ErrRefused, r.With)
	}
	return r.ZonePlan.Validate()
}

// The names that no zone is given.
const (
	RootZoneName  = "root" // of the zone that every cluster has from its founding on
	EveryZoneName = "all"  // for EveryZone, where command lines give a role
)

// ValidateZoneName returns ErrRefused unless a name is one that a zone may be given: a lower-case
// letter, then lower-case letters, digits, dots, dashes and underscores, MaxZoneNameBytes at most, and
// nothing that could be a zone's ID.
func ValidateZoneName(name string) error {
	var id ZoneID
	switch err := validateIdentifier(name, MaxZoneNameBytes); {
	case err != nil:
		return fmt.Errorf("%w: the zone's name %w", ErrRefused, err)
	case name == RootZoneName:
		return fmt.Errorf("%w: the name %q is the root zone's", ErrRefused, name)
	case name == EveryZoneName:
		return fmt.Errorf("%w: the name %q stands for every zone, where a role is given", ErrRefused, name)
	case id.UnmarshalText([]byte(name)) == nil:
		return fmt.Errorf("%w: the name %q could be a zone's ID, which is hexadecimal; give it another letter, or a dash",
			ErrRefused, name)
	}
	return nil
}

// ValidateMachineName returns ErrRefused unless a name is one that a state machine may be given:
// letters and so on as ValidateZoneName has them.
func ValidateMachineName(name string) error {
	if err := validateIdentifier(name, MaxMachineNameBytes); err != nil {
		return fmt.Errorf("%w: the state machine's name %w", ErrRefused, err)
	}
	return nil
}

// validateIdentifier returns what is wrong with a name, to be read after the word "name".
func validateIdentifier(name string, most int) error {
	const first, rest = "abcdefghijklmnopqrstuvwxyz", "abcdefghijklmnopqrstuvwxyz0123456789.-_"
	switch {
	case name == "":
		return fmt.Errorf("is empty")
	case len(name) > most:
		return fmt.Errorf("has %d bytes, limit %d", len(name), most)
	case !strings.Contains(first, name[:1]) || strings.Trim(name, rest) != "":
		return fmt.Errorf("%q is not a lower-case letter followed by lower-case letters, digits, dots, dashes and "+
			"underscores", name)
	}
	return nil
}
