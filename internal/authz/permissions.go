package authz

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
	"github.com/nexi-lab/nexus-raft/internal/authz/policy"
)

// CheckPermissions returns what is wrong with those of a program's own methods.
func CheckPermissions(more map[string]nexusraft.Permission) error {
	var errs []error
	for _, method := range slices.Sorted(maps.Keys(more)) {
		p := more[method]
		if _, err := nexusraft.ParseAccessRole(string(p.Role)); err != nil {
			errs = append(errs, fmt.Errorf("Config.Permissions of %s: %w", method, err))
		}
		if _, err := nexusraft.ParseAccessRole(string(p.Reading)); err != nil && p.Reading != nexusraft.AccessNone {
			errs = append(errs, fmt.Errorf("Config.Permissions of %s, Reading: %w", method, err))
		}
		if in := p.In; in != nexusraft.InRequestZone && in != nexusraft.InRootZone && in != nexusraft.InAnyZone {
			errs = append(errs, fmt.Errorf("Config.Permissions of %s: there is no scope %q", method, in))
		}
		if policy.IsFixed(method) {
			errs = append(errs, fmt.Errorf("Config.Permissions of %s: it is one of the node's own methods", method))
		}
	}
	return errors.Join(errs...)
}
