package nexusraft_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// FuzzDecode reads any bytes as a zone's records and as an identifier's text.
func FuzzDecode(f *testing.F) {
	f.Add(nexusraft.Membership{Shape: nexusraft.DefaultShape}.
		With(nexusraft.Member{Replica: 1, Node: 2, Name: "n1", Address: "a:1", Role: nexusraft.RoleMember}).
		With(nexusraft.Member{Replica: 3, Node: 4, Role: nexusraft.RoleWitness}).Without(3).Encode())
	for _, s := range []string{`{"members":[{"replica":"0","node":"1"}]}`, "7", "00000000000000ff", "1", "-1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzzMembership(t, b)
		fuzzID(t, b)
	})
}

// Records are read as they were written, or refused as corrupt.
func fuzzMembership(t *testing.T, b []byte) {
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
}

// An identifier's text is read back as the same identifier.
func fuzzID(t *testing.T, text []byte) {
	var id, again nexusraft.NodeID
	if id.UnmarshalText(text) != nil {
		return
	}
	if err := again.UnmarshalText([]byte(id.String())); err != nil || again != id {
		t.Errorf("%q is %v, whose text is %v, %v", text, id, again, err)
	}
}
