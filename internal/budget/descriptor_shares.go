package budget

import "fmt"

// Places are how many connections of which kind may be open at a time.
type Places struct {
	Handshakes         int // that are not done yet
	Nodes              int // of nodes of the cluster
	Callers            int // of all others
	CallersOfPrincipal int // of one principal
	CallersOfAddress   int // of one address, where nobody is known: without TLS
	Anonymous          int // of anonymous callers, part of Callers
	AnonymousOfAddress int // of one address
}

// PlacesFor shares out connections: what is kept for nodes comes first, an eighth is for
// handshakes, and a quarter of the rest is the most that one principal, or all anonymous callers
// together, may have.
func PlacesFor(connections int) Places {
	p := Places{Handshakes: max(connections/8, 8), Nodes: min(ConnectionsOfNodes, connections/4)}
	p.Callers = connections - p.Handshakes - p.Nodes
	p.CallersOfPrincipal = p.Callers / 4
	p.CallersOfAddress = p.Callers - p.Callers/4
	p.Anonymous = min(p.Callers/4, 256)
	p.AnonymousOfAddress = p.Anonymous / 4
	return p
}

// Shares is how a process's descriptors are shared out.
type Shares struct {
	Connections int // accepted
	Tables      int // that the store keeps open; 0 without one
}

// Share shares out descriptors among the store and at most so many connections. It fails where they
// are too few for both.
func Share(descriptors, connections int, store bool) (Shares, error) {
	if descriptors < DescriptorsLeast {
		return Shares{}, fmt.Errorf("this process may open %d files and connections, and needs %d: raise the limit (ulimit "+
			"-n, LimitNOFILE)",
			descriptors, DescriptorsLeast)
	}
	s := Shares{}
	rest := descriptors - DescriptorsOfProgram - DescriptorsOfCalls
	if store {
		rest -= DescriptorsOfEngine
		s.Tables = min(max(rest/3, TablesOpenLeast), TablesOpen)
		rest -= s.Tables
	}
	s.Connections = min(rest, connections)
	return s, nil
}
