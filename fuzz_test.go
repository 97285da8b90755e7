package nexusraft_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// Records are read as they were written, or refused as corrupt.
func FuzzDecodeMembership(f *testing.F) {
	f.Add(nexusraft.Membership{Shape: nexusraft.DefaultShape}.
		With(nexusraft.Member{Replica: 1, Node: 2, Name: "n1", Address: "a:1", Role: nexusraft.RoleMember}).
		With(nexusraft.Member{Replica: 3, Node: 4, Role: nexusraft.RoleWitness}).Without(3).Encode())
	f.Add([]byte(`{"members":[{"replica":"0","node":"1"}]}`))
	f.Add([]byte("7"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := nexusraft.DecodeMembership(b)
		if err != nil {
			if !errors.Is(err, nexusraft.ErrCorrupt) {
				t.Errorf("%q: got %v, want ErrCorrupt", b, err)
			}
			return
		}
		again, err := nexusraft.DecodeMembership(m.Encode())
		if err != nil && len(m.Encode()) <= nexusraft.MaxMembershipBytes {
			t.Fatalf("%q decodes, and what that encodes to does not: %v", b, err)
		}
		if d := cmp.Diff(m, again, cmpopts.EquateEmpty()); err == nil && d != "" {
			t.Errorf("%q (-first +second):\n%s", b, d)
		}
	})
}

// An identifier's text is read back as the same identifier.
func FuzzIDText(f *testing.F) {
	f.Add("00000000000000ff")
	f.Add("1")
	f.Add("-1")
	f.Fuzz(func(t *testing.T, text string) {
		var id, again nexusraft.NodeID
		if id.UnmarshalText([]byte(text)) != nil {
			return
		}
		if err := again.UnmarshalText([]byte(id.String())); err != nil || again != id {
			t.Errorf("%q is %v, whose text is %v, %v", text, id, again, err)
		}
	})
}
