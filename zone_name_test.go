package nexusraft_test

import (
	"errors"
	"strings"
	"testing"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// A name is one word that nobody mistakes: for a path, for another name, for an ID.
func TestZoneNames(t *testing.T) {
	for _, good := range []string{"orders", "orders-eu", "a.b_c-9", "xyz", "face-1", strings.Repeat("z", 64)} {
		if err := nexusraft.ValidateZoneName(good); err != nil {
			t.Errorf("%q: got %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "root", "all", "1", "77", "face", "e5", "Orders", "9lives", "-x", ".", "..", "a/b", "a b", "a\n", "a\x00",
		"a\x1b[2J", "оrders", "ordérs", "\xff", strings.Repeat("z", 65), strings.Repeat("z", 1<<10),
	} {
		if err := nexusraft.ValidateZoneName(bad); !errors.Is(err, nexusraft.ErrRefused) || len(err.Error()) > 300 {
			t.Errorf("%q: got %v, want it refused in a line", bad, err)
		}
	}
}
