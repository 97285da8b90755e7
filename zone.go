package nexusraft

import (
	"fmt"
	"strings"
	"time"
)

// ZoneInfo is what the cluster keeps of a zone.
type ZoneInfo struct {
	ID      ZoneID    `json:"id"`
	Name    string    `json:"name"`
	Machine string    `json:"machine,omitempty"` // which state machine it runs, by the name that nodes have for it
	Created time.Time `json:"created,omitzero"`  // by the root zone's time
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
