package nexusraft

// AuthorityPhase is how far the replacement of a cluster's certificate authority is, and the step
// that leads there.
type AuthorityPhase string

// The phases, in the order of the steps; the last one is that in which no replacement is under way.
const (
	// a new one is believed, too, and signs for clients; the old one signs for nodes
	AuthorityBelieved AuthorityPhase = "believed"
	AuthoritySigns    AuthorityPhase = "signs" // the new one signs for all; the old one is still believed
	AuthorityAlone    AuthorityPhase = "alone" // one is believed, and signs
)

// Next returns the step that may follow; "" after an unknown phase.
func (p AuthorityPhase) Next() AuthorityPhase {
	switch p {
	case AuthorityAlone:
		return AuthorityBelieved
	case AuthorityBelieved:
		return AuthoritySigns
	case AuthoritySigns:
		return AuthorityAlone
	}
	return ""
}

// Authorities are the authorities that a cluster believes, in which phase of a rotation it is, and
// how far each node is.
type Authorities struct {
	Phase        AuthorityPhase
	Certificates []byte // PEM, those that are believed, that of the one that signs for nodes first
	Nodes        []AuthorityNode
}

// AuthorityNode is how far a node is.
type AuthorityNode struct {
	Node     NodeID `json:"node"`
	Name     string `json:"name,omitempty"`
	Role     Role   `json:"role"`
	Believes bool   `json:"believes"`          // it believes what is to be believed, and nothing else
	Shows    bool   `json:"shows"`             // its certificate is of the authority that signs for nodes
	Problem  string `json:"problem,omitempty"` // why that is not known; "" if it is
}

// Lacks says why a node is not ready for a step; "" if it is.
func (n AuthorityNode) Lacks(to AuthorityPhase) string {
	switch {
	case n.Problem != "":
		return n.Problem
	case !n.Believes && to == AuthorityBelieved:
		return "it does not know yet how the last rotation has ended"
	case !n.Believes:
		return "it does not believe the new authority yet"
	case !n.Shows && to == AuthorityAlone:
		return "it still shows a certificate of the old authority"
	}
	return ""
}
