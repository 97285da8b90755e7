package pki

import (
	"net/url"
	"testing"
	"time"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

func TestRoleOf(t *testing.T) {
	now := time.Now()
	ca, err := NewCA(0xc1, now)
	if err != nil {
		t.Fatal(err)
	}
	s := Subject{Cluster: 0xc1, Node: 7}
	signed := func(uris ...*url.URL) nexusraft.Role {
		t.Helper()
		request, _, err := NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		chain, err := issue(ca, request, s, append(uris, s.URI()), now, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := Certificates(chain)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := SubjectOf(certs[0]); err != nil || got != s {
			t.Errorf("with %v: it names %v, %v; want %v", uris, got, err, s)
		}
		return RoleOf(certs[0])
	}
	member, witness := roleURI(nexusraft.RoleMember), roleURI(nexusraft.RoleWitness)
	for name, tt := range map[string]struct {
		uris []*url.URL
		want nexusraft.Role
	}{
		"none":      {nil, ""},
		"a member":  {[]*url.URL{member}, nexusraft.RoleMember},
		"a learner": {[]*url.URL{roleURI(nexusraft.RoleLearner)}, nexusraft.RoleMember},
		"a witness": {[]*url.URL{witness}, nexusraft.RoleWitness},
		"both":      {[]*url.URL{member, witness}, ""},
		"unknown":   {[]*url.URL{{Scheme: roleScheme, Opaque: "admin"}}, ""},
		"another's": {[]*url.URL{{Scheme: "https", Host: "example.com", Path: "/member"}}, ""},
	} {
		if got := signed(tt.uris...); got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}
