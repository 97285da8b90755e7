package availability

import (
	"fmt"
	"slices"

	nexusraft "github.com/nexi-lab/nexus-raft"
)

// way is whether one node can call another one.
type way int

const (
	unknownWay way = iota
	openWay
	cutWay
)

// wayOf says whether a can call b, as a itself has found, or else as b has: it hears a, or does
// not.
func wayOf(a, b Replica) way {
	if p, ok := a.peer(b.Node); ok {
		return wayIf(p.Reached)
	}
	if p, ok := b.peer(a.Node); ok {
		return wayIf(p.Heard)
	}
	return unknownWay
}

func wayIf(open bool) way {
	if open {
		return openWay
	}
	return cutWay
}

// peer returns what the row's node says of its link to another one.
func (r Replica) peer(node nexusraft.NodeID) (nexusraft.PeerStatus, bool) {
	if r.node == nil {
		return nexusraft.PeerStatus{}, false
	}
	i := slices.IndexFunc(r.node.Peers, func(p nexusraft.PeerStatus) bool { return p.Node == node })
	if i < 0 {
		return nexusraft.PeerStatus{}, false
	}
	return r.node.Peers[i], true
}

// apart reports whether two nodes are known to have no link that works both ways.
func apart(a, b Replica) bool { return wayOf(a, b) == cutWay || wayOf(b, a) == cutWay }

// together returns how many of some voters the one of them that could lead has a link with, itself
// counted; and, if that is not all of them, why.
func together(voters []Replica) (most int, why []string) {
	for _, a := range voters {
		if a.Role != nexusraft.RoleMember {
			continue
		}
		with, without := 1, []string(nil)
		for _, b := range voters {
			switch {
			case a.Replica == b.Replica:
			case apart(a, b):
				without = append(without, fmt.Sprintf("%s and %s have no link that works both ways", a.title(), b.title()))
			default:
				with++
			}
		}
		if with > most {
			most, why = with, without
		}
	}
	return most, why
}

// brokenLinks says of each link that does not work both ways what works, what does not, and what to
// check. A node that is dead has none.
func (v Zone) brokenLinks() (lines []string) {
	for i, a := range v.Replicas {
		for _, b := range v.Replicas[i+1:] {
			there, back := wayOf(a, b), wayOf(b, a)
			switch {
			case there == cutWay && back == openWay:
				lines = append(lines, oneWay(b, a))
			case there == openWay && back == cutWay:
				lines = append(lines, oneWay(a, b))
			case there == cutWay && back == cutWay && a.node != nil && b.node != nil:
				lines = append(lines, fmt.Sprintf("%s (%s) and %s (%s) can't call each other: check the network between them%s",
					a.title(), a.where(), b.title(), b.where(), callError(a, b)))
			}
		}
	}
	return lines
}

// oneWay is about a link by which only a can call b.
func oneWay(a, b Replica) string {
	return fmt.Sprintf("%s can call %s, but %s can't call %s: this link works one way only, which counts as cut; check "+
		"firewalls between them, and that %s is an address of %s that %s reaches%s",
		a.title(), b.title(), b.title(), a.title(), a.where(), a.title(), b.title(), callError(b, a))
}

// callError is why a can't call b, if a says so.
func callError(a, b Replica) string {
	p, _ := a.peer(b.Node)
	if p.Error == "" {
		return ""
	}
	return ": " + nexusraft.Printable(p.Error)
}
