package pki

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

const (
	scheme = "nexus-raft"

	// MaxClientBytes is the longest name of a client.
	MaxClientBytes = 64
)

// Subject is what a certificate names: a node or a client of a cluster.
type Subject struct {
	Cluster nexusraft.ClusterID
	Node    nexusraft.NodeID // 0 for a client
	Client  string           // "" for a node; see ValidateClient
}

// URI returns the name that stands in the certificate, nexus-raft://CLUSTER/node/NODE or
// nexus-raft://CLUSTER/client/NAME.
func (s Subject) URI() *url.URL {
	path := "/node/" + s.Node.String()
	if s.Node == 0 {
		path = "/client/" + s.Client
	}
	return &url.URL{Scheme: scheme, Host: s.Cluster.String(), Path: path}
}

// String returns the URI.
func (s Subject) String() string { return s.URI().String() }

func (s Subject) validate() error {
	switch {
	case s.Cluster == 0:
		return fmt.Errorf("%w: a certificate for no cluster", nexusraft.ErrRefused)
	case s.Node != 0 && s.Client != "":
		return fmt.Errorf("%w: a certificate for node %v and client %q at once", nexusraft.ErrRefused, s.Node, s.Client)
	case s.Node == 0:
		return ValidateClient(s.Client)
	}
	return nil
}

// ValidateClient returns what is wrong with the name of a client: it has 1 to MaxClientBytes
// ASCII letters, digits, dots, hyphens and underscores.
func ValidateClient(name string) error {
	odd := strings.IndexFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(".-_", r)
	})
	if name == "" || len(name) > MaxClientBytes || odd >= 0 {
		return fmt.Errorf("%w: the name of a client has 1 to %d letters, digits, dots, hyphens and underscores",
			nexusraft.ErrRefused, MaxClientBytes)
	}
	return nil
}

// SubjectOf returns the subject that a certificate names; it does not verify the certificate. The
// error matches ErrRefused and says which URI the certificate needs.
func SubjectOf(cert *x509.Certificate) (Subject, error) {
	var found []*url.URL
	for _, u := range cert.URIs {
		if u.Scheme == scheme {
			found = append(found, u)
		}
	}
	if len(found) != 1 {
		return Subject{}, fmt.Errorf("%w: the certificate of serial number %x has %d URIs of the form %s; it needs exactly "+
			"one",
			nexusraft.ErrRefused, cert.SerialNumber, len(found), wanted)
	}
	s, ok := parseURI(found[0])
	if !ok {
		return Subject{}, fmt.Errorf("%w: the certificate of serial number %x has the URI %.200q; it needs one of the "+
			"form %s", nexusraft.ErrRefused, cert.SerialNumber, found[0].String(), wanted)
	}
	return s, nil
}

// roleScheme is that of a URI besides the subject's, in the certificate of a node. Earlier releases
// look at no scheme but their own.
const roleScheme = "nexus-raft-role"

func roleURI(role nexusraft.Role) *url.URL {
	if role != nexusraft.RoleWitness {
		role = nexusraft.RoleMember
	}
	return &url.URL{Scheme: roleScheme, Opaque: string(role)}
}

// RoleOf returns what a certificate says that its node is: RoleMember if it is a full one, a member
// or a learner, RoleWitness, or "" if it does not say, or not clearly. The certificate has not been
// verified by that.
func RoleOf(cert *x509.Certificate) (role nexusraft.Role) {
	for _, u := range cert.URIs {
		if u.Scheme != roleScheme {
			continue
		}
		said := nexusraft.Role(u.Opaque)
		if role != "" || said != nexusraft.RoleMember && said != nexusraft.RoleWitness {
			return ""
		}
		role = said
	}
	return role
}

const wanted = "nexus-raft://CLUSTER/node/NODE (identifiers as 16 hexadecimal digits) or " +
	"nexus-raft://CLUSTER/client/NAME"

// parseURI takes the one spelling that URI writes.
func parseURI(u *url.URL) (Subject, bool) {
	var s Subject
	kind, name, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	if s.Cluster.UnmarshalText([]byte(u.Host)) != nil {
		return Subject{}, false
	}
	switch kind {
	case "node":
		if s.Node.UnmarshalText([]byte(name)) != nil || s.Node == 0 {
			return Subject{}, false
		}
	case "client":
		s.Client = name
	}
	return s, s.validate() == nil && u.String() == s.String()
}
