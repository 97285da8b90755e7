package nexusraft_test

import (
	"errors"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestAccessRoleIncludes(t *testing.T) {
	const unknown = nexusraft.AccessRole("owner")
	roles := []nexusraft.AccessRole{
		nexusraft.AccessNone, nexusraft.AccessRead, nexusraft.AccessWrite,
		nexusraft.AccessAdmin,
	}
	for i, have := range roles {
		for j, need := range roles {
			if got, want := have.Includes(need), j > 0 && i >= j; got != want {
				t.Errorf("%q includes %q: got %t, want %t", have, need, got, want)
			}
		}
		if have.Includes(unknown) || unknown.Includes(have) {
			t.Errorf("%q and an unknown role include one another", have)
		}
	}
}

func TestParseAccessRole(t *testing.T) {
	for _, want := range []nexusraft.AccessRole{nexusraft.AccessRead, nexusraft.AccessWrite, nexusraft.AccessAdmin} {
		if got, err := nexusraft.ParseAccessRole(string(want)); got != want || err != nil {
			t.Errorf("%q: got %q, %v", want, got, err)
		}
	}
	for _, name := range []string{"", "Read", "owner"} {
		if got, err := nexusraft.ParseAccessRole(name); got != nexusraft.AccessNone || !errors.Is(err, nexusraft.ErrRefused) {
			t.Errorf("%q: got %q, %v, want a refusal", name, got, err)
		}
	}
}
